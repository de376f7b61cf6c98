//! A second door, whose clients ask about other processes: limits, writer and exit are the client's, and identities are
//! those of the process it asks about.

use std::sync::Arc;
use std::time::Duration;

use bonafide::agent::reload::ReloadTrigger;
use bonafide::audit::Event;
use bonafide::endpoints::transport::accept;
use bonafide::fairness::Budgets;
use bonafide::fairness::Limits;
use serde_json::Value;
use serde_json::json;
use tokio::io::AsyncBufReadExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::io::BufStream;
use tokio::io::DuplexStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::kernel::FakePid;
use crate::kernel::FakeProcess;
use crate::node::TestNode;
use crate::node::workload;
use crate::pipes::PipeDialer;
use crate::pipes::WIDE_PIPE;
use crate::pipes::pipe_acceptor;
use crate::second_door::JsonLines;

const WEB: &str = "spiffe://example.org/web";
const PROXY: &str = "spiffe://example.org/proxy";
/// Fewer bytes than a line has, so that the rest of it waits in the daemon.
const NARROW_PIPE: usize = 48;

/// A node with a second door. Uid 1000 is `/web`, uid 2000 is `/proxy`, and uid 3000 has no entry.
struct Broker {
    node: TestNode,
    dialer: PipeDialer,
}

/// A client's end of a connection.
struct Client(BufStream<DuplexStream>);

fn entries() -> String {
    workload("/web", &["unix:uid:1000"]) + &workload("/proxy", &["unix:uid:2000"])
}

impl Broker {
    fn open() -> Self {
        Self::with(Limits::for_descriptors(4096), WIDE_PIPE)
    }

    fn with(limits: Limits, pipe: usize) -> Self {
        let node = TestNode::start(7, &entries());
        let (acceptor, dialer) = pipe_acceptor();
        let protocol = JsonLines(Arc::new(Arc::clone(&node.node_state)));
        tokio::spawn(accept::serve(acceptor, Budgets::new(limits), CancellationToken::new(), protocol));
        Self { node, dialer: dialer.observed_by(pipe, Arc::new(|_, _| {})) }
    }

    fn spawn(&self, uid: u32) -> FakePid {
        self.node.kernel.spawn(FakeProcess { uid, gid: uid, ..FakeProcess::default() })
    }

    fn connect(&self, process: &FakePid) -> Client {
        Client(BufStream::new(self.dialer.connect(self.node.kernel.connect(process)).bytes))
    }

    fn issued(&self) -> usize {
        self.node.records.of_certificates(Event::Issued).len()
    }
}

impl Client {
    async fn subscribe(&mut self, pid: Option<&FakePid>, names: &[&str]) {
        let request = json!({ "pid": pid.map(FakePid::number), "names": names });
        let _ = self.0.write_all(format!("{request}\n").as_bytes()).await; // the other side may have cut already
        let _ = self.0.flush().await;
    }

    /// The next line; `None` at the end of the connection.
    async fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).await.unwrap_or(0);
        (read > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    /// The identity in the next line.
    async fn next_id(&mut self) -> String {
        self.next().await.unwrap()["id"].as_str().unwrap().to_owned()
    }
}

/// The node has done all it can once nothing but its timers is left.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_gets_the_identity_of_the_process_that_it_asks_about() {
    let broker = Broker::open();
    let (web, proxy) = (broker.spawn(1000), broker.spawn(2000));
    let mut client = broker.connect(&proxy);
    client.subscribe(Some(&web), &["default"]).await;
    assert_eq!(client.next_id().await, WEB);
    client.subscribe(None, &["default"]).await;
    assert_eq!(client.next_id().await, PROXY);
}

#[tokio::test(start_paused = true)]
async fn a_client_without_an_entry_gets_the_identity_of_another_process() {
    let broker = Broker::open();
    let (web, asker) = (broker.spawn(1000), broker.spawn(3000));
    let mut client = broker.connect(&asker);
    client.subscribe(None, &["default"]).await;
    assert_eq!(client.next().await, Some(json!({ "ended": "denied" })));
    client.subscribe(Some(&web), &["default"]).await;
    assert_eq!(client.next_id().await, WEB);
}

