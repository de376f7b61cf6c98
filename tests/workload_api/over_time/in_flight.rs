//! Messages that wait in the daemon behind a full pipe while something changes: the second check, at the first byte.

use std::sync::Arc;
use std::time::Duration;

use bonafide::agent::reload::ReloadTrigger;
use bonafide::audit::Event;
use bonafide::endpoints::transport::http2::frames::kind;
use bonafide::endpoints::workload_api::proto::JwtsvidRequest;
use prost::Message as _;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::io::DuplexStream;

use crate::http2::PREFACE;
use crate::http2::SETTINGS;
use crate::http2::WINDOW_UPDATE;
use crate::http2::calling;
use crate::http2::frame;
use crate::http2::hello;
use crate::http2::request;
use crate::kernel::FakePid;
use crate::kernel::FakeProcess;
use crate::node::Seen;
use crate::node::TestNode;
use crate::node::workload;

const WEB: &str = "spiffe://example.org/web";
const DB: &str = "spiffe://example.org/db";
const SECOND: Duration = Duration::from_secs(1);

/// Fewer bytes than come before the first message, so that the message waits in the daemon.
const NARROW_PIPE: usize = 48;

/// A client that has asked for its SVIDs, and does not read.
async fn asked(node: &TestNode) -> (FakePid, DuplexStream) {
    asked_for(node, &[hello(), request(1, None, &[])], 1).await
}

/// A client that has sent all this, and does not read. So many credentials are issued for it.
async fn asked_for(node: &TestNode, sent: &[Vec<u8>], credentials: usize) -> (FakePid, DuplexStream) {
    let process = spawn(node);
    let mut bytes = node.connect(&process).bytes;
    send(&mut bytes, sent).await;
    assert_eq!(records(node, Event::Issued), credentials, "something was not handed over that could wait");
    (process, bytes)
}

async fn send(bytes: &mut DuplexStream, sent: &[Vec<u8>]) {
    for part in sent.concat().chunks(NARROW_PIPE) {
        bytes.write_all(part).await.unwrap();
    }
    settle().await;
}

/// The node has done all it can once nothing but its timers is left.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

fn spawn(node: &TestNode) -> FakePid {
    node.kernel.spawn(FakeProcess { uid: 1000, gid: 1000, ..FakeProcess::default() })
}

fn records(node: &TestNode, event: Event) -> usize {
    node.records.0.lock().unwrap().iter().filter(|record| record.event == event).count()
}

/// A hello of a client whose streams have this window at first.
fn hello_with(window: u32) -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[&[0, 4][..], &window.to_be_bytes()].concat())].concat()
}

