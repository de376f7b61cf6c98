//! A whole agent in one thread: a model of a kernel below it, in-memory pipes before it, a paused clock around it, and
//! every random byte from a seed. Built by the function that builds the daemon.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

#[path = "node/admin.rs"]
mod admin;
#[path = "node/authority.rs"]
mod authority;
#[path = "node/files.rs"]
mod files;
#[path = "node/instruments.rs"]
mod instruments;
#[path = "node/names.rs"]
mod names;
#[path = "node/workloads.rs"]
mod workloads;

use std::fmt::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::SystemTime;

use bonafide::agent::config;
use bonafide::agent::config::Accepted;
use bonafide::agent::config::Config;
use bonafide::agent::config::files::SourceFile;
use bonafide::agent::config::files::Sources;
use bonafide::agent::last_good;
use bonafide::agent::node::Node;
use bonafide::agent::node::NodeSetup;
use bonafide::agent::reload::ActiveConfig;
use bonafide::agent::reload::ConfigFiles;
use bonafide::agent::reload::ReloadTrigger;
use bonafide::agent::reload::Reloader;
use bonafide::attestation::Attestor;
use bonafide::attestation::source::EvidenceSource;
use bonafide::audit::LogSettings;
use bonafide::authority::Authority;
use bonafide::authority::KeyKind;
use bonafide::authority::NoAuthority;
use bonafide::authority::NotRotated;
use bonafide::authority::RotationBegun;
use bonafide::authority::RotationOrder;
use bonafide::durable::DataDir;
use bonafide::endpoints::admin::reports::ReloadReport;
use bonafide::endpoints::admin::reports::ReloadState;
use bonafide::endpoints::workload_socket::WorkloadServices;
use bonafide::entitlement::node_state::NodeState;
use bonafide::entitlement::node_state::Parts;
use bonafide::evidence::Selector;
use bonafide::names::NameService;
use bonafide::readiness::Readiness;
use bonafide::registration::EntrySource;
use bonafide::time::Clock as _;
use tokio_util::sync::CancellationToken;

use crate::kernel::FakeKernel;
use crate::kernel::FakePid;
pub(crate) use crate::node::admin::AdminClient;
use crate::node::authority::CA_TTL;
pub(crate) use crate::node::authority::FakeAuthority;
pub(crate) use crate::node::authority::authority_made_at;
use crate::node::authority::embedded;
use crate::node::authority::settings;
pub(crate) use crate::node::files::Folder;
pub(crate) use crate::node::instruments::Records;
pub(crate) use crate::node::instruments::Seeded;
pub(crate) use crate::node::instruments::TestClock;
pub(crate) use crate::node::names::FakeNames;
pub(crate) use crate::node::workloads::Client;
pub(crate) use crate::node::workloads::Seen;
pub(crate) use crate::node::workloads::Updates;
pub(crate) use crate::node::workloads::ids;
use crate::pipes::Connected;
use crate::pipes::Observer;
use crate::pipes::PipeDialer;
use crate::pipes::WIDE_PIPE;
use crate::pipes::pipe_acceptor;
use crate::simulated_disk::SimulatedDisk;

pub(crate) const TRUST_DOMAIN: &str = "example.org";

/// A running node.
pub(crate) struct TestNode {
    pub(crate) kernel: FakeKernel,
    pub(crate) authority: Arc<FakeAuthority>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) records: Arc<Records>,
    pub(crate) node_state: Arc<NodeState>,
    pub(crate) readiness: Readiness,
    pub(crate) names: FakeNames,
    reloader: Arc<Reloader>,
    dialer: PipeDialer,
    stop: CancellationToken,
    node: Node,
}

/// What a node starts on.
pub(crate) struct Setup<'a> {
    /// Decides everything random in it.
    pub(crate) seed: u64,
    pub(crate) trust_domain: &'static str,
    /// How long a key of its authority lives.
    pub(crate) ca_ttl: Duration,
    /// The clock of its machine; `None` for a new one.
    pub(crate) clock: Option<Arc<TestClock>>,
    pub(crate) kernel: FakeKernel,
    /// What it asks about processes beside the kernel.
    pub(crate) evidence_sources: Vec<Arc<dyn EvidenceSource>>,
    /// Where it has entries from beside the configuration.
    pub(crate) entry_sources: Vec<Arc<dyn EntrySource>>,
    /// Who the users and groups are.
    pub(crate) names: FakeNames,
    /// Who signs; `None` for an embedded authority.
    pub(crate) authority: Option<Arc<dyn Authority>>,
    pub(crate) configuration: Configuration<'a>,
    /// Where it keeps what outlives it; `None` for nowhere.
    pub(crate) disk: Option<SimulatedDisk>,
    /// How many bytes each connection holds on their way.
    pub(crate) pipe: usize,
    /// Sees every byte at the moment when it leaves.
    pub(crate) observer: Observer,
}

