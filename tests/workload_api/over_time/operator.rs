//! What the operator does to a running node, and what he is told: by files, and at his door.

use std::time::Duration;

use bonafide::authority::KeyKind;
use bonafide::endpoints::admin::reports::AuthorityReport;
use bonafide::endpoints::admin::reports::ExplainOutcome;
use bonafide::endpoints::admin::reports::HealthState;
use bonafide::endpoints::admin::reports::ReloadState;
use bonafide::evidence::Undecided;
use futures_util::FutureExt as _;
use tokio::time::timeout;
use tonic::Code;

use crate::kernel::FakePid;
use crate::kernel::FakeProcess;
use crate::node::Configuration;
use crate::node::Folder;
use crate::node::Seen;
use crate::node::Setup;
use crate::node::TestNode;
use crate::node::ids;
use crate::node::workload;

const SECONDS: Duration = Duration::from_secs(3);

fn of_user(node: &TestNode, uid: u32) -> FakePid {
    node.kernel.spawn(FakeProcess { uid, gid: uid, ..FakeProcess::default() })
}

fn web_is(uid: u32) -> String {
    workload("/web", &[&format!("unix:uid:{uid}")])
}

/// What is followed on a thread needs a clock that runs, and a busy machine needs patience.
const PATIENCE: Duration = Duration::from_secs(60);

fn following(folder: &Folder) -> TestNode {
    TestNode::with(Setup { configuration: Configuration::Files(folder), ..Setup::default() })
}

#[tokio::test]
async fn a_file_that_is_saved_is_put_in_force() {
    let folder = Folder::of(&web_is(1000));
    let node = following(&folder);
    let mut web = node.workload(&of_user(&node, 1000)).await;
    assert_eq!(web.ids().await, ["spiffe://example.org/web"]);
    folder.write_main(&(web_is(1000) + &workload("/metrics", &["unix:uid:1000"])));
    let Some(Seen::Update(update)) = web.within(PATIENCE).await else { panic!("no update") };
    assert_eq!(ids(&update), ["spiffe://example.org/web", "spiffe://example.org/metrics"]);
}

#[tokio::test]
async fn a_bad_file_takes_nothing_away_and_is_a_reason_to_be_degraded() {
    let folder = Folder::of(&web_is(1000));
    let mut node = following(&folder);
    let operator = node.open_admin_door();
    let mut web = node.workload(&of_user(&node, 1000)).await;
    web.update().await;
    folder.write_main("[[workload]]\nid = \"/half\"\n");
    let mut reasons = node.readiness.watch();
    timeout(PATIENCE, reasons.wait_for(|reasons| !reasons.is_empty())).await.unwrap().unwrap();
    let status = operator.status().await;
    assert_eq!((status.state, status.configuration.state), (HealthState::Degraded, ReloadState::LastGood));
    assert!(status.reasons[0].detail.contains("bonafide.toml:2:"), "{:?}", status.reasons);
    assert_eq!(web.next().now_or_never(), None);
    folder.write_main(&web_is(1001));
    assert!(operator.reload().await.problems.is_empty());
    assert_eq!(web.within(PATIENCE).await, Some(Seen::End(Code::PermissionDenied)));
    assert_eq!(operator.status().await.state, HealthState::Healthy);
}

#[tokio::test(start_paused = true)]
async fn status_counts_what_is_live() {
    let mut node = TestNode::start(7, &web_is(1000));
    let operator = node.open_admin_door();
    let web = of_user(&node, 1000);
    let (mut one, mut other) = (node.workload(&web).await, node.workload(&web).await);
    one.update().await;
    other.update().await;
    let before = operator.status().await.identities;
    assert_eq!((before.entries, before.connections, before.live), (1, 2, 2));
    web.exit();
    tokio::time::sleep(SECONDS).await;
    let after = operator.status().await.identities;
    assert_eq!((after.connections, after.live), (0, 0));
}

/// The SVIDs of all X.509 keys that are tainted, or that are not, and those of keys that are gone.
fn svids(report: &AuthorityReport, tainted: bool) -> (u64, u64) {
    let keys = report.keys.iter().filter(|key| key.kind == KeyKind::X509 && key.tainted == tainted);
    (keys.map(|key| key.svids).sum(), report.orphaned_svids)
}

#[tokio::test(start_paused = true)]
async fn live_svids_move_from_a_tainted_key_to_its_successor_and_each_counts_once() {
    let mut node = TestNode::start(7, &web_is(1000));
    let operator = node.open_admin_door();
    let (web, other) = (of_user(&node, 1000), of_user(&node, 1000));
    let mut streams = [node.workload(&web).await, node.workload(&web).await, node.workload(&other).await];
    let mut leaves = Vec::new();
    for stream in &mut streams {
        leaves.push(stream.update().await.svids[0].x509_svid.clone());
    }
    assert_eq!(svids(&operator.authority().await, false), (2, 0));
    let rotated = operator.rotate("kind=x509&taint=true").await.unwrap();
    assert_eq!((rotated.tainted.len(), rotated.svids_to_renew), (1, 2));
    for (stream, old) in streams.iter_mut().zip(&leaves) {
        while stream.update().await.svids[0].x509_svid == *old {}
    }
    let mut report = operator.authority().await;
    assert_eq!(svids(&report, false), (2, 0));
    while report.keys.iter().any(|key| key.tainted) {
        tokio::time::sleep(SECONDS).await;
        report = operator.authority().await;
    }
    assert_eq!(svids(&report, false), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn explain_says_of_a_process_what_its_stream_would_be_told() {
    let mut node = TestNode::start(7, &web_is(1000));
    let operator = node.open_admin_door();
    let (web, stranger) = (of_user(&node, 1000), of_user(&node, 1001));
    let permitted = operator.explain(web.number()).await.unwrap();
    assert_eq!(permitted.result, ExplainOutcome::Permitted { ids: vec!["spiffe://example.org/web".to_owned()] });
    let denied = operator.explain(stranger.number()).await.unwrap();
    assert!(matches!(&denied.result, ExplainOutcome::Denied { why, .. } if why == "no_entry"), "{:?}", denied.result);
    web.fail(Undecided::OutOfDescriptors);
    assert_eq!(operator.explain(web.number()).await.unwrap_err().error, "undecided");
    stranger.exit();
    assert_eq!(operator.explain(stranger.number()).await.unwrap_err().error, "no_such_process");
}

#[tokio::test(start_paused = true)]
async fn a_denial_is_explained_by_the_name_that_the_caller_was_told() {
    let mut node = TestNode::start(7, &web_is(1000));
    let operator = node.open_admin_door();
    let stranger = of_user(&node, 1001);
    let told = node.workload(&stranger).await.refusal().await;
    let decision = told.strip_prefix("no identity issued (").unwrap().strip_suffix(')').unwrap().to_owned();
    let report = operator.explain_denial(&decision).await.unwrap();
    assert_eq!((report.peer, report.decision), (stranger.credentials(), Some(decision)));
    assert_eq!(operator.explain_denial("d-000000000000").await.unwrap_err().error, "unknown_decision");
}
