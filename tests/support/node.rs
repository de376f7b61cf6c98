//! A whole agent in one thread: a model of a kernel below it, in-memory pipes before it, a paused clock around it, and
//! every random byte from a seed.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::SystemTime;

use bonafide::agent::config::Accepted;
use bonafide::agent::config::Config;
use bonafide::agent::config::files::SourceFile;
use bonafide::agent::config::files::Sources;
use bonafide::agent::node::Node;
use bonafide::agent::node::NodeSetup;
use bonafide::agent::reload::ActiveConfig;
use bonafide::agent::reload::ConfigFiles;
use bonafide::agent::reload::ReloadTrigger;
use bonafide::agent::reload::Reloader;
use bonafide::attestation::Attestor;
use bonafide::attestation::source::EvidenceSource;
use bonafide::audit::Event;
use bonafide::audit::Record;
use bonafide::audit::Sink;
use bonafide::authority::Authority;
use bonafide::authority::Chain;
use bonafide::authority::Embedded;
use bonafide::authority::EmbeddedSettings;
use bonafide::authority::NoAuthority;
use bonafide::authority::Note;
use bonafide::authority::Order;
use bonafide::authority::Refused;
use bonafide::authority::SignerLocation;
use bonafide::authority::Token;
use bonafide::authority::TokenOrder;
use bonafide::authority::Validity;
use bonafide::endpoints::admin::reports::ReloadReport;
use bonafide::endpoints::admin::reports::ReloadState;
use bonafide::endpoints::workload_api::proto::X509svidRequest;
use bonafide::endpoints::workload_api::proto::X509svidResponse;
use bonafide::endpoints::workload_api::proto::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use bonafide::endpoints::workload_socket;
use bonafide::entitlement::node_state::NodeState;
use bonafide::entitlement::node_state::Parts;
use bonafide::identity::Bundle;
use bonafide::randomness::NoRandomness;
use bonafide::randomness::Randomness;
use bonafide::readiness::Readiness;
use bonafide::registration::EntrySource;
use bonafide::time::Clock;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::asking::asking;
use crate::kernel::FakeKernel;
use crate::kernel::FakePid;
use crate::pipes::Connected;
use crate::pipes::Observer;
use crate::pipes::PipeDialer;
use crate::pipes::WIDE_PIPE;
use crate::pipes::pipe_acceptor;

/// Noon of a day after this release.
const NOON: Duration = Duration::from_secs(1_800_014_400);

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
    _tasks: Node,
}

/// One connected workload with a stream of X509-SVIDs.
pub(crate) struct Workload {
    stream: Opening,
}

enum Opening {
    Open(Box<Result<Streaming<X509svidResponse>, tonic::Status>>),
    /// On its way, in a task of its own.
    Underway(JoinHandle<Result<Streaming<X509svidResponse>, tonic::Status>>),
}

/// What a workload sees next on its stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Seen {
    Update(X509svidResponse),
    End(Code),
}

impl TestNode {
    /// A node with these `[[workload]]` tables; `seed` decides everything random in it.
    pub(crate) fn start(seed: u64, workloads: &str) -> Self {
        Self::observed(seed, workloads, WIDE_PIPE, Arc::new(|_, _| {}))
    }

    /// Likewise; each connection holds `pipe` bytes on their way, and `observer` sees every byte at the moment when it
    /// leaves.
    pub(crate) fn observed(seed: u64, workloads: &str, pipe: usize, observer: Observer) -> Self {
        Self::built(seed, workloads, (pipe, observer), Vec::new(), Vec::new())
    }

    /// A node that asks `evidence` beside the kernel, and has entries of `entries` beside its tables.
    pub(crate) fn with_sources(
        workloads: &str,
        evidence: Vec<Arc<dyn EvidenceSource>>,
        entries: Vec<Arc<dyn EntrySource>>,
    ) -> Self {
        Self::built(7, workloads, (WIDE_PIPE, Arc::new(|_, _| {})), evidence, entries)
    }

