//! Entries of a server beside those of the configuration: both count, each changes without the other, and neither undoes
//! what the other says.

use std::sync::Arc;
use std::time::Duration;

use bonafide::agent::reload::ReloadTrigger;
use bonafide::attestation::source::Asked;
use bonafide::attestation::source::EvidenceSource;
use bonafide::attestation::source::Known;
use bonafide::evidence::Fact;
use bonafide::evidence::Grade;
use bonafide::evidence::Provider;
use bonafide::evidence::Source;
use bonafide::policy::Considered;
use bonafide::policy::explain;
use bonafide::registration::entry::Origin;
use tokio::time::sleep;
use tonic::Code;

use crate::kernel::FakePid;
use crate::kernel::FakeProcess;
use crate::node::Seen;
use crate::node::TestNode;
use crate::node::workload;
use crate::server_entries::Server;
use crate::server_entries::server;

const FILE: &str = "spiffe://example.org/file";
const SERVER: &str = "spiffe://example.org/server";
/// A change of entries reaches a stream within this (SPEC: product contract §5, rule 8).
const SECOND: Duration = Duration::from_secs(1);

/// A node with an entry `/file` for uid 1000, and with a server that registers `entries`.
fn node(entries: &[(&str, &[&str])]) -> (TestNode, Server) {
    let (server, source) = server(entries);
    (TestNode::with_sources(&file("unix:uid:1000"), Vec::new(), vec![source]), server)
}

fn file(selector: &str) -> String {
    workload("/file", &[selector])
}

fn spawn(node: &TestNode, uid: u32) -> FakePid {
    node.kernel.spawn(FakeProcess { uid, gid: uid, ..FakeProcess::default() })
}

