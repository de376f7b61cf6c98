//! `bonafide config check`: everything that is wrong with a configuration, before the daemon is asked to take it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;
use serde::Serialize;

use crate::agent::config::Config;
use crate::agent::config::accounts::AccountNames;
use crate::agent::config::accounts::warnings;
use crate::agent::config::load_for;
use crate::agent::config::problem::Findings;
use crate::agent::config::problem::Problem;
use crate::agent::config::sections::doors::Listen;
use crate::agent::config::warnings::of_paths;
use crate::agent::last_good::data_dir_of;
use crate::cli::operator::client::runtime;
use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::screen::OutputArguments;
use crate::cli::screen::Screen;
use crate::cli::words::count;
use crate::durable::DataDir;
use crate::endpoints::transport::listener;
use crate::federation;
use crate::names::SystemNames;
use crate::names::look_up;
use crate::trusted_path::TrustedUser;

/// Look at the configuration
#[derive(Debug, clap::Args)]
pub struct ConfigArguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(CheckArguments),
}

/// Print every problem at once, with its place and what to write
#[derive(Debug, clap::Args)]
struct CheckArguments {
    /// The configuration file
    #[arg(default_value = "/etc/bonafide/bonafide.toml")]
    file: PathBuf,
    #[command(flatten)]
    output: OutputArguments,
}

/// The answer of `config check -o json`.
#[derive(Serialize)]
struct Checked<'a> {
    file: &'a Path,
    accepted: bool,
    entries: usize,
    #[serde(flatten)]
    findings: Findings,
}

pub(in crate::cli) fn run(arguments: &ConfigArguments, screen: &mut Screen) -> Result<Exit, Failure> {
    let Command::Check(CheckArguments { file, output }) = &arguments.command;
    let user = daemons_user(file);
    let checked = match load_for(file, user) {
        Ok((config, accepted)) => {
            let data_dir = DataDir::check(&config.authority.data_dir, user.uid).err().map(|why| why.to_string());
            let refused = data_dir.into_iter().chain(unbindable_sockets(&config, user));
            let problems = refused.map(|why| Problem::of_file(file, why)).collect::<Vec<_>>();
            let (entries, mut warnings) = (config.entries.len(), config.warnings);
            warnings.extend(name_warnings(&config.names)?);
            warnings.extend(config.federation.iter().flat_map(|settings| bundle_warnings(settings, user)));
            warnings.extend(of_paths(&accepted.sources));
            warnings.sort();
            Checked { file, accepted: problems.is_empty(), entries, findings: Findings { problems, warnings, more: 0 } }
        }
        Err(refused) => {
            let mut findings = refused.findings;
            findings.warnings.extend(of_paths(&refused.sources));
            findings.warnings.sort();
            Checked { file, accepted: false, entries: 0, findings }
        }
    };
    screen.answer(*output, &checked, Checked::text);
    Ok(if checked.accepted { Exit::Fine } else { Exit::Usage })
}

/// The user that the daemon runs as: the owner of its data directory, which has to be that user, else whoever asks.
fn daemons_user(main: &Path) -> TrustedUser {
    let of_data_dir = std::fs::metadata(data_dir_of(main)).ok().filter(Metadata::is_dir);
    of_data_dir.map_or_else(TrustedUser::own, |found| TrustedUser { uid: found.uid(), gid: found.gid() })
}

/// Why the daemon would not bind its sockets.
fn unbindable_sockets(config: &Config, user: TrustedUser) -> impl Iterator<Item = String> {
    let metrics = match &config.metrics {
        Some(Listen::Unix(path)) => Some(path),
        _ => None,
    };
    let sockets = [Some(&config.workload_api.socket), Some(&config.admin.socket), metrics];
    sockets.into_iter().flatten().filter_map(move |path| Some(listener::check(path, user).err()?.to_string()))
}

/// The users and groups that this machine does not have: the daemon starts all the same.
fn name_warnings(names: &AccountNames) -> Result<Vec<Problem>, Failure> {
    let wanted = names.names();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let known = runtime()?.block_on(look_up(Arc::new(SystemNames::of_own_root()), &wanted));
    Ok(warnings(names, &known))
}

/// What is wrong with a bundle file. The daemon starts all the same, degraded, and serves everyone else.
fn bundle_warnings(settings: &federation::FederationSettings, user: TrustedUser) -> Vec<Problem> {
    let name = &settings.trust_domain;
    let texts = match federation::read_bundle_file(settings, user) {
        Ok((_, ignored)) => {
            ignored.iter().map(|ignored| format!("of the bundle of {name} is ignored: {ignored}")).collect()
        }
        Err(why) => vec![format!("gives no bundle of {name}, so no SVID of it verifies here: {why}")],
    };
    texts.into_iter().map(|text| Problem::of_file(&settings.bundle_file, text)).collect()
}

impl Checked<'_> {
    fn text(&self) -> String {
        let warnings = self.findings.warnings.iter().map(|warning| format!("{}\n", warning.warning()));
        let mut text: String = warnings.collect();
        if self.accepted {
            let entries = count(self.entries as u64, "entry", "entries");
            text.push_str(&format!("{}: fine, {entries}\n", self.file.display()));
            return text;
        }
        let problems = self.findings.problems.len() + self.findings.more;
        let problems = count(problems as u64, "problem", "problems");
        let file = self.file.display();
        text.push_str(&format!("{}\n{file}: {problems}; the daemon would not take it\n", self.findings));
        text
    }
}
