//! What becomes of a live identity: renewal, reload, exit and denial, on a whole node in one thread.

use std::sync::Arc;
use std::time::Duration;

use bonafide::agent::reload::ReloadTrigger;
use bonafide::audit::Event;
use bonafide::endpoints::workload_api::proto::JwtsvidRequest;
use bonafide::endpoints::workload_api::proto::X509svidResponse;
use bonafide::endpoints::workload_api::proto::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use bonafide::evidence::Undecided;
use futures_util::FutureExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tonic::Code;
use tonic::Streaming;

use crate::asking::asking;
use crate::http2;
use crate::kernel::FakePid;
use crate::kernel::FakeProcess;
use crate::node::Seen;
use crate::node::TestNode;
use crate::node::Workload;
use crate::node::fetch_x509_on;
use crate::node::workload;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn of_user(node: &TestNode, uid: u32) -> FakePid {
    node.kernel.spawn(FakeProcess { uid, gid: uid, ..FakeProcess::default() })
}

/// A node whose user 1000 is `/web`, with one workload of it that has its first SVID.
async fn serving() -> (TestNode, FakePid, Workload) {
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
async fn a_workload_keeps_its_svid_while_the_authority_is_down_and_not_past_its_end() {
    let (node, _web, mut stream) = serving().await;
    node.authority.refuse("signer unreachable");
    assert_eq!(stream.within(59 * MINUTE).await, None);
    assert_eq!(stream.within(MINUTE + Duration::from_secs(2)).await, Some(Seen::End(Code::Unavailable)));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_failed_is_made_up_for_soon_after_the_authority_is_back() {
    let (node, _web, mut stream) = serving().await;
    node.authority.refuse("signer unreachable");
    assert_eq!(stream.within(40 * MINUTE).await, None);
    node.authority.relent();
    assert!(matches!(stream.within(2 * MINUTE).await, Some(Seen::Update(_))));
}

#[tokio::test(start_paused = true)]
async fn a_check_that_cannot_be_completed_keeps_what_is_held_and_turns_newcomers_away_as_unavailable() {
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
async fn a_process_that_moved_to_another_cgroup_keeps_what_does_not_rest_on_its_place() {
    let (_node, web, mut stream) = serving().await;
    web.move_to("/system.slice/other.service");
    assert!(matches!(stream.within(HOUR).await, Some(Seen::Update(_))));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_left_its_unit_gets_nothing_more_of_the_units() {
    let node = TestNode::start(7, &workload("/web", &["systemd:id:web.service"]));
    let web = of_user(&node, 1000);
    let mut stream = node.workload(&web).await;
    assert_eq!(stream.ids().await, ["spiffe://example.org/web"]);
    web.move_to("/system.slice/other.service");
    assert_eq!(stream.within(Duration::from_secs(10)).await, Some(Seen::End(Code::PermissionDenied)));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_not_itself_any_more_loses_its_stream_within_ten_seconds() {
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
async fn serving_many(node: &TestNode, streams: usize) -> (FakePid, Vec<Streaming<X509svidResponse>>) {
    let web = of_user(node, 1000);
    let channel = node.connect(&web).channel().await;
    let mut open = Vec::new();
    for _ in 0..streams {
        let mut stream = fetch_x509_on(channel.clone()).await.unwrap();
        stream.message().await.unwrap();
        open.push(stream);
    }
    (web, open)
}

#[tokio::test(start_paused = true)]
async fn all_streams_of_a_connection_share_one_look_in_ten_seconds() {
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
async fn what_the_shared_look_finds_ends_every_stream_within_ten_seconds() {
    let node = TestNode::start(7, &workload("/web", &["unix:uid:1000"]));
    let (web, open) = serving_many(&node, 20).await;
    tokio::time::sleep(MINUTE).await;
    web.exec("/usr/bin/other");
    tokio::time::sleep(Duration::from_secs(10)).await;
    for mut stream in open {
        let end = stream.message().now_or_never().expect("it has ended");
        assert_eq!(end.unwrap_err().code(), Code::PermissionDenied);
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_that_cannot_be_made_takes_nothing_away() {
    let (node, web, mut stream) = serving().await;
    node.kernel.fail(Undecided::OutOfDescriptors);
    web.exec("/usr/bin/other");
    assert_eq!(stream.within(MINUTE).await, None);
    node.kernel.heal();
    assert_eq!(stream.within(Duration::from_secs(10)).await, Some(Seen::End(Code::PermissionDenied)));
}

#[tokio::test(start_paused = true)]
async fn exit_ends_the_stream_within_a_tenth_of_a_second_and_is_written_down() {
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
    assert_eq!(db.within(Duration::from_secs(6)).await, None, "before anybody is looked at in turn");
    assert_eq!(node.kernel.questions() - asked_before, asked_for_one, "someone else was looked at");
}

#[tokio::test(start_paused = true)]
async fn a_new_entry_adds_an_identity_and_keeps_the_key_of_the_other() {
    let (node, _web, mut stream) = serving().await;
    let both = workload("/web", &["unix:uid:1000"]) + &workload("/metrics", &["unix:uid:1000"]);
    assert_eq!(node.reload(&both, ReloadTrigger::SeenOnDisk).added.len(), 1);
    assert_eq!(stream.ids().await, ["spiffe://example.org/web", "spiffe://example.org/metrics"]);
}

#[tokio::test(start_paused = true)]
async fn no_second_identity_is_served_as_the_default_because_the_first_could_not_be_signed() {
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

/// What a reader gets who asks, waits a second and then reads, while `meanwhile` happens.
async fn read_late(meanwhile: impl FnOnce(&TestNode)) -> Vec<u8> {
    // Settings and a part of the answer's header fit, so that the first message waits in the daemon.
    let node = TestNode::observed(7, &workload("/web", &["unix:uid:1000"]), 100, Arc::new(|_, _| {}));
    let mut reader = node.connect(&of_user(&node, 1000)).bytes;
    reader.write_all(&[http2::hello(), http2::request(1, Some(b"localhost"), &[])].concat()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(node.records.0.lock().unwrap().iter().any(|record| record.event == Event::Issued), "it waits");
    meanwhile(&node);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut read = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(1), reader.read_to_end(&mut read)).await; // cut, or a live stream
    read
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_slow_reader_when_its_entry_goes_never_leaves() {
    let holds_it = |read: Vec<u8>| read.windows(24).any(|bytes| bytes == b"spiffe://example.org/web");
    assert!(holds_it(read_late(|_| {}).await), "an honest reader who is slow");
    let nobody = workload("/db", &["unix:uid:1001"]);
    let read = read_late(|node| assert!(node.reload(&nobody, ReloadTrigger::Asked).swapped)).await;
    assert!(!holds_it(read), "it left");
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_wants_more_than_before_keeps_the_connection_of_one_that_had_a_token_by_it() {
    let node = TestNode::start(7, &workload("/web", &["unix:uid:1000"]));
    let channel = node.connect(&of_user(&node, 1000)).channel().await;
    let mut stream = fetch_x509_on(channel.clone()).await.unwrap();
    stream.message().await.unwrap();
    let token = JwtsvidRequest { audience: vec!["ledger".to_owned()], spiffe_id: String::new() };
    SpiffeWorkloadApiClient::new(channel).fetch_jwtsvid(asking(token)).await.unwrap();
    let more = workload("/web", &["unix:uid:1000", "unix:path:/usr/bin/web"]) + "hint = \"more\"\n";
    assert!(node.reload(&more, ReloadTrigger::Asked).swapped);
    assert_eq!(stream.message().await.unwrap().unwrap().svids[0].hint, "more");
}

#[tokio::test(start_paused = true)]
async fn a_change_merely_seen_that_would_end_many_identities_waits_until_it_is_asked_for() {
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
async fn a_clock_that_steps_past_the_renewal_renews_within_a_second_or_two() {
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