fn open_window(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

/// A call for the token of one identity.
fn token(stream: u32, id: &str) -> Vec<u8> {
    let message = JwtsvidRequest { audience: vec!["ledger".to_owned()], spiffe_id: id.to_owned() };
    calling("FetchJWTSVID", stream, None, &[], &message.encode_to_vec())
}

/// A client that waits for a token of each identity.
async fn asked_for_two_tokens() -> (TestNode, DuplexStream) {
    let node = node_with_two();
    let (_, bytes) = asked_for(&node, &[hello(), token(1, WEB), token(3, DB)], 2).await;
    (node, bytes)
}

/// Whether the identity arrives after all.
async fn arrives(bytes: DuplexStream) -> bool {
    holds(&rest(bytes).await, WEB)
}

/// What still comes.
async fn rest(mut bytes: DuplexStream) -> Vec<u8> {
    let mut read = Vec::new();
    let _ = tokio::time::timeout(SECOND, bytes.read_to_end(&mut read)).await; // a served stream has no end
    read
}

fn holds(read: &[u8], id: &str) -> bool {
    read.windows(id.len()).any(|window| window == id.as_bytes())
}

/// User 1000 is `/web` and `/db`.
fn two_entries() -> String {
    workload("/web", &["unix:uid:1000"]) + &workload("/db", &["unix:uid:1000"])
}

fn node_with_two() -> TestNode {
    TestNode::observed(7, &two_entries(), NARROW_PIPE, Arc::new(|_, _| {}))
}

/// Takes `/web` from user 1000, who keeps `/db`, and lets the streams learn of it.
async fn take_web(node: &TestNode) {
    assert!(node.reload(&workload("/db", &["unix:uid:1000"]), ReloadTrigger::Asked).swapped);
    settle().await;
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
async fn a_queued_svid_of_two_identities_does_not_leave_once_one_of_their_entries_is_gone() {
    let ask = async |node: &TestNode| asked_for(node, &[hello(), request(1, None, &[])], 2).await.1;
    let node = node_with_two();
    let bytes = ask(&node).await;
    assert!(arrives(bytes).await, "nothing has changed");
    let node = node_with_two();
    let bytes = ask(&node).await;
    take_web(&node).await;
    assert!(!arrives(bytes).await);
    assert_eq!(records(&node, Event::Denied), 1, "nothing says why the connection was cut");
}

/// Reads the beginning of a message of two identities, sends what is `sent` then, loses one identity, and reads the rest.
async fn rest_of_message(sent: &[Vec<u8>], loses: bool) -> Vec<u8> {
    let node = node_with_two();
    let (_process, mut bytes) = asked_for(&node, &[hello(), request(1, None, &[])], 2).await;
    let mut read = Vec::new();
    while !holds(&read, WEB) {
        let mut part = [0; NARROW_PIPE];
        let length = bytes.read(&mut part).await.unwrap();
        read.extend_from_slice(&part[..length]);
    }
    send(&mut bytes, sent).await; // the pipe is full again
    if loses {
        take_web(&node).await;
    }
    rest(bytes).await
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_a_message_does_not_leave_once_one_of_its_identities_is_gone() {
    assert!(rest_of_message(&[], false).await.len() > 1000, "nothing has changed");
    let rest = rest_of_message(&[], true).await;
    assert!(rest.len() <= NARROW_PIPE, "{} bytes left", rest.len());
}

/// The engine sends a frame to its end that it has begun, although the client has reset its stream.
#[tokio::test(start_paused = true)]
async fn the_rest_of_a_frame_of_a_reset_stream_does_not_leave_once_one_of_its_identities_is_gone() {
    let reset = [frame(kind::RST_STREAM, 0, 1, &8_u32.to_be_bytes())];
    assert!(rest_of_message(&reset, false).await.len() > 1000, "nothing has changed");
    let rest = rest_of_message(&reset, true).await;
    assert!(rest.len() <= NARROW_PIPE, "{} bytes left", rest.len());
}

#[tokio::test(start_paused = true)]
async fn a_queued_token_leaves_only_while_its_own_entry_stands() {
    let (_node, bytes) = asked_for_two_tokens().await;
    assert!(arrives(bytes).await, "nothing has changed");
    let (node, bytes) = asked_for_two_tokens().await;
    take_web(&node).await;
    assert!(!arrives(bytes).await);
}

/// The engine copies what is short into a buffer of its own, and is done with it while nothing of it has left.
#[tokio::test(start_paused = true)]
async fn a_token_in_short_frames_does_not_leave_once_its_entry_is_gone() {
    let ask = async |node: &TestNode| {
        let (_process, mut bytes) = asked_for(node, &[hello_with(0), token(1, WEB)], 1).await;
        for _ in 0..10 {
            send(&mut bytes, &[open_window(1, 100)]).await;
        }
        bytes
    };
    let node = node_with_two();
    let bytes = ask(&node).await;
    assert!(arrives(bytes).await, "nothing has changed");
    let node = node_with_two();
    let bytes = ask(&node).await;
    take_web(&node).await;
    assert!(!arrives(bytes).await);
}

#[tokio::test(start_paused = true)]
async fn what_a_client_has_reset_keeps_nothing_else_from_leaving() {
    // Of the SVIDs, nothing leaves or ten bytes do, and the rest is discarded.
    for window in [0, 10] {
        let node = TestNode::start(7, &two_entries());
        let (_process, mut bytes) = asked_for(&node, &[hello_with(window), request(1, None, &[])], 2).await;
        send(&mut bytes, &[frame(kind::RST_STREAM, 0, 1, &8_u32.to_be_bytes())]).await;
        take_web(&node).await;
        send(&mut bytes, &[token(3, DB), open_window(3, 9999)]).await;
        assert!(holds(&rest(bytes).await, DB), "at a window of {window}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_read_everything_loses_nothing_else_with_one_of_two_identities() {
    let node = TestNode::start(7, &two_entries());
    let client = node.client(&spawn(&node));
    let mut streams = [client.x509_svids().await, client.x509_svids().await];
    let mut bundles = client.x509_bundles().await;
    bundles.update().await;
    for stream in &mut streams {
        assert_eq!(stream.ids().await, [WEB, DB]);
    }
    assert_eq!(client.jwt_svids("ledger", "").await.unwrap().len(), 2);
    take_web(&node).await;
    for stream in &mut streams {
        assert_eq!(stream.ids().await, [DB]);
    }
    assert_eq!(client.jwt_svids("ledger", "").await.unwrap().len(), 1);
    node.rotate(None, false).unwrap();
    assert!(matches!(bundles.within(SECOND).await, Some(Seen::Update(_))));
    assert_eq!(records(&node, Event::Denied), 0);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_read_keeps_nothing_from_leaving_once_its_entry_is_gone() {
    let node = TestNode::start(7, &two_entries());
    let client = node.client(&spawn(&node));
    let mut bundles = client.jwt_bundles().await;
    bundles.update().await;
    assert_eq!(client.jwt_svids("ledger", WEB).await.unwrap().len(), 1);
    take_web(&node).await;
    assert_eq!(client.jwt_svids("ledger", DB).await.map(|svids| svids.len()), Ok(1));
    node.rotate(None, false).unwrap();
    assert!(matches!(bundles.within(SECOND).await, Some(Seen::Update(_))));
}