/// Where the configuration of a start comes from.
pub(crate) enum Configuration<'a> {
    /// These tables.
    Tables(&'a str),
    /// The files of this folder, which are followed: on a thread of its own, which a paused clock would wait for.
    Files(&'a Folder),
    /// What was accepted last, because the files are bad.
    LastAccepted,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotStarted {
    #[error("the files are bad, and {0}")]
    Configuration(String),
    #[error(transparent)]
    Authority(#[from] NoAuthority),
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self {
            seed: 7,
            trust_domain: TRUST_DOMAIN,
            ca_ttl: CA_TTL,
            clock: None,
            kernel: FakeKernel::new(),
            evidence_sources: Vec::new(),
            entry_sources: Vec::new(),
            names: FakeNames::default(),
            authority: None,
            configuration: Configuration::Tables(""),
            disk: None,
            pipe: WIDE_PIPE,
            observer: Arc::new(|_, _| {}),
        }
    }
}

impl TestNode {
    /// A node with these tables; `seed` decides everything random in it.
    pub(crate) fn start(seed: u64, tables: &str) -> Self {
        Self::with(Setup { seed, configuration: Configuration::Tables(tables), ..Setup::default() })
    }

    /// A node on this kernel.
    pub(crate) fn on(kernel: FakeKernel, tables: &str) -> Self {
        Self::with(Setup { kernel, configuration: Configuration::Tables(tables), ..Setup::default() })
    }

    /// A node each of whose connections holds `pipe` bytes, every one of which `observer` sees when it leaves.
    pub(crate) fn observed(seed: u64, tables: &str, pipe: usize, observer: Observer) -> Self {
        Self::with(Setup { seed, configuration: Configuration::Tables(tables), pipe, observer, ..Setup::default() })
    }

    /// A node that asks `evidence` beside the kernel, and has entries of `entries` beside its tables.
    pub(crate) fn with_sources(
        tables: &str,
        evidence: Vec<Arc<dyn EvidenceSource>>,
        entries: Vec<Arc<dyn EntrySource>>,
    ) -> Self {
        let configuration = Configuration::Tables(tables);
        Self::with(Setup { configuration, evidence_sources: evidence, entry_sources: entries, ..Setup::default() })
    }

    /// A node that `authority` signs for.
    pub(crate) fn with_authority(tables: &str, authority: Arc<dyn Authority>) -> Self {
        let configuration = Configuration::Tables(tables);
        Self::with(Setup { configuration, authority: Some(authority), ..Setup::default() })
    }

    pub(crate) fn with(setup: Setup<'_>) -> Self {
        Self::try_with(setup).unwrap_or_else(|why| panic!("{why}"))
    }

    /// A node, or why it does not start.
    pub(crate) fn try_with(setup: Setup<'_>) -> Result<Self, NotStarted> {
        let Setup { kernel, evidence_sources, entry_sources, names, authority, configuration, disk, .. } = setup;
        let (pipe, observer) = (setup.pipe, setup.observer);
        let data_dir = disk.map(|disk| Arc::new(DataDir::over(Path::new("/data"), Box::new(disk))));
        let clock = setup.clock.unwrap_or_default();
        let (stop, readiness) = (CancellationToken::new(), Readiness::default());
        let (active, files) = configuration.read(setup.trust_domain, data_dir.clone(), clock.now(), &readiness)?;
        let randomness = Arc::new(Seeded(Mutex::new(setup.seed.wrapping_mul(2) + 1)));
        let authority = match authority {
            Some(authority) => authority,
            None => {
                let settings = settings(setup.trust_domain, setup.ca_ttl);
                embedded(settings, clock.moment(), randomness.clone(), data_dir.clone())?
            }
        };
        let authority = Arc::new(FakeAuthority::over(authority));
        if let Some(data_dir) = data_dir.filter(|_| active.state == ReloadState::Current) {
            let _served_all_the_same = last_good::keep(&data_dir, &active.accepted);
        }
        let records = Arc::new(Records::default());
        let parts = Parts {
            attestor: Attestor::new(kernel.host(), evidence_sources),
            authority: authority.clone(),
            audit: records.clone(),
            clock: clock.clone(),
            randomness,
            stop: stop.clone(),
        };
        let mut node = Node::build(NodeSetup {
            parts,
            active,
            files,
            entry_sources,
            names: Arc::new(NameService::new(Arc::new(names.clone()), Default::default())),
            readiness: readiness.clone(),
            log: LogSettings::default(),
            sockets: Vec::new(),
            descriptors: 4096,
        });
        let (acceptor, dialer) = pipe_acceptor();
        let budgets = node.budgets.clone();
        node.serve(acceptor, Arc::new(WorkloadServices::new(&readiness, move || budgets.limits().idle).unwrap()));
        let dialer = dialer.observed_by(pipe, observer);
        let (node_state, reloader) = (node.node_state.clone(), node.reloader.clone());
        Ok(Self { kernel, authority, clock, records, node_state, readiness, names, reloader, dialer, stop, node })
    }

    /// Puts other tables in force.
    pub(crate) fn reload(&self, tables: &str, cause: ReloadTrigger) -> ReloadReport {
        let (config, accepted) = accepted(&self.authority.trust_domain(), tables);
        self.reloader.swap(config, accepted, cause)
    }

    /// Puts other tables in force, of which the entries of these paths need one more selector: of types that a
    /// configuration does not know, too.
    pub(crate) fn reload_with(&self, tables: &str, further: &[(&str, &str)]) -> ReloadReport {
        let (mut config, accepted) = accepted(&self.authority.trust_domain(), tables);
        for entry in &mut config.entries {
            let entry = Arc::make_mut(entry);
            let of_entry = further.iter().filter(|(path, _)| *path == entry.id.path());
            let of_entry = of_entry.map(|(_, text)| Selector::try_from((*text).to_owned()).unwrap());
            entry.selectors.extend(of_entry);
            entry.selectors.sort();
        }
        self.reloader.swap(config, accepted, ReloadTrigger::Asked)
    }

    /// Has new keys made for the authority now.
    pub(crate) fn rotate(&self, kind: Option<KeyKind>, taint: bool) -> Result<RotationBegun, NotRotated> {
        self.authority.rotate(RotationOrder { kind, taint }, self.clock.moment())
    }

    /// Opens the operator's door.
    pub(crate) fn open_admin_door(&mut self) -> AdminClient {
        let (client, door) = AdminClient::of(self.node.operations.clone());
        self.node.spawn_until_stop(door);
        client
    }

    /// `process` connects, and says nothing yet.
    pub(crate) fn connect(&self, process: &FakePid) -> Connected {
        self.dialer.connect(self.kernel.connect(process))
    }

    /// `process` connects, to speak the Workload API.
    pub(crate) fn client(&self, process: &FakePid) -> Client {
        Client::new(self.connect(process))
    }

    /// `process` connects and opens a stream of X.509-SVIDs.
    pub(crate) async fn workload(&self, process: &FakePid) -> Updates {
        self.client(process).x509_svids().await
    }

    /// Likewise, without waiting for the connection.
    pub(crate) fn workload_later(&self, process: &FakePid) -> Updates {
        self.client(process).x509_svids_later()
    }

    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for TestNode {
    /// What follows files on a thread ends by this alone.
    fn drop(&mut self) {
        self.stop();
    }
}

/// One `[[workload]]` table on ordinary terms.
pub(crate) fn workload(path: &str, selectors: &[&str]) -> String {
    let mut table = String::new();
    write!(table, "[[workload]]\nid = {path:?}\nselectors = {selectors:?}\n").unwrap();
    table
}

impl Configuration<'_> {
    fn read(
        self,
        trust_domain: &str,
        kept_in: Option<Arc<DataDir>>,
        accepted_at: SystemTime,
        readiness: &Readiness,
    ) -> Result<(ActiveConfig, ConfigFiles), NotStarted> {
        let (main, reason) = (PathBuf::from("test.toml"), readiness.register("configuration"));
        let mut files = ConfigFiles { main, kept_in, are_followed: false, reason };
        let mut state = ReloadState::Current;
        let (config, accepted) = match self {
            Self::Tables(tables) => accepted(trust_domain, tables),
            Self::Files(folder) => {
                (files.main, files.are_followed) = (folder.main(), true);
                let refused = |refused: config::ConfigRefused| NotStarted::Configuration(refused.findings.to_string());
                config::load(&files.main).map_err(refused)?
            }
            Self::LastAccepted => {
                state = ReloadState::LastGood;
                let kept = files.kept_in.as_deref().ok_or_else(|| "nothing was kept".to_owned());
                kept.and_then(last_good::recall).map_err(NotStarted::Configuration)?
            }
        };
        Ok((ActiveConfig { config, accepted, state, accepted_at, refused: None }, files))
    }
}

/// What is accepted of a file with these tables.
fn accepted(trust_domain: &str, tables: &str) -> (Config, Accepted) {
    let text = files::configuration(trust_domain, tables);
    let file = SourceFile { file: PathBuf::from("test.toml"), text };
    let sources = Sources { files: vec![file], folders: Vec::new() };
    let accepted = Accepted { sources };
    (accepted.config().unwrap_or_else(|findings| panic!("{findings}")), accepted)
}
