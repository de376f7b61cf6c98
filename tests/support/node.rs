//! A whole agent in one thread: a model of a kernel below it, in-memory pipes before it, a paused clock around it, and
//! every random byte from a seed. Built by the function that builds the daemon.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

#[path = "node/admin.rs"]
mod admin;
#[path = "node/files.rs"]
mod files;
#[path = "node/instruments.rs"]
mod instruments;
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
use bonafide::authority::Authority;
use bonafide::authority::Chain;
use bonafide::authority::KeySharing;
use bonafide::authority::Order;
use bonafide::authority::Refused;
use bonafide::authority::Token;
use bonafide::authority::TokenOrder;
use bonafide::authority::embedded::Embedded;
use bonafide::authority::embedded::EmbeddedSettings;
use bonafide::authority::embedded::NoAuthority;
use bonafide::durable::DataDir;
use bonafide::endpoints::admin::reports::ReloadReport;
use bonafide::endpoints::admin::reports::ReloadState;
use bonafide::endpoints::workload_socket;
use bonafide::entitlement::node_state::NodeState;
use bonafide::entitlement::node_state::Parts;
use bonafide::identity::Bundle;
use bonafide::readiness::Readiness;
use bonafide::time::Clock as _;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::kernel::FakeKernel;
use crate::kernel::FakePid;
pub(crate) use crate::node::admin::AdminClient;
pub(crate) use crate::node::files::ConfigFolder;
pub(crate) use crate::node::instruments::Records;
pub(crate) use crate::node::instruments::Seeded;
pub(crate) use crate::node::instruments::TestClock;
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
    reloader: Arc<Reloader>,
    dialer: PipeDialer,
    stop: CancellationToken,
    node: Node,
}

