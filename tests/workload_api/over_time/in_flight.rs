//! Messages that wait in the daemon behind a full pipe while something changes: the second check, at the first byte.

use std::sync::Arc;
use std::time::Duration;

use bonafide::agent::reload::ReloadTrigger;
use bonafide::audit::Event;
use bonafide::endpoints::workload_api::proto::JwtsvidRequest;
use prost::Message as _;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::io::DuplexStream;

use crate::http2::calling;
use crate::http2::hello;
use crate::http2::request;
use crate::kernel::FakePid;
use crate::kernel::FakeProcess;
use crate::node::TestNode;
use crate::node::workload;

const WEB: &[u8] = b"spiffe://example.org/web";

/// Fewer bytes than come before the first message, so that the message waits in the daemon.
const NARROW_PIPE: usize = 48;

/// A client that has asked for its SVIDs, and does not read.
async fn asked(node: &TestNode) -> (FakePid, DuplexStream) {
    asked_for(node, &[request(1, None, &[])]).await
}

/// The same, for each of `requests` at once.
async fn asked_for(node: &TestNode, requests: &[Vec<u8>]) -> (FakePid, DuplexStream) {
    let process = node.kernel.spawn(FakeProcess { uid: 1000, gid: 1000, ..FakeProcess::default() });
    let mut bytes = node.connect(&process).bytes;
    for part in [hello(), requests.concat()].concat().chunks(NARROW_PIPE) {
        bytes.write_all(part).await.unwrap();
    }
    // The node has done all it can once nothing but its timers is left.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let issued = node.records.0.lock().unwrap().iter().filter(|record| record.event == Event::Issued).count();
    assert_eq!(issued, requests.len(), "something was not handed over that could wait");
    (process, bytes)
}

/// A call for the token of one identity.
fn token(stream: u32, id: &str) -> Vec<u8> {
    let message = JwtsvidRequest { audience: vec!["ledger".to_owned()], spiffe_id: id.to_owned() };
    calling("FetchJWTSVID", stream, None, &[], &message.encode_to_vec())
}

/// A node whose user 1000 has two identities, and a client of it that waits for a token of each.
async fn asked_for_two_tokens() -> (TestNode, DuplexStream) {
    let entries = workload("/web", &["unix:uid:1000"]) + &workload("/db", &["unix:uid:1000"]);
    let node = TestNode::observed(7, &entries, NARROW_PIPE, Arc::new(|_, _| {}));
    let tokens = [token(1, "spiffe://example.org/web"), token(3, "spiffe://example.org/db")];
    let (_, bytes) = asked_for(&node, &tokens).await;
    (node, bytes)
}

/// Whether the identity arrives after all.
async fn arrives(mut bytes: DuplexStream) -> bool {
    let mut read = Vec::new();
    let reading = bytes.read_to_end(&mut read);
    let _ = tokio::time::timeout(Duration::from_secs(1), reading).await; // a served stream has no end
    read.windows(WEB.len()).any(|window| window == WEB)
}

fn node() -> TestNode {
    TestNode::observed(7, &workload("/web", &["unix:uid:1000"]), NARROW_PIPE, Arc::new(|_, _| {}))
}

#[tokio::test(start_paused = true)]
async fn a_queued_svid_arrives_when_nothing_has_changed() {
    let node = node();
    let (_process, bytes) = asked(&node).await;
    assert!(arrives(bytes).await);
}

#[tokio::test(start_paused = true)]
async fn a_queued_svid_does_not_leave_to_another_program() {
    let node = node();
    let (process, bytes) = asked(&node).await;
    process.exec("/usr/bin/other");
    assert!(!arrives(bytes).await);
}

#[tokio::test(start_paused = true)]
async fn a_queued_svid_does_not_leave_to_another_unit() {
    let entry = workload("/web", &["systemd:id:web.service"]);
    let node = TestNode::observed(7, &entry, NARROW_PIPE, Arc::new(|_, _| {}));
    let (process, bytes) = asked(&node).await;
    process.move_to("/system.slice/other.service");
    assert!(!arrives(bytes).await);
}

#[tokio::test(start_paused = true)]
async fn a_queued_svid_does_not_leave_once_its_entry_is_gone() {
    let node = node();
    let (_process, bytes) = asked(&node).await;
    assert!(node.reload(&workload("/db", &["unix:uid:1001"]), ReloadTrigger::Asked).swapped);
    assert!(!arrives(bytes).await);
}

#[tokio::test(start_paused = true)]
async fn a_queued_token_leaves_only_while_its_own_entry_stands() {
    let (_node, bytes) = asked_for_two_tokens().await;
    assert!(arrives(bytes).await, "nothing has changed");
    let (node, bytes) = asked_for_two_tokens().await;
    assert!(node.reload(&workload("/db", &["unix:uid:1000"]), ReloadTrigger::Asked).swapped);
    assert!(!arrives(bytes).await);
}