#[tokio::test(start_paused = true)]
async fn several_names_are_served_on_one_stream() {
    let broker = Broker::open();
    let web = broker.spawn(1000);
    let mut client = broker.connect(&broker.spawn(3000));
    client.subscribe(Some(&web), &[WEB, "example.org", PROXY, "default"]).await;
    assert_eq!(client.next_id().await, WEB);
    let bundle = client.next().await.unwrap();
    assert_eq!(bundle["name"], "example.org");
    assert_ne!(bundle["bundle"], "");
    assert_eq!(client.next().await.unwrap()["name"], "default", "it does not hold the other identity");
    assert_eq!(broker.issued(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_asks_for_bundles_alone_makes_the_node_sign_nothing() {
    let broker = Broker::open();
    let web = broker.spawn(1000);
    let mut client = broker.connect(&broker.spawn(3000));
    client.subscribe(Some(&web), &["example.org"]).await;
    assert_ne!(client.next().await.unwrap()["bundle"], "");
    assert_eq!(broker.issued(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_changed_entry_and_a_renewal_reach_the_client() {
    let broker = Broker::open();
    let web = broker.spawn(1000);
    let mut client = broker.connect(&broker.spawn(3000));
    client.subscribe(Some(&web), &["default"]).await;
    let first = client.next().await.unwrap();
    broker.node.reload(&(workload("/new", &["unix:uid:1000"]) + &entries()), ReloadTrigger::Asked);
    assert_eq!(client.next_id().await, "spiffe://example.org/new");
    let start = Instant::now();
    let renewed = client.next().await.unwrap();
    assert!(start.elapsed() > Duration::from_secs(10 * 60), "{:?}", start.elapsed());
    assert_ne!(renewed["key"], first["key"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_moved_to_another_cgroup_is_served_as_before() {
    let broker = Broker::open();
    let (web, asker) = (broker.spawn(1000), broker.spawn(3000));
    let mut client = broker.connect(&asker);
    settle().await;
    asker.move_to("/user.slice");
    client.subscribe(Some(&web), &["default"]).await;
    assert_eq!(client.next_id().await, WEB);
}

#[tokio::test(start_paused = true)]
async fn the_exit_of_the_client_ends_its_connection() {
    let broker = Broker::open();
    let (web, asker) = (broker.spawn(1000), broker.spawn(3000));
    let mut client = broker.connect(&asker);
    client.subscribe(Some(&web), &["default"]).await;
    client.next_id().await;
    let start = Instant::now();
    asker.exit();
    assert_eq!(client.next().await, None);
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_exit_of_another_process_ends_its_subscription_alone() {
    let broker = Broker::open();
    let (web, proxy) = (broker.spawn(1000), broker.spawn(2000));
    let mut client = broker.connect(&proxy);
    client.subscribe(Some(&web), &["example.org"]).await;
    client.next().await.unwrap();
    web.exit();
    assert_eq!(client.next().await, Some(json!({ "ended": "denied" })));
    client.subscribe(Some(&web), &["default"]).await;
    assert_eq!(client.next().await, Some(json!({ "ended": "denied" })), "there is no such process any more");
    client.subscribe(None, &["default"]).await;
    assert_eq!(client.next_id().await, PROXY);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_became_another_program_gets_its_end_and_no_more() {
    let broker = Broker::open();
    let web = broker.spawn(1000);
    let mut client = broker.connect(&broker.spawn(3000));
    client.subscribe(Some(&web), &["default"]).await;
    client.next_id().await;
    let start = Instant::now();
    web.exec("/usr/bin/other");
    assert_eq!(client.next().await, Some(json!({ "ended": "denied" })));
    assert!(start.elapsed() <= Duration::from_secs(10), "{:?}", start.elapsed());
    let hour = Duration::from_secs(3600);
    assert!(tokio::time::timeout(hour, client.next()).await.is_err(), "the connection lives on, without it");
}

/// Whether the whole of a line that waited behind a narrow pipe arrives, once `change` has happened.
async fn waiting_line_arrives(change: impl FnOnce(&FakePid, &FakePid)) -> bool {
    let broker = Broker::with(Limits::for_descriptors(4096), NARROW_PIPE);
    let (web, asker) = (broker.spawn(1000), broker.spawn(3000));
    let mut client = broker.connect(&asker);
    client.subscribe(Some(&web), &["default"]).await;
    settle().await;
    assert_eq!(broker.issued(), 1, "nothing waits");
    change(&web, &asker);
    let mut read = Vec::new();
    let reading = client.0.read_to_end(&mut read);
    let _ = tokio::time::timeout(Duration::from_secs(1), reading).await; // a served stream has no end
    read.contains(&b'\n')
}

#[tokio::test(start_paused = true)]
async fn a_key_that_waited_leaves_only_while_both_processes_are_unchanged() {
    assert!(waiting_line_arrives(|_, _| {}).await);
    assert!(!waiting_line_arrives(|web, _| web.exec("/usr/bin/other")).await);
    assert!(!waiting_line_arrives(|_, asker| asker.exec("/usr/bin/other")).await);
    assert!(!waiting_line_arrives(|web, _| web.exit()).await);
}

#[tokio::test(start_paused = true)]
async fn a_writer_other_than_the_client_is_cut() {
    let broker = Broker::open();
    let (web, asker) = (broker.spawn(1000), broker.spawn(3000));
    let connected = broker.dialer.connect(broker.node.kernel.connect(&asker));
    *connected.writer.lock().unwrap() = web.credentials();
    let mut client = Client(BufStream::new(connected.bytes));
    client.subscribe(Some(&web), &["default"]).await;
    assert_eq!(client.next().await, None, "not even the process that is asked about may write");
    assert_eq!(broker.issued(), 0);
}

#[tokio::test(start_paused = true)]
async fn connections_are_charged_to_the_client_and_not_to_whom_it_asks_about() {
    let limits = Limits { connections_per_caller: 1, ..Limits::for_descriptors(4096) };
    let broker = Broker::with(limits, WIDE_PIPE);
    let (web, asker) = (broker.spawn(1000), broker.spawn(3000));
    let mut first = broker.connect(&asker);
    first.subscribe(Some(&web), &["default"]).await;
    assert_eq!(first.next_id().await, WEB);
    let mut second = broker.connect(&asker);
    second.subscribe(Some(&web), &["default"]).await;
    assert_eq!(second.next().await, None);
    let mut own = broker.connect(&web);
    own.subscribe(None, &["default"]).await;
    assert_eq!(own.next_id().await, WEB);
}
