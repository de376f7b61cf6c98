//! One SVID per process image and entry: what shares it, what ends it, and what is written down.

use std::collections::BTreeSet;
use std::time::Duration;

use bonafide::agent::reload::ReloadTrigger;
use bonafide::attestation::kernel::Namespace;
use bonafide::audit::Event;
use bonafide::endpoints::workload_api::proto::X509svidResponse;
use bytes::Bytes;
use tonic::Code;

use crate::kernel::FakePid;
use crate::kernel::FakeProcess;
use crate::node::Seen;
use crate::node::TestNode;
use crate::node::workload;

const SECOND: Duration = Duration::from_secs(1);

fn entries() -> String {
    workload("/web", &["unix:uid:1000"]) + &workload("/metrics", &["unix:uid:1000"])
}

fn web(node: &TestNode) -> FakePid {
    node.kernel.spawn(FakeProcess::default())
}

/// The keys of the default identity and of the other.
fn keys(update: &X509svidResponse) -> [Bytes; 2] {
    [0, 1].map(|at| update.svids[at].x509_svid_key.clone())
}

/// What a new connection of the process gets; it is closed again.
async fn once(node: &TestNode, process: &FakePid) -> [Bytes; 2] {
    keys(&node.client(process).x509_svids().await.update().await)
}

async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn every_connection_and_stream_of_a_process_has_one_key_for_each_entry() {
    let node = TestNode::start(7, &entries());
    let process = web(&node);
    let (one, other) = (node.client(&process), node.client(&process));
    let mut streams = [one.x509_svids().await, one.x509_svids().await, other.x509_svids().await];
    let mut all = BTreeSet::new();
    for stream in &mut streams {
        all.insert(keys(&stream.update().await));
    }
    let [[default, second]] = &all.iter().collect::<Vec<_>>()[..] else { panic!("{} answers", all.len()) };
    assert_ne!(default, second, "each entry has a key of its own");
}

#[tokio::test(start_paused = true)]
async fn streams_that_open_at_once_share_one_issuance() {
    let node = TestNode::start(7, &workload("/web", &["unix:uid:1000"]));
    let process = web(&node);
    node.authority.sign_only(0);
    let mut streams: Vec<_> = (0..20).map(|_| node.workload_later(&process)).collect();
    settle().await;
    node.authority.sign_only(1);
    for stream in &mut streams {
        assert!(matches!(stream.within(60 * SECOND).await, Some(Seen::Update(_))));
    }
    let issued = node.records.of_certificates(Event::Issued);
    assert_eq!(issued.into_values().collect::<Vec<_>>(), [1]);
    assert_eq!(node.records.of_certificates(Event::Delivered).into_values().collect::<Vec<_>>(), [19]);
}

