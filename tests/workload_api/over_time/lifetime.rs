//! What becomes of a live identity: renewal, reload, exit and denial, on a whole node in one thread.

use std::time::Duration;

use bonafide::agent::reload::ReloadTrigger;
use bonafide::audit::Event;
use bonafide::evidence::Undecided;
use futures_util::FutureExt as _;
use tonic::Code;

use crate::kernel::FakePid;
use crate::kernel::FakeProcess;
use crate::node::Seen;
use crate::node::TestNode;
use crate::node::Updates;
use crate::node::workload;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn of_user(node: &TestNode, uid: u32) -> FakePid {
    node.kernel.spawn(FakeProcess { uid, gid: uid, ..FakeProcess::default() })
}

/// A node whose user 1000 is `/web`, with one workload of it that has its first SVID.
async fn serving() -> (TestNode, FakePid, Updates) {
    let node = TestNode::start(7, &workload("/web", &["unix:uid:1000"]));
    let web = of_user(&node, 1000);
    let mut stream = node.workload(&web).await;
    assert_eq!(stream.ids().await, ["spiffe://example.org/web"]);
    (node, web, stream)
}

fn leaf(seen: &Seen) -> (Vec<u8>, Vec<u8>) {
    let Seen::Update(update) = seen else { panic!("no update but {seen:?}") };
    (update.svids[0].x509_svid.to_vec(), update.svids[0].x509_svid_key.to_vec())
}

#[tokio::test(start_paused = true)]
async fn an_svid_is_renewed_with_a_new_key_around_half_of_its_life() {
    let (_node, _web, mut stream) = serving().await;
    assert_eq!(stream.within(27 * MINUTE - Duration::from_secs(2)).await, None);
    let first = leaf(&stream.within(7 * MINUTE).await.unwrap());
    let second = leaf(&stream.within(34 * MINUTE).await.unwrap());
    assert_ne!(first.0, second.0);
    assert_ne!(first.1, second.1);
}

