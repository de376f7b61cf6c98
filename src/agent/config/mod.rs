//! The configuration: one reader, which `run`, `reload` and `config check` share. [`files`] reads text; everything else is a
//! pure function from text to meaning that finds every problem at once. Nothing else in the crate reads the configuration,
//! nothing here reads the environment, and nothing here asks who a user or group is: the names that entries use have an
//! age, and belong to [`crate::names`].

pub mod accounts;
mod duration;
pub(in crate::agent) mod file_entries;
pub mod files;
pub mod problem;
mod reader;
pub mod sections;
mod syntax;
pub mod warnings;
pub mod workload;

use core::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;
use toml::de::DeTable;

use crate::agent::config::accounts::AccountNames;
use crate::agent::config::files::Sources;
use crate::agent::config::problem::File;
use crate::agent::config::problem::Findings;
use crate::agent::config::problem::Problem;
use crate::agent::config::problem::shown;
use crate::agent::config::reader::Reader;
use crate::agent::config::reader::Section;
use crate::agent::config::sections::attest::Attest;
use crate::agent::config::sections::authority::AuthoritySection;
use crate::agent::config::sections::doors::Admin;
use crate::agent::config::sections::doors::Listen;
use crate::agent::config::sections::doors::WorkloadApi;
use crate::agent::config::sections::limits::LimitsSection;
use crate::agent::config::sections::log::Log;
use crate::agent::config::workload::EntryContext;
use crate::evidence::AccountName;
use crate::federation;
use crate::identity::TrustDomain;
use crate::policy::Rules;
use crate::registration::Entry;
use crate::registration::entry::EntryOrder;
use crate::trusted_path::TrustedUser;

/// The most entries of one node.
pub const MAX_ENTRIES: usize = 100_000;

/// A complete and valid configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The trust domain that this node issues for.
    pub trust_domain: TrustDomain,
    /// `[workload_api]`
    pub workload_api: WorkloadApi,
    /// `[admin]`
    pub admin: Admin,
    /// `[authority]`
    pub authority: AuthoritySection,
    /// `[attest]`
    pub attest: Attest,
    /// `[limits]`
    pub limits: LimitsSection,
    /// `[health]`; off where absent.
    pub health: Option<SocketAddr>,
    /// `[metrics]`; off where absent.
    pub metrics: Option<Listen>,
    /// `[log]`
    pub log: Log,
    /// `[[federation]]`, in order.
    pub federation: Vec<federation::FederationSettings>,
    /// `[[workload]]`, in order, with the defaults of `[svid]` filled in.
    pub entries: Vec<Arc<Entry>>,
    /// The names of users and groups that are looked up.
    pub names: AccountNames,
    /// Problems that do not refuse the configuration.
    pub warnings: Vec<Problem>,
}

/// An accepted configuration: enough to accept it again while the files are bad. It keeps no accounts: who a name is has
/// to be asked again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// All files, as they were read.
    pub sources: Sources,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{findings}")]
pub struct ConfigRefused {
    /// Every problem at once.
    pub findings: Findings,
    /// The files that could be read, in which the problems can be fixed.
    pub sources: Sources,
}

/// Reads the configuration at `main` with everything that it includes. Blocks for as long as the disk takes: never on the
/// request path.
///
/// # Errors
/// [`ConfigRefused`]
pub fn load(main: &Path) -> Result<(Config, Accepted), ConfigRefused> {
    load_for(main, TrustedUser::own())
}

/// As [`load`], for a daemon that runs as `user`.
///
/// # Errors
/// [`ConfigRefused`]
pub fn load_for(main: &Path, user: TrustedUser) -> Result<(Config, Accepted), ConfigRefused> {
    let (sources, mut findings) = files::read(main, user);
    match Config::from_sources(&sources) {
        Ok(config) if findings.problems.is_empty() => return Ok((config, Accepted { sources })),
        Ok(config) => findings.warnings.extend(config.warnings),
        Err(found) => findings.merge(found),
    }
    Err(ConfigRefused { findings, sources })
}