#[tokio::test(start_paused = true)]
async fn another_process_has_another_key() {
    let node = TestNode::start(7, &entries());
    let (parent, forked) = (web(&node), web(&node));
    let all: BTreeSet<_> = [once(&node, &parent).await, once(&node, &forked).await].concat().into_iter().collect();
    assert_eq!(all.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_exec_of_the_same_file_gets_a_new_key() {
    let node = TestNode::start(7, &entries());
    let process = web(&node);
    let before = once(&node, &process).await;
    process.exec("/usr/bin/web");
    let after = once(&node, &process).await;
    assert!(before.iter().all(|key| !after.contains(key)));
    assert_eq!(once(&node, &process).await, after);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_takes_over_a_number_has_another_key() {
    let node = TestNode::start(7, &entries());
    let process = web(&node);
    let before = once(&node, &process).await;
    process.exit();
    let successor = node.kernel.reuse(&process, FakeProcess::default());
    let after = once(&node, &successor).await;
    assert!(before.iter().all(|key| !after.contains(key)));
}

#[tokio::test(start_paused = true)]
async fn changed_terms_change_the_key_and_an_edit_elsewhere_does_not() {
    let node = TestNode::start(7, &entries());
    let process = web(&node);
    let before = once(&node, &process).await;
    let elsewhere = workload("/elsewhere", &["unix:uid:2000"]) + &entries();
    node.reload(&elsewhere, ReloadTrigger::Asked);
    assert_eq!(once(&node, &process).await, before);
    node.reload(&(entries() + "x509_ttl = \"30m\"\n"), ReloadTrigger::Asked);
    let after = once(&node, &process).await;
    assert_eq!(after[0], before[0]);
    assert_ne!(after[1], before[1]);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_was_gone_for_a_moment_comes_back_with_another_key() {
    let node = TestNode::start(7, &entries());
    let process = web(&node);
    let before = once(&node, &process).await;
    node.reload(&workload("/metrics", &["unix:uid:1000"]), ReloadTrigger::Asked);
    node.reload(&entries(), ReloadTrigger::Asked);
    let after = once(&node, &process).await;
    assert_ne!(after[0], before[0]);
    assert_eq!(after[1], before[1]);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_reconnects_within_a_minute_has_the_same_key_and_later_another() {
    let node = TestNode::start(7, &entries());
    let process = web(&node);
    let first = once(&node, &process).await;
    for _ in 0..3 {
        tokio::time::sleep(55 * SECOND).await;
        assert_eq!(once(&node, &process).await, first, "each connection counts anew");
    }
    tokio::time::sleep(75 * SECOND).await;
    assert_ne!(once(&node, &process).await, first);
}

#[tokio::test(start_paused = true)]
async fn one_principal_keeps_few_images_without_a_connection() {
    let node = TestNode::start(7, &entries());
    let first = web(&node);
    let stranger =
        node.kernel.spawn(FakeProcess { cgroup: "/system.slice/db.service".to_owned(), ..FakeProcess::default() });
    let (before, strangers) = (once(&node, &first).await, once(&node, &stranger).await);
    for _ in 0..200 {
        once(&node, &web(&node)).await;
    }
    assert_ne!(once(&node, &first).await, before, "it was the longest idle of its principal");
    assert_eq!(once(&node, &stranger).await, strangers);
}

#[tokio::test(start_paused = true)]
async fn every_hand_over_is_a_record_of_the_one_issuance() {
    let node = TestNode::start(7, &workload("/web", &["unix:uid:1000"]));
    let process = web(&node);
    let (one, other) = (node.client(&process), node.client(&process));
    let mut streams = [one.x509_svids().await, one.x509_svids().await, other.x509_svids().await];
    for stream in &mut streams {
        stream.update().await;
    }
    let records = node.records.0.lock().unwrap().clone();
    let of = |event| records.iter().filter(|record| record.event == event).collect::<Vec<_>>();
    let (issued, delivered) = (of(Event::Issued), of(Event::Delivered));
    assert_eq!((issued.len(), delivered.len()), (1, 2));
    assert!(delivered.iter().all(|record| record.issuance == issued[0].issuance && record.serial == issued[0].serial));
}

#[tokio::test(start_paused = true)]
async fn an_svid_that_is_shared_is_handed_out_only_to_who_is_permitted_it_now() {
    let node = TestNode::start(7, &workload("/host", &["unix:uid:1000", "host:true"]));
    let process = web(&node);
    let mut stream = node.client(&process).x509_svids().await;
    stream.update().await;
    process.unshare(Namespace::Cgroup);
    let refused = node.client(&process).x509_svids().await.within(SECOND).await;
    assert_eq!(refused, Some(Seen::End(Code::PermissionDenied)));
    assert_eq!(stream.within(11 * SECOND).await, Some(Seen::End(Code::PermissionDenied)));
}

#[tokio::test(start_paused = true)]
async fn what_changes_nothing_that_an_identity_rests_on_ends_nothing() {
    let node = TestNode::start(7, &workload("/web", &["unix:uid:1000"]));
    let process = web(&node);
    let mut stream = node.client(&process).x509_svids().await;
    stream.update().await;
    process.setgroups(&[]);
    process.unshare(Namespace::Cgroup);
    process.unshare(Namespace::Mount);
    process.unshare(Namespace::User);
    process.move_to("/system.slice/other.service");
    assert_eq!(stream.within(25 * SECOND).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_leaves_its_cgroup_and_comes_back_is_decided_once_and_not_again_and_again() {
    let node = TestNode::start(7, &workload("/web", &["unix:uid:1000"]));
    let process = web(&node);
    let mut streams = Vec::new();
    for _ in 0..16 {
        let mut stream = node.client(&process).x509_svids().await;
        stream.update().await;
        streams.push(stream);
    }
    process.move_to("/system.slice/other.service");
    let before = node.kernel.questions();
    while node.kernel.questions() == before {
        settle().await;
    }
    process.move_to(&FakeProcess::default().cgroup);
    let before = node.kernel.questions();
    tokio::time::sleep(7 * SECOND).await;
    let asked = node.kernel.questions() - before;
    assert!(asked < 40, "{asked} questions for an attestation or two");
}