    /// A node of all of these.
    pub(crate) fn built(
        seed: u64,
        workloads: &str,
        (pipe, observer): (usize, Observer),
        evidence: Vec<Arc<dyn EvidenceSource>>,
        entry_sources: Vec<Arc<dyn EntrySource>>,
    ) -> Self {
        let kernel = FakeKernel::new();
        let clock = Arc::new(TestClock::default());
        let randomness = Arc::new(Seeded(Mutex::new(seed.wrapping_mul(2) + 1)));
        let authority = Arc::new(FakeAuthority::new(clock.now(), randomness.clone()));
        let records = Arc::new(Records::default());
        let (stop, readiness) = (CancellationToken::new(), Readiness::default());
        let parts = Parts {
            attestor: Attestor::new(kernel.host(), evidence),
            authority: authority.clone(),
            audit: records.clone(),
            clock: clock.clone(),
            randomness,
            stop: stop.clone(),
        };
        let (config, accepted) = configuration(workloads);
        let active =
            ActiveConfig { config, accepted, state: ReloadState::Current, accepted_at: clock.now(), refused: None };
        let files = ConfigFiles {
            main: "test.toml".into(),
            kept_in: None,
            are_followed: false,
            reason: readiness.register("configuration"),
        };
        let sockets = Vec::new();
        let setup =
            NodeSetup { parts, active, files, entry_sources, readiness: readiness.clone(), sockets, descriptors: 4096 };
        let mut node = Node::build(setup);
        let (node_state, reloader) = (node.node_state.clone(), node.reloader.clone());
        let (door, dialer) = pipe_acceptor();
        node.serve(door, workload_socket::routes(&readiness).unwrap());
        let dialer = dialer.observed_by(pipe, observer);
        Self { kernel, authority, clock, records, node_state, readiness, reloader, dialer, stop, _tasks: node }
    }

    /// Puts other `[[workload]]` tables in force.
    pub(crate) fn reload(&self, workloads: &str, cause: ReloadTrigger) -> ReloadReport {
        let (config, accepted) = configuration(workloads);
        self.reloader.swap(config, accepted, cause)
    }

    /// `process` connects, and says nothing yet.
    pub(crate) fn connect(&self, process: &FakePid) -> Connected {
        self.dialer.connect(self.kernel.connect(process))
    }

    /// `process` connects and opens a stream of X509-SVIDs.
    pub(crate) async fn workload(&self, process: &FakePid) -> Workload {
        Workload { stream: Opening::Open(Box::new(fetch_x509(self.connect(process)).await)) }
    }

    /// Likewise, without waiting for the connection.
    pub(crate) fn workload_later(&self, process: &FakePid) -> Workload {
        Workload { stream: Opening::Underway(tokio::spawn(fetch_x509(self.connect(process)))) }
    }

    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }
}

async fn fetch_x509(connected: Connected) -> Result<Streaming<X509svidResponse>, tonic::Status> {
    let channel = connected.try_channel().await.map_err(|why| tonic::Status::permission_denied(why.to_string()))?;
    fetch_x509_on(channel).await
}

/// Opens one more stream of X.509-SVIDs on a connection.
pub(crate) async fn fetch_x509_on(channel: Channel) -> Result<Streaming<X509svidResponse>, tonic::Status> {
    Ok(SpiffeWorkloadApiClient::new(channel).fetch_x509svid(asking(X509svidRequest {})).await?.into_inner())
}

impl Workload {
    /// The next message or the end. Waits for it as long as it takes on the paused clock.
    pub(crate) async fn next(&mut self) -> Seen {
        if let Opening::Underway(opening) = &mut self.stream {
            self.stream = Opening::Open(Box::new(opening.await.unwrap()));
        }
        let stream = match &mut self.stream {
            Opening::Open(opened) => match &mut **opened {
                Ok(stream) => stream,
                Err(status) => return Seen::End(status.code()),
            },
            Opening::Underway(_) => unreachable!("it was waited for"),
        };
        match stream.message().await {
            Ok(Some(update)) => Seen::Update(update),
            Ok(None) => Seen::End(Code::Ok),
            Err(status) => Seen::End(status.code()),
        }
    }

    /// What comes within `patience`; `None` where nothing does.
    pub(crate) async fn within(&mut self, patience: Duration) -> Option<Seen> {
        tokio::time::timeout(patience, self.next()).await.ok()
    }

    /// The IDs of the next update.
    pub(crate) async fn ids(&mut self) -> Vec<String> {
        match self.next().await {
            Seen::Update(update) => ids(&update),
            Seen::End(code) => panic!("the stream ended with {code}"),
        }
    }
}

/// The SPIFFE IDs of an update, default identity first.
pub(crate) fn ids(update: &X509svidResponse) -> Vec<String> {
    update.svids.iter().map(|svid| svid.spiffe_id.clone()).collect()
}

/// One `[[workload]]` table on ordinary terms.
pub(crate) fn workload(path: &str, selectors: &[&str]) -> String {
    let mut table = String::new();
    write!(table, "[[workload]]\nid = {path:?}\nselectors = {selectors:?}\n").unwrap();
    table
}