impl Accepted {
    /// What was accepted, read again.
    ///
    /// # Errors
    /// [`Findings`] when this version does not accept it any more.
    pub fn config(&self) -> Result<Config, Findings> {
        Config::from_sources(&self.sources)
    }
}

impl Config {
    /// What the text of all files means. Pure: the same text always means the same.
    ///
    /// # Errors
    /// [`Findings`]: every problem at once.
    pub fn from_sources(sources: &Sources) -> Result<Self, Findings> {
        let mut findings = Findings::default();
        let files: Vec<_> = sources.files.iter().map(|source| File::new(&source.file, &source.text)).collect();
        let trees: Vec<_> = files.iter().map(|file| syntax::parse(file, &mut findings)).collect();
        let mut documents = files.iter().zip(&trees).map(|(file, tree)| Document { file, tree: tree.as_ref() });
        let Some(main) = documents.next() else { return Err(findings) };
        let included: Vec<_> = documents.collect();
        let config = read_all(main, &included, &mut findings);
        match config {
            Some(mut config) if findings.problems.is_empty() => {
                warnings::overlap::warn_of(&config.entries, &mut findings);
                findings.warnings.sort();
                config.warnings = findings.warnings;
                Ok(config)
            }
            _ => {
                findings.sort();
                Err(findings)
            }
        }
    }

    /// What holds for all entries together.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules { minimum: self.attest.minimum, wait: self.attest.wait }
    }

    /// The group that may use the admin socket.
    #[must_use]
    pub fn admin_group(&self) -> Option<AccountName> {
        self.admin.group.clone().map(AccountName::Group)
    }

    /// The keys in which `new` differs so that only a restart can apply it.
    #[must_use]
    pub fn restart_needed(&self, new: &Self) -> Vec<&'static str> {
        let changed = [
            ("trust_domain", self.trust_domain != new.trust_domain),
            ("workload_api", self.workload_api != new.workload_api),
            ("admin", self.admin != new.admin),
            ("authority", self.authority.data_dir != new.authority.data_dir),
            ("health", self.health != new.health),
            ("metrics", self.metrics != new.metrics),
        ];
        changed.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }
}

/// One file and what could be parsed of it.
#[derive(Clone, Copy)]
struct Document<'a> {
    file: &'a File<'a>,
    tree: Option<&'a DeTable<'a>>,
}

/// The tables of all files that every file may have.
#[derive(Default)]
struct Lists<'a> {
    federation: Vec<Section<'a>>,
    workload: Vec<Section<'a>>,
}

impl<'a> Document<'a> {
    fn top(self) -> Option<Section<'a>> {
        Some(Section { file: self.file, table: self.tree?, name: "", at: 0 })
    }
}

impl<'a> Lists<'a> {
    fn take(&mut self, top: &mut Reader<'a, '_>) {
        self.federation.extend(top.sections("federation", "[[federation]]"));
        self.workload.extend(top.sections("workload", "[[workload]]"));
    }
}

