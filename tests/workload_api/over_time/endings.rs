//! What the log says of a certificate from its issue to its end.

use std::collections::BTreeMap;
use std::time::Duration;

use bonafide::agent::reload::ReloadTrigger;
use bonafide::audit::Event;

use crate::kernel::FakePid;
use crate::kernel::FakeProcess;
use crate::node::Seen;
use crate::node::TestNode;
use crate::node::workload;

const MINUTE: Duration = Duration::from_secs(60);

fn web_and_metrics() -> String {
    workload("/web", &["unix:uid:1000"]) + &workload("/metrics", &["unix:uid:1000"])
}

fn web(node: &TestNode) -> FakePid {
    node.kernel.spawn(FakeProcess { uid: 1000, gid: 1000, ..FakeProcess::default() })
}

/// The reasons for which certificates ended, and how many for each.
fn words(node: &TestNode) -> BTreeMap<String, usize> {
    let mut words = BTreeMap::new();
    for record in node.records.0.lock().unwrap().iter().filter(|record| record.event == Event::Ended) {
        *words.entry(record.reason.clone().unwrap()).or_default() += 1;
    }
    words
}

fn once(word: &str) -> BTreeMap<String, usize> {
    [(word.to_owned(), 1)].into()
}

/// The node has done all it can once nothing but its timers is left.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_certificate_signed_for_entries_that_are_gone_has_ended() {
    let node = TestNode::start(7, &web_and_metrics());
    node.authority.sign_only(1);
    let mut stream = node.workload_later(&web(&node));
    settle().await;
    assert_eq!(node.records.of_certificates(Event::Issued).len(), 1, "the second one waits to be signed");
    node.reload(&(web_and_metrics() + "hint = \"new\"\n"), ReloadTrigger::Asked);
    node.authority.sign_only(100);
    assert!(matches!(stream.within(MINUTE).await, Some(Seen::Update(_))));
    assert_eq!(words(&node), once("stale"));
    assert_eq!(node.records.of_certificates(Event::Issued).len(), 2);
    assert_eq!(node.records.of_certificates(Event::Delivered).len(), 1, "the first is handed over by the new decision");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_ends_when_its_stream_closes_before_the_next_is_signed() {
    let node = TestNode::start(7, &web_and_metrics());
    node.authority.sign_only(1);
    let process = web(&node);
    let stream = node.workload_later(&process);
    settle().await;
    assert_eq!(node.records.of_certificates(Event::Issued).len(), 1);
    assert_eq!(words(&node), BTreeMap::new());
    process.exit();
    settle().await;
    drop(stream);
    tokio::time::sleep(MINUTE).await;
    assert_eq!(words(&node), once("closed"));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_renewed_has_ended() {
    let node = TestNode::start(7, &workload("/web", &["unix:uid:1000"]));
    let mut stream = node.workload(&web(&node)).await;
    let first = stream.next().await;
    assert_ne!(stream.within(40 * MINUTE).await.unwrap(), first);
    assert_eq!(words(&node), once("renewed"));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_behind_a_missing_default_ends_unserved() {
    let node = TestNode::start(7, &web_and_metrics());
    node.authority.refuse_path("/web");
    assert!(matches!(node.workload(&web(&node)).await.next().await, Seen::End(_)));
    assert_eq!(words(&node), once("withheld"));
}

#[tokio::test(start_paused = true)]
async fn an_identity_that_is_lost_while_another_stays_has_ended() {
    let node = TestNode::start(7, &web_and_metrics());
    let mut stream = node.workload(&web(&node)).await;
    stream.next().await;
    node.reload(&workload("/web", &["unix:uid:1000"]), ReloadTrigger::Asked);
    stream.next().await;
    assert_eq!(words(&node), once("denied"));
}