fn configuration(workloads: &str) -> (Config, Accepted) {
    let text = format!("trust_domain = {TRUST_DOMAIN:?}\n{workloads}");
    let sources = Sources { files: vec![SourceFile { file: PathBuf::from("test.toml"), text }], folders: Vec::new() };
    let accepted = Accepted { sources, accounts: Default::default() };
    (accepted.config().unwrap_or_else(|findings| panic!("{findings}")), accepted)
}

/// A wall clock that goes with the paused one, and steps when told to.
#[derive(Debug)]
pub(crate) struct TestClock {
    start: Instant,
    at_start: Mutex<SystemTime>,
}

impl Default for TestClock {
    fn default() -> Self {
        Self { start: Instant::now(), at_start: Mutex::new(SystemTime::UNIX_EPOCH + NOON) }
    }
}

impl TestClock {
    pub(crate) fn step_forward(&self, by: Duration) {
        *self.at_start.lock().unwrap() += by;
    }
}

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        *self.at_start.lock().unwrap() + self.start.elapsed()
    }
}

/// Random bytes that follow from a seed (xorshift; never zero).
#[derive(Debug)]
pub(crate) struct Seeded(pub(crate) Mutex<u64>);

impl Seeded {
    pub(crate) fn next(&self) -> u64 {
        let mut state = self.0.lock().unwrap();
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    /// A number below `end`.
    pub(crate) fn below(&self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }
}

impl Randomness for Seeded {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoRandomness> {
        bytes.iter_mut().for_each(|byte| *byte = (self.next() >> 24) as u8);
        Ok(())
    }
}

/// A real authority that refuses, or waits, when told to.
#[derive(Debug)]
pub(crate) struct FakeAuthority {
    real: Embedded,
    /// How many certificates it signs before it waits for more.
    may_sign: Semaphore,
    refusing: Mutex<Option<String>>,
    refusing_one: Mutex<Option<String>>,
}

impl FakeAuthority {
    fn new(now: SystemTime, randomness: Arc<Seeded>) -> Self {
        let settings = EmbeddedSettings {
            trust_domain: TRUST_DOMAIN.parse().unwrap(),
            ca_ttl: Duration::from_secs(7 * 24 * 3600),
            jwt_issuer: None,
        };
        Self {
            real: Embedded::in_memory(settings, now, randomness).unwrap(),
            may_sign: Semaphore::new(Semaphore::MAX_PERMITS),
            refusing: Mutex::default(),
            refusing_one: Mutex::default(),
        }
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

    fn refused(&self) -> Option<Refused> {
        self.refusing.lock().unwrap().clone().map(Refused::Unavailable)
    }
}

impl Authority for FakeAuthority {
    fn kind(&self) -> &'static str {
        self.real.kind()
    }

    fn x509(&self, orders: Vec<Order>) -> BoxFuture<'_, Vec<Result<Chain, Refused>>> {
        match self.refused() {
            Some(refused) => Box::pin(std::future::ready(orders.iter().map(|_| Err(refused.clone())).collect())),
            None if orders.iter().all(|order| self.signs(order)) => Box::pin(async {
                self.may_sign.acquire().await.unwrap().forget();
                self.real.x509(orders).await
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
            None => self.real.jwt(order),
        }
    }

    fn bundle(&self) -> watch::Receiver<Arc<Bundle>> {
        self.real.bundle()
    }

    fn not_after(&self) -> Option<SystemTime> {
        self.real.not_after()
    }

    fn location(&self) -> SignerLocation {
        self.real.location()
    }

    fn validity(&self, now: SystemTime) -> Option<Validity> {
        self.real.validity(now)
    }

    fn replacement(&self) -> String {
        self.real.replacement()
    }

    fn maintain(&self, now: SystemTime) -> Result<Option<Note>, NoAuthority> {
        self.real.maintain(now)
    }
}

/// The audit log of a node.
#[derive(Debug, Default)]
pub(crate) struct Records(pub(crate) Mutex<Vec<Record>>);

impl Records {
    /// How often the log says this of each certificate, by serial number.
    pub(crate) fn of_certificates(&self, what: Event) -> BTreeMap<String, usize> {
        let mut often = BTreeMap::new();
        for record in self.0.lock().unwrap().iter().filter(|record| record.event == what) {
            if let ("x509", Some(serial)) = (record.kind.as_deref().unwrap_or_default(), &record.serial) {
                *often.entry(serial.clone()).or_default() += 1;
            }
        }
        often
    }
}

impl Sink for Records {
    fn record(&self, record: Record) {
        self.0.lock().unwrap().push(record);
    }
}