fn read_all(main: Document<'_>, included: &[Document<'_>], findings: &mut Findings) -> Option<Config> {
    let mut names = AccountNames::default();
    let mut top = Reader::new(Some(main.top()?), findings);
    if top.place_of_key("trust_domain").is_none() {
        top.problem(0, "there is no trust_domain; add one at the top, for example trust_domain = \"example.org\"");
    }
    let trust_domain = top.parsed::<TrustDomain>("trust_domain").map(|(trust_domain, _)| trust_domain);
    for pattern in top.strings("include").unwrap_or_default() {
        if let Err(advice) = files::split_pattern(pattern.value) {
            top.problem(pattern.span.start, format!("include has {}; {advice}", shown(pattern.value)));
        }
    }
    let workload_api = sections::doors::workload_api(&mut top);
    let admin = sections::doors::admin(&mut top, &mut names);
    let authority = sections::authority::read(&mut top);
    let defaults = sections::svid::read(&mut top, authority.ca_ttl);
    let attest = sections::attest::read(&mut top);
    let limits = sections::limits::read(&mut top);
    let health = sections::doors::health(&mut top);
    let metrics = sections::doors::metrics(&mut top);
    let log = sections::log::read(&mut top);
    top.not_built_yet("node", "cloud evidence, [node.*],");
    top.not_built_yet("experimental", "[experimental]");
    let mut lists = Lists::default();
    lists.take(&mut top);
    check_sockets(&mut top, &workload_api, &admin, metrics.as_ref());
    top.finish();
    included.iter().filter_map(|document| document.top()).for_each(|top| read_included(top, &mut lists, findings));

    let federation = read_federation(&lists.federation, trust_domain.as_ref(), findings);
    let foreign = federation.iter().map(|federation| federation.trust_domain.clone()).collect();
    let ca_ttl = authority.ca_ttl;
    let around = EntryContext { trust_domain: trust_domain.as_ref(), foreign: &foreign, ca_ttl, defaults };
    let entries = read_workloads(&lists.workload, &around, &mut names, findings);
    Some(Config {
        trust_domain: trust_domain?,
        workload_api,
        admin,
        authority,
        attest,
        limits,
        health,
        metrics,
        log,
        federation,
        entries,
        names,
        warnings: Vec::new(),
    })
}

fn check_sockets(top: &mut Reader<'_, '_>, workload_api: &WorkloadApi, admin: &Admin, metrics: Option<&Listen>) {
    let metrics = match metrics {
        Some(Listen::Unix(path)) => Some(path),
        _ => None,
    };
    if workload_api.socket == admin.socket
        || metrics.is_some_and(|path| [&workload_api.socket, &admin.socket].contains(&path))
    {
        top.problem(0, "two doors have the same socket; write a name of its own for each");
    } else if workload_api.socket.parent() == admin.socket.parent() {
        // SECURITY: containers mount the directory of the workload socket.
        let at = top.place_of_key("admin").unwrap_or_default();
        top.warn(at, "the admin socket is in the directory of the workload socket; give it a directory of its own");
    }
}

/// An included file adds to the lists, and to nothing else.
fn read_included<'a>(section: Section<'a>, lists: &mut Lists<'a>, findings: &mut Findings) {
    const MAIN_FILE_ONLY: [&str; 13] = [
        "trust_domain",
        "include",
        "workload_api",
        "admin",
        "authority",
        "svid",
        "attest",
        "limits",
        "health",
        "metrics",
        "log",
        "node",
        "experimental",
    ];
    let mut top = Reader::new(Some(section), findings);
    lists.take(&mut top);
    for key in MAIN_FILE_ONLY {
        top.belongs_elsewhere(key, "the main file");
    }
    top.finish();
}

fn read_federation(
    sections: &[Section<'_>],
    own: Option<&TrustDomain>,
    findings: &mut Findings,
) -> Vec<federation::FederationSettings> {
    let mut all: Vec<federation::FederationSettings> = Vec::new();
    for section in sections {
        let Some(settings) = sections::federation::read(*section, own, findings) else { continue };
        if all.iter().any(|earlier| earlier.trust_domain == settings.trust_domain) {
            let text = format!("{} has a [[federation]] already; keep one of them", settings.trust_domain);
            findings.problem(section.file.problem(section.at, text));
        } else {
            all.push(settings);
        }
    }
    all
}

fn read_workloads(
    sections: &[Section<'_>],
    around: &EntryContext<'_>,
    names: &mut AccountNames,
    findings: &mut Findings,
) -> Vec<Arc<Entry>> {
    if let Some(section) = sections.get(MAX_ENTRIES) {
        let text = format!("{} entries; at most {MAX_ENTRIES} are allowed", sections.len());
        findings.problem(section.file.problem(section.at, text));
        return Vec::new();
    }
    let read = |(order, section): (u32, &Section<'_>)| {
        workload::read(Reader::new(Some(*section), findings), around, EntryOrder::in_files(order), names)
    };
    (0..).zip(sections).filter_map(read).map(Arc::new).collect()
}