/// What an operator is told of the entry with this path, for a process.
async fn considered(node: &TestNode, process: &FakePid, path: &str) -> Considered {
    let examination = node.node_state.examine(process.number()).await.unwrap();
    let explanation = explain(&examination.evidence, examination.level, &node.node_state.rulebook());
    explanation.considered.into_iter().find(|one| one.id.ends_with(path)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_process_gets_the_entries_of_every_source_those_of_the_files_first() {
    let (_server, source) = server(&[("/server", &["unix:uid:1000"])]);
    let tables = workload("/elsewhere", &["unix:uid:1"]) + &file("unix:uid:1000");
    let node = TestNode::with_sources(&tables, Vec::new(), vec![source]);
    assert_eq!(node.workload(&spawn(&node, 1000)).await.ids().await, [FILE, SERVER]);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_one_source_leaves_the_entries_of_the_other() {
    let (node, server) = node(&[("/server", &["unix:uid:1000"])]);
    let mut stream = node.workload(&spawn(&node, 1000)).await;
    assert_eq!(stream.ids().await, [FILE, SERVER]);
    server.register(&[("/other", &["unix:uid:1000"])]);
    assert_eq!(stream.ids().await, [FILE, "spiffe://example.org/other"]);
    node.reload("", ReloadTrigger::Asked);
    assert_eq!(stream.ids().await, ["spiffe://example.org/other"]);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_server_applies_nothing_that_is_held_back() {
    let (node, server) = node(&[]);
    let mut streams = [node.workload(&spawn(&node, 1000)).await, node.workload(&spawn(&node, 1000)).await];
    for stream in &mut streams {
        assert_eq!(stream.ids().await, [FILE]);
    }
    assert_eq!(node.reload("", ReloadTrigger::SeenOnDisk).held_back.len(), 1);
    server.register(&[("/server", &["unix:uid:1000"])]);
    for stream in &mut streams {
        assert_eq!(stream.ids().await, [FILE, SERVER]);
    }
    assert!(node.reload("", ReloadTrigger::Asked).swapped);
    assert_eq!(streams[0].ids().await, [SERVER]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_within_a_second_when_the_server_removes_its_entry() {
    let (node, server) = node(&[("/server", &["unix:uid:2000"])]);
    let mut stream = node.workload(&spawn(&node, 2000)).await;
    assert_eq!(stream.ids().await, [SERVER]);
    server.register(&[]);
    assert_eq!(stream.within(SECOND).await, Some(Seen::End(Code::PermissionDenied)));
}

#[tokio::test(start_paused = true)]
async fn the_entries_of_a_server_that_is_gone_stay_in_force() {
    let (node, server) = node(&[("/server", &["unix:uid:2000"])]);
    server.register(&[("/last", &["unix:uid:2000"])]);
    drop(server);
    sleep(SECOND).await;
    node.reload(&file("unix:uid:3000"), ReloadTrigger::Asked);
    assert_eq!(node.workload(&spawn(&node, 2000)).await.ids().await, ["spiffe://example.org/last"]);
    assert_eq!(node.workload(&spawn(&node, 3000)).await.ids().await, [FILE]);
}

#[tokio::test(start_paused = true)]
async fn a_weak_entry_of_a_server_is_taken_as_it_is() {
    let (node, _server) = node(&[("/weak", &["unix:path:/usr/bin/web"])]);
    let process = node.kernel.spawn(FakeProcess { uid: 7, gid: 7, exe: "/usr/bin/web", ..FakeProcess::default() });
    assert_eq!(node.workload(&process).await.ids().await, ["spiffe://example.org/weak"]);
}

#[tokio::test(start_paused = true)]
async fn a_selector_of_an_unknown_type_is_shown_and_matches_nobody() {
    let (node, _server) = node(&[("/mesh", &["mesh:node:a:b", "unix:uid:1000"])]);
    let process = spawn(&node, 1000);
    assert_eq!(node.workload(&process).await.ids().await, [FILE]);
    let shown = considered(&node, &process, "/mesh").await;
    assert_eq!(shown.lacking.iter().map(ToString::to_string).collect::<Vec<_>>(), ["mesh:node:a:b"]);
    assert_eq!(shown.origin, Origin::Server { server: "registry".to_owned(), entry: "entry-0".to_owned() });
}

/// Proves `mesh:node:a:b` of everybody.
#[derive(Debug)]
struct Mesh;

impl EvidenceSource for Mesh {
    fn provider(&self) -> Provider {
        Provider::of_type("mesh")
    }

    fn ask(&self, _: &Asked<'_>) -> Known {
        let selector = "mesh:node:a:b".to_owned().try_into().unwrap();
        Known::settled(vec![Fact { selector, grade: Grade::Runtime, source: Source::Runtime }], Vec::new())
    }
}

#[tokio::test(start_paused = true)]
async fn a_selector_of_an_unknown_type_matches_once_a_source_proves_it() {
    let (_server, entries) = server(&[("/mesh", &["mesh:node:a:b", "unix:uid:1000"])]);
    let node = TestNode::with_sources("", vec![Arc::new(Mesh)], vec![entries]);
    assert_eq!(node.workload(&spawn(&node, 1000)).await.ids().await, ["spiffe://example.org/mesh"]);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_changes_in_a_second_are_a_few_swaps_and_end_in_the_last() {
    let (node, server) = node(&[]);
    let mut stream = node.workload(&spawn(&node, 1000)).await;
    assert_eq!(stream.ids().await, [FILE]);
    let before = node.node_state.rulebook().epoch();
    for change in 0..1000 {
        server.register(&[(&format!("/change-{change}"), &["unix:uid:1000"])]);
        sleep(SECOND / 1000).await;
    }
    sleep(SECOND).await;
    let swaps = node.node_state.rulebook().epoch() - before;
    assert!((1..=6).contains(&swaps), "{swaps} swaps");
    let mut seen = stream.ids().await;
    while let Some(Seen::Update(update)) = stream.within(SECOND).await {
        seen = crate::node::ids(&update);
    }
    assert_eq!(seen, [FILE, "spiffe://example.org/change-999"]);
}

#[tokio::test(start_paused = true)]
async fn neither_source_undoes_a_change_of_the_other() {
    /// So many that indexing them takes longer than reading a configuration: then both changes overlap.
    const REGISTERED: u32 = 300;
    let (node, server) = node(&[]);
    let node = Arc::new(node);
    for round in 0..50 {
        let selector = format!("unix:uid:{round}");
        let paths: Vec<_> = (0..REGISTERED).map(|n| format!("/server-{round}-{n}")).collect();
        // Both on threads of their own, as in the daemon: the node takes what the server says as soon as it may.
        let reload = tokio::task::spawn_blocking({
            let (node, selector) = (node.clone(), selector.clone());
            move || node.reload(&file(&selector), ReloadTrigger::Asked)
        });
        server.register(&paths.iter().map(|path| (&**path, &["unix:uid:1"] as &[_])).collect::<Vec<_>>());
        assert!(reload.await.unwrap().swapped);
        sleep(SECOND).await;
        let rulebook = node.node_state.rulebook();
        let [of_the_file, of_the_server @ ..] = rulebook.entries().entries() else { panic!("no entries") };
        assert_eq!(of_the_file.selectors[0].to_string(), selector);
        assert!(of_the_server.iter().map(|entry| entry.id.path()).eq(paths), "the server's change was lost");
    }
}