/// What a node starts on.
pub(crate) struct Setup<'a> {
    /// Decides everything random in it.
    pub(crate) seed: u64,
    pub(crate) kernel: FakeKernel,
    /// What it asks about processes beside the kernel.
    pub(crate) sources: Vec<Arc<dyn EvidenceSource>>,
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
    /// The files of this folder, which are followed.
    Files(&'a ConfigFolder),
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
        let observer: Observer = Arc::new(|_, _| {});
        let configuration = Configuration::Tables("");
        let (kernel, sources) = (FakeKernel::new(), Vec::new());
        Self { seed: 7, kernel, sources, configuration, disk: None, pipe: WIDE_PIPE, observer }
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

    pub(crate) fn with(setup: Setup<'_>) -> Self {
        Self::try_with(setup).unwrap_or_else(|why| panic!("{why}"))
    }

    /// A node, or why it does not start.
    pub(crate) fn try_with(setup: Setup<'_>) -> Result<Self, NotStarted> {
        let Setup { seed, kernel, sources, configuration, disk, pipe, observer } = setup;
        let data_dir = disk.map(|disk| Arc::new(DataDir::over(Path::new("/data"), Box::new(disk))));
        let clock = Arc::new(TestClock::default());
        let (stop, readiness) = (CancellationToken::new(), Readiness::default());
        let (active, files) = configuration.read(data_dir, clock.now(), &readiness)?;
        let randomness = Arc::new(Seeded(Mutex::new(seed.wrapping_mul(2) + 1)));
        let authority = Arc::new(FakeAuthority::new(clock.now(), randomness.clone(), files.kept_in.clone())?);
        if let Some(data_dir) = files.kept_in.as_deref().filter(|_| active.state == ReloadState::Current) {
            let _served_all_the_same = last_good::keep(data_dir, &active.accepted);
        }
        let records = Arc::new(Records::default());
        let parts = Parts {
            attestor: Attestor::new(kernel.host(), sources),
            authority: authority.clone(),
            audit: records.clone(),
            clock: clock.clone(),
            randomness,
            stop: stop.clone(),
        };
        let embedded = Some(authority.opened.clone());
        let (readiness_there, sockets) = (readiness.clone(), Vec::new());
        let setup =
            NodeSetup { parts, active, files, readiness: readiness_there, embedded, sockets, descriptors: 4096 };
        let mut node = Node::build(setup);
        let (acceptor, dialer) = pipe_acceptor();
        node.serve(acceptor, workload_socket::routes(&readiness).unwrap());
        let dialer = dialer.observed_by(pipe, observer);
        let (node_state, reloader) = (node.node_state.clone(), node.reloader.clone());
        Ok(Self { kernel, authority, clock, records, node_state, readiness, reloader, dialer, stop, node })
    }

    /// Puts other tables in force.
    pub(crate) fn reload(&self, tables: &str, cause: ReloadTrigger) -> ReloadReport {
        let (config, accepted) = accepted(tables);
        self.reloader.swap(config, accepted, cause)
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

/// One `[[workload]]` table on ordinary terms.
pub(crate) fn workload(path: &str, selectors: &[&str]) -> String {
    let mut table = String::new();
    write!(table, "[[workload]]\nid = {path:?}\nselectors = {selectors:?}\n").unwrap();
    table
}

impl Configuration<'_> {
    fn read(
        self,
        kept_in: Option<Arc<DataDir>>,
        accepted_at: SystemTime,
        readiness: &Readiness,
    ) -> Result<(ActiveConfig, ConfigFiles), NotStarted> {
        let (main, reason) = (PathBuf::from("test.toml"), readiness.register("configuration"));
        let mut files = ConfigFiles { main, kept_in, are_followed: false, reason };
        let mut state = ReloadState::Current;
        let (config, accepted) = match self {
            Self::Tables(tables) => accepted(tables),
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
fn accepted(tables: &str) -> (Config, Accepted) {
    let file = SourceFile { file: PathBuf::from("test.toml"), text: files::configuration(tables) };
    let sources = Sources { files: vec![file], folders: Vec::new() };
    let accepted = Accepted { sources, accounts: Default::default() };
    (accepted.config().unwrap_or_else(|findings| panic!("{findings}")), accepted)
}

/// A real authority that refuses, waits or takes a new key when told to.
#[derive(Debug)]
pub(crate) struct FakeAuthority {
    /// The one that was opened at the start.
    opened: Arc<Embedded>,
    /// The one that signs.
    active: Mutex<Arc<Embedded>>,
    settings: EmbeddedSettings,
    randomness: Arc<Seeded>,
    bundle: watch::Sender<Arc<Bundle>>,
    /// How many certificates it signs before it waits for more.
    may_sign: Semaphore,
    refusing: Mutex<Option<String>>,
    refusing_one: Mutex<Option<String>>,
}

impl FakeAuthority {
    fn new(now: SystemTime, randomness: Arc<Seeded>, data_dir: Option<Arc<DataDir>>) -> Result<Self, NoAuthority> {
        let settings = EmbeddedSettings {
            trust_domain: TRUST_DOMAIN.parse().unwrap(),
            ca_ttl: Duration::from_secs(7 * 24 * 3600),
            jwt_issuer: None,
        };
        let opened = Arc::new(match data_dir {
            Some(data_dir) => Embedded::open(data_dir, settings.clone(), now, randomness.clone())?.0,
            None => Embedded::in_memory(settings.clone(), now, randomness.clone())?,
        });
        let bundle = watch::Sender::new(opened.bundle().borrow().clone());
        Ok(Self {
            active: Mutex::new(opened.clone()),
            opened,
            settings,
            randomness,
            bundle,
            may_sign: Semaphore::new(Semaphore::MAX_PERMITS),
            refusing: Mutex::default(),
            refusing_one: Mutex::default(),
        })
    }

    /// Makes new keys, publishes them beside the old ones, and signs with them from now on.
    pub(crate) fn rotate(&self, now: SystemTime) {
        let next = Embedded::in_memory(self.settings.clone(), now, self.randomness.clone()).unwrap();
        let new = next.bundle().borrow().clone();
        self.bundle.send_modify(|bundle| {
            let mut both = Bundle::clone(bundle);
            both.x509_authorities.extend(new.x509_authorities.iter().cloned());
            both.jwt_authorities.extend(new.jwt_authorities.iter().cloned());
            both.sequence = both.sequence.map(|sequence| sequence + 1);
            *bundle = Arc::new(both);
        });
        *self.active.lock().unwrap() = Arc::new(next);
    }

    pub(crate) fn refuse(&self, why: &str) {
        *self.refusing.lock().unwrap() = Some(why.to_owned());
    }

    /// Refuses certificates for this path alone.
    pub(crate) fn refuse_path(&self, path: &str) {
        *self.refusing_one.lock().unwrap() = Some(path.to_owned());
    }

    /// Signs so many certificates more, and then waits to be told again.
    pub(crate) fn sign_only(&self, certificates: usize) {
        self.may_sign.forget_permits(Semaphore::MAX_PERMITS);
        self.may_sign.add_permits(certificates);
    }

    fn signs(&self, order: &Order) -> bool {
        self.refusing_one.lock().unwrap().as_deref() != Some(order.id.path())
    }

    pub(crate) fn relent(&self) {
        *self.refusing.lock().unwrap() = None;
    }

    fn active(&self) -> Arc<Embedded> {
        self.active.lock().unwrap().clone()
    }

    fn refused(&self) -> Option<Refused> {
        self.refusing.lock().unwrap().clone().map(Refused::Unavailable)
    }
}

impl Authority for FakeAuthority {
    fn x509(&self, orders: Vec<Order>) -> BoxFuture<'_, Vec<Result<Chain, Refused>>> {
        match self.refused() {
            Some(refused) => Box::pin(std::future::ready(orders.iter().map(|_| Err(refused.clone())).collect())),
            None if orders.iter().all(|order| self.signs(order)) => Box::pin(async {
                self.may_sign.acquire().await.unwrap().forget();
                self.active().x509(orders).await
            }),
            None => {
                let refused = || Err(Refused::Unavailable("not this one".to_owned()));
                Box::pin(std::future::ready(orders.iter().map(|_| refused()).collect()))
            }
        }
    }

    fn jwt(&self, order: TokenOrder) -> BoxFuture<'_, Result<Token, Refused>> {
        match self.refused() {
            Some(refused) => Box::pin(std::future::ready(Err(refused))),
            None => Box::pin(async { self.active().jwt(order).await }),
        }
    }

    fn bundle(&self) -> watch::Receiver<Arc<Bundle>> {
        self.bundle.subscribe()
    }

    fn key_sharing(&self) -> KeySharing {
        self.active().key_sharing()
    }

    fn not_after(&self) -> Option<SystemTime> {
        self.active().not_after()
    }

    fn can_sign(&self, now: SystemTime) -> Result<(), Refused> {
        self.refused().map_or_else(|| self.active().can_sign(now), Err)
    }
}