#[tokio::test(start_paused = true)]
async fn a_workload_keeps_its_svid_to_its_end_while_the_authority_is_down() {
    let (node, _web, mut stream) = serving().await;
    node.authority.refuse("signer unreachable");
    assert_eq!(stream.within(59 * MINUTE).await, None);
    assert_eq!(stream.within(MINUTE + Duration::from_secs(2)).await, Some(Seen::End(Code::Unavailable)));
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_succeeds_soon_after_the_authority_is_back() {
    let (node, _web, mut stream) = serving().await;
    node.authority.refuse("signer unreachable");
    assert_eq!(stream.within(40 * MINUTE).await, None);
    node.authority.relent();
    assert!(matches!(stream.within(2 * MINUTE).await, Some(Seen::Update(_))));
}

#[tokio::test(start_paused = true)]
async fn an_incomplete_check_keeps_svids_and_makes_newcomers_retry() {
    let (node, _web, mut stream) = serving().await;
    node.kernel.fail(Undecided::OutOfDescriptors);
    assert_eq!(stream.within(45 * MINUTE).await, None);
    let newcomer = of_user(&node, 1000);
    assert_ne!(node.workload(&newcomer).await.next().await, Seen::End(Code::PermissionDenied));
    node.kernel.heal();
    assert!(matches!(stream.within(5 * MINUTE).await, Some(Seen::Update(_))));
}

#[tokio::test(start_paused = true)]
async fn a_process_without_an_entry_is_denied_and_the_record_says_why() {
    let (node, ..) = serving().await;
    let stranger = of_user(&node, 1001);
    assert_eq!(node.workload(&stranger).await.next().await, Seen::End(Code::PermissionDenied));
    let records = node.records.0.lock().unwrap();
    let denial = records.iter().find(|record| record.event == Event::Denied).unwrap();
    assert_eq!((denial.uid, denial.reason.as_deref()), (1001, Some("no_entry")));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_became_another_program_gets_no_second_svid() {
    let (_node, web, mut stream) = serving().await;
    web.exec("/usr/bin/other");
    assert_eq!(stream.within(HOUR).await, Some(Seen::End(Code::PermissionDenied)));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_changed_its_user_gets_no_second_svid() {
    let (_node, web, mut stream) = serving().await;
    web.setuid(1001);
    assert_eq!(stream.within(HOUR).await, Some(Seen::End(Code::PermissionDenied)));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_moved_keeps_what_does_not_depend_on_its_cgroup() {
    let (_node, web, mut stream) = serving().await;
    web.move_to("/system.slice/other.service");
    assert!(matches!(stream.within(HOUR).await, Some(Seen::Update(_))));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_left_its_unit_loses_the_units_identity() {
    let node = TestNode::start(7, &workload("/web", &["systemd:id:web.service"]));
    let web = of_user(&node, 1000);
    let mut stream = node.workload(&web).await;
    assert_eq!(stream.ids().await, ["spiffe://example.org/web"]);
    web.move_to("/system.slice/other.service");
    assert_eq!(stream.within(Duration::from_secs(10)).await, Some(Seen::End(Code::PermissionDenied)));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_changed_loses_its_stream_within_ten_seconds() {
    type Change = fn(&FakePid);
    let changes: [Change; 2] = [|web| web.exec("/usr/bin/other"), |web| web.setuid(1001)];
    for change in changes {
        let (_node, web, mut stream) = serving().await;
        assert_eq!(stream.within(MINUTE).await, None, "it stays as long as nothing changes");
        change(&web);
        assert_eq!(stream.within(Duration::from_secs(10)).await, Some(Seen::End(Code::PermissionDenied)));
    }
}

/// A process with so many streams on one connection, each of which has its first SVID.
async fn serving_many(node: &TestNode, streams: usize) -> (FakePid, Vec<Updates>) {
    let web = of_user(node, 1000);
    let client = node.client(&web);
    let mut open = Vec::new();
    for _ in 0..streams {
        let mut stream = client.x509_svids().await;
        stream.update().await;
        open.push(stream);
    }
    (web, open)
}

#[tokio::test(start_paused = true)]
async fn all_streams_of_a_connection_share_one_check_in_ten_seconds() {
    let mut asked = Vec::new();
    for streams in [1, 50] {
        let node = TestNode::start(7, &workload("/web", &["unix:uid:1000"]));
        let (_web, _open) = serving_many(&node, streams).await;
        let before = node.kernel.questions();
        tokio::time::sleep(5 * MINUTE).await;
        asked.push(node.kernel.questions() - before);
    }
    assert!(asked[0] > 0 && asked[1] < asked[0] * 3 / 2, "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_shared_check_ends_every_stream_within_ten_seconds() {
    let node = TestNode::start(7, &workload("/web", &["unix:uid:1000"]));
    let (web, open) = serving_many(&node, 20).await;
    tokio::time::sleep(MINUTE).await;
    web.exec("/usr/bin/other");
    tokio::time::sleep(Duration::from_secs(10)).await;
    for mut stream in open {
        assert_eq!(stream.next().now_or_never(), Some(Seen::End(Code::PermissionDenied)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_that_cannot_be_made_takes_nothing_away() {
    let (node, web, mut stream) = serving().await;
    node.kernel.fail(Undecided::OutOfDescriptors);
    web.exec("/usr/bin/other");
    assert_eq!(stream.within(MINUTE).await, None);
    node.kernel.heal();
    assert_eq!(stream.within(Duration::from_secs(10)).await, Some(Seen::End(Code::PermissionDenied)));
}

#[tokio::test(start_paused = true)]
async fn exit_ends_the_stream_within_100_ms_and_is_recorded() {
    let (node, web, mut stream) = serving().await;
    web.exit();
    assert!(matches!(stream.within(Duration::from_millis(100)).await, Some(Seen::End(_))));
    let records = node.records.0.lock().unwrap();
    assert!(records.iter().any(|record| record.event == Event::Ended && record.kind.as_deref() == Some("x509")));
}

#[tokio::test(start_paused = true)]
async fn a_changed_entry_reaches_its_stream_within_a_second_and_wakes_no_other() {
    let entries = |dns: &str| workload("/web", &["unix:uid:1000"]) + dns + &workload("/db", &["unix:uid:1001"]);
    let node = TestNode::start(7, &entries(""));
    let (mut web, mut db) = (node.workload(&of_user(&node, 1000)).await, node.workload(&of_user(&node, 1001)).await);
    let (first, _) = (web.next().await, db.next().await);
    let asked_before = node.kernel.questions();
    assert_eq!(node.reload(&entries("dns = [\"web.internal\"]\n"), ReloadTrigger::SeenOnDisk).changed.len(), 1);
    let second = web.within(Duration::from_secs(1)).await.unwrap();
    assert_ne!(leaf(&first), leaf(&second));
    let asked_for_one = node.kernel.questions() - asked_before;
    assert_eq!(db.within(Duration::from_secs(6)).await, None, "before the next check");
    assert_eq!(node.kernel.questions() - asked_before, asked_for_one, "someone else was checked");
}

#[tokio::test(start_paused = true)]
async fn a_new_entry_adds_an_identity_and_keeps_the_key_of_the_other() {
    let (node, _web, mut stream) = serving().await;
    let both = workload("/web", &["unix:uid:1000"]) + &workload("/metrics", &["unix:uid:1000"]);
    assert_eq!(node.reload(&both, ReloadTrigger::SeenOnDisk).added.len(), 1);
    assert_eq!(stream.ids().await, ["spiffe://example.org/web", "spiffe://example.org/metrics"]);
}

#[tokio::test(start_paused = true)]
async fn a_second_identity_is_not_served_while_the_first_cannot_be_signed() {
    let both = workload("/web", &["unix:uid:1000"]) + &workload("/metrics", &["unix:uid:1000"]);
    let node = TestNode::start(7, &both);
    node.authority.refuse_path("/web");
    assert_eq!(node.workload(&of_user(&node, 1000)).await.next().await, Seen::End(Code::Unavailable));
    node.authority.refuse_path("/metrics");
    let mut stream = node.workload(&of_user(&node, 1000)).await;
    assert_eq!(stream.ids().await, ["spiffe://example.org/web"]);
}

#[tokio::test(start_paused = true)]
async fn a_removed_entry_ends_its_stream_with_permission_denied() {
    let (node, _web, mut stream) = serving().await;
    assert!(node.reload(&workload("/db", &["unix:uid:1001"]), ReloadTrigger::SeenOnDisk).swapped);
    assert_eq!(stream.within(Duration::from_secs(1)).await, Some(Seen::End(Code::PermissionDenied)));
}

#[tokio::test(start_paused = true)]
async fn a_stricter_entry_keeps_the_connection_that_fetched_a_token_by_it() {
    let node = TestNode::start(7, &workload("/web", &["unix:uid:1000"]));
    let client = node.client(&of_user(&node, 1000));
    let mut stream = client.x509_svids().await;
    stream.update().await;
    client.jwt_svids("ledger", "").await.unwrap();
    let more = workload("/web", &["unix:uid:1000", "unix:path:/usr/bin/web"]) + "hint = \"more\"\n";
    assert!(node.reload(&more, ReloadTrigger::Asked).swapped);
    assert_eq!(stream.update().await.svids[0].hint, "more");
}

#[tokio::test(start_paused = true)]
async fn a_seen_change_that_ends_many_identities_waits_for_a_reload() {
    let entries = workload("/web", &["unix:uid:1000"]) + &workload("/db", &["unix:uid:1001"]);
    let node = TestNode::start(7, &entries);
    let (mut web, mut db) = (node.workload(&of_user(&node, 1000)).await, node.workload(&of_user(&node, 1001)).await);
    let _ = (web.next().await, db.next().await);
    let nobody = workload("/other", &["unix:uid:1002"]);
    let report = node.reload(&nobody, ReloadTrigger::SeenOnDisk);
    assert_eq!((report.swapped, report.held_back.len()), (false, 2));
    assert!(!node.readiness.watch().borrow().is_empty());
    assert_eq!(web.within(MINUTE).await, None);
    assert!(node.reload(&nobody, ReloadTrigger::Asked).swapped);
    assert_eq!(web.within(Duration::from_secs(1)).await, Some(Seen::End(Code::PermissionDenied)));
    assert!(node.readiness.watch().borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_clock_step_past_the_renewal_renews_within_two_seconds() {
    let (node, _web, mut stream) = serving().await;
    assert_eq!(stream.within(MINUTE).await, None);
    node.clock.step_forward(50 * MINUTE);
    assert!(matches!(stream.within(Duration::from_secs(2)).await, Some(Seen::Update(_))));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_ends_every_stream_as_unavailable() {
    let (node, _web, mut stream) = serving().await;
    node.stop();
    assert_eq!(stream.within(Duration::from_secs(1)).await, Some(Seen::End(Code::Unavailable)));
}
