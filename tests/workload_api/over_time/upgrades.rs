//! Package upgrades under running services: a file that is replaced while processes run it.

use std::time::Duration;

use aws_lc_rs::digest::SHA256;
use aws_lc_rs::digest::digest;
use bonafide::endpoints::admin::reports::ExplainOutcome;
use bonafide::evidence::Grade;
use bonafide::evidence::SelectorKind;
use bonafide::evidence::Source;
use bonafide::evidence::WithheldBecause;
use futures_util::FutureExt as _;
use tonic::Code;

use crate::kernel::FakeKernel;
use crate::kernel::FakePid;
use crate::kernel::FakeProcess;
use crate::kernel::faults::Question;
use crate::node::Client;
use crate::node::Seen;
use crate::node::TestNode;
use crate::node::Updates;
use crate::node::ids;
use crate::node::workload;

const WEB: &str = "/usr/bin/web";
const BY_PATH: &str = "spiffe://example.org/by-path";
const BY_HASH: &str = "spiffe://example.org/by-hash";
const BY_UID: &str = "spiffe://example.org/by-uid";
/// Longer than from one renewal to the next.
const RENEWAL: Duration = Duration::from_secs(3600);

fn by_path() -> String {
    workload("/by-path", &["unix:uid:1000", &format!("unix:path:{WEB}")])
}

fn by_hash() -> String {
    let hash: String = digest(&SHA256, WEB.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    workload("/by-hash", &["unix:uid:1000", &format!("unix:sha256:{hash}")])
}

fn by_uid() -> String {
    workload("/by-uid", &["unix:uid:1000"])
}

/// A node, and a service that has its identities.
async fn serving(tables: &str, prepare: impl FnOnce(&FakeKernel)) -> (TestNode, FakePid, Client, Updates) {
    let node = TestNode::start(7, tables);
    let web = node.kernel.spawn(FakeProcess::default());
    prepare(&node.kernel);
    let client = node.client(&web);
    let mut updates = client.x509_svids().await;
    updates.update().await;
    (node, web, client, updates)
}

/// The IDs of the next renewals.
async fn at_renewals(updates: &mut Updates, count: usize) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for _ in 0..count {
        match updates.within(RENEWAL).await {
            Some(Seen::Update(update)) => all.push(ids(&update)),
            other => panic!("{other:?}"),
        }
    }
    all
}

#[tokio::test(start_paused = true)]
async fn a_package_upgrade_takes_nothing_from_a_running_service_at_its_renewals() {
    for prepare in [|_: &FakeKernel| (), |kernel: &FakeKernel| kernel.on_file_system(WEB, 0x9123_683E)] {
        let (node, _, client, mut updates) = serving(&(by_path() + &by_hash()), prepare).await;
        node.kernel.replace(WEB, b"the next version");
        let mut other_stream = client.x509_svids().await;
        assert_eq!(other_stream.ids().await, [BY_PATH, BY_HASH]);
        assert_eq!(at_renewals(&mut updates, 3).await, vec![vec![BY_PATH, BY_HASH]; 3]);
        assert_eq!(client.jwt_svids("ledger", BY_PATH).await.unwrap().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_package_upgrade_takes_nothing_from_a_new_connection_of_a_running_service() {
    let (node, web, client, mut updates) = serving(&by_path(), |_| ()).await;
    node.kernel.replace(WEB, b"the next version");
    assert_eq!(node.workload(&web).await.ids().await, [BY_PATH]);
    assert_eq!(node.client(&web).jwt_svids("ledger", BY_PATH).await.unwrap().len(), 1);
    assert_eq!(at_renewals(&mut updates, 1).await, [[BY_PATH]]);
    drop((client, updates));
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(node.workload(&web).await.ids().await, [BY_PATH], "a reconnect within a minute");
    let other = node.kernel.spawn(FakeProcess::default());
    assert_eq!(node.workload(&other).await.ids().await, [BY_PATH], "a process of the next version");
}

#[tokio::test(start_paused = true)]
async fn a_service_without_a_connection_for_a_minute_has_to_prove_its_path_anew() {
    let (node, web, client, updates) = serving(&by_path(), |_| ()).await;
    node.kernel.replace(WEB, b"the next version");
    drop((client, updates));
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert_eq!(node.workload(&web).await.next().await, Seen::End(Code::PermissionDenied));
}

#[tokio::test(start_paused = true)]
async fn a_mount_over_the_path_takes_nothing_from_who_ran_the_file_before() {
    let (node, _, _, mut updates) = serving(&by_path(), |_| ()).await;
    node.kernel.mount_over(WEB, b"another program");
    assert_eq!(at_renewals(&mut updates, 1).await, [[BY_PATH]]);
}

#[tokio::test(start_paused = true)]
async fn a_path_that_was_proven_needs_no_answer_of_a_file_system_that_hangs_later() {
    let (_node, web, client, mut updates) = serving(&(by_path() + &by_hash()), |_| ()).await;
    assert_eq!(updates.ids().await, [BY_PATH, BY_HASH], "the hash is proven, too, so the file system is known");
    let _hang = web.hang(Question::AtPath);
    tokio::time::advance(Duration::from_secs(2)).await;
    let mut other_stream = client.x509_svids_later();
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    let at_once = other_stream.ids().now_or_never();
    assert_eq!(at_once, Some(vec![BY_PATH.to_owned(), BY_HASH.to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_replaced_file_that_somebody_else_than_root_could_write_proves_no_path_any_more() {
    const OVERLAY: i64 = 0x794C_7630;
    let not_of_root: [fn(&FakeKernel); 3] = [
        |kernel| kernel.chown(WEB, 1000),
        |kernel| kernel.chown(WEB, 2000),
        |kernel| kernel.on_file_system(WEB, OVERLAY),
    ];
    for prepare in not_of_root {
        let (node, _, _, mut updates) = serving(&by_path(), prepare).await;
        assert_eq!(at_renewals(&mut updates, 1).await, [[BY_PATH]]);
        node.kernel.replace(WEB, b"the next version");
        assert_eq!(updates.within(RENEWAL).await, Some(Seen::End(Code::PermissionDenied)));
    }
}

#[tokio::test(start_paused = true)]
async fn an_earlier_proof_is_of_the_image_and_not_of_the_process() {
    let (node, web, _, mut updates) = serving(&by_path(), |_| ()).await;
    node.kernel.replace(WEB, b"the next version");
    assert_eq!(at_renewals(&mut updates, 1).await, [[BY_PATH]]);
    web.exec("/usr/bin/other");
    assert_eq!(updates.within(RENEWAL).await, Some(Seen::End(Code::PermissionDenied)));
    assert_eq!(node.workload(&web).await.next().await, Seen::End(Code::PermissionDenied));
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_of_the_daemon_a_replaced_file_proves_no_path() {
    let (node, web, _, _updates) = serving(&by_path(), |_| ()).await;
    node.kernel.replace(WEB, b"the next version");
    let restarted = TestNode::on(node.kernel.clone(), &by_path());
    assert_eq!(restarted.workload(&web).await.next().await, Seen::End(Code::PermissionDenied));
}

#[tokio::test(start_paused = true)]
async fn status_names_who_runs_a_replaced_file_and_would_lose_an_identity_by_it() {
    let (mut node, web, _, mut updates) = serving(&(by_path() + &by_uid()), |_| ()).await;
    let other = node.kernel.spawn(FakeProcess { exe: "/usr/bin/other", ..FakeProcess::default() });
    let _other_updates = node.workload(&other).await.update().await;
    let operator = node.open_admin_door();
    assert_eq!(operator.status().await.replaced, []);
    node.kernel.replace(WEB, b"the next version");
    node.kernel.replace("/usr/bin/other", b"the next version");
    let replaced = operator.status().await.replaced;
    let [named] = &replaced[..] else { panic!("{replaced:?}") };
    assert_eq!((named.pid, named.program.as_str(), named.unit.as_deref()), (web.number(), WEB, Some("web.service")));
    assert_eq!((&named.loses[..], &named.keeps[..]), (&[BY_PATH.to_owned()][..], &[BY_UID.to_owned()][..]));
    assert_eq!(at_renewals(&mut updates, 2).await, [[BY_PATH, BY_UID]; 2]);
    assert_eq!(operator.status().await.replaced, replaced, "after renewals it is said, too");
    web.exit();
    assert_eq!(updates.next().await, Seen::End(Code::PermissionDenied));
    assert_eq!(operator.status().await.replaced, []);
}

#[tokio::test(start_paused = true)]
async fn status_names_nobody_whose_identity_does_not_rest_on_the_path() {
    for tables in [by_uid(), by_hash()] {
        let (mut node, _, _, _updates) = serving(&tables, |_| ()).await;
        let operator = node.open_admin_door();
        node.kernel.replace(WEB, b"the next version");
        assert_eq!(operator.status().await.replaced, [], "{tables}");
    }
}

#[tokio::test(start_paused = true)]
async fn explain_calls_path_and_hash_claimed_and_tells_an_earlier_proof_from_a_new_one() {
    let (mut node, web, _, _updates) = serving(&(by_path() + &by_hash()), |_| ()).await;
    let operator = node.open_admin_door();
    let claimed = async || {
        let report = operator.explain(web.number()).await.unwrap();
        assert!(matches!(report.result, ExplainOutcome::Permitted { .. }), "{report:?}");
        let facts = report.evidence.facts().iter().filter(|fact| fact.grade == Grade::Claimed);
        let sources: Vec<_> = facts.map(|fact| (fact.selector.kind(), fact.source)).collect();
        (sources, report.evidence.withheld_because(SelectorKind::UnixPath))
    };
    let (path, hash) = (SelectorKind::UnixPath, (SelectorKind::UnixSha256, Source::ExecutableBytes));
    assert_eq!(claimed().await, (vec![(path, Source::Executable), hash], None));
    node.kernel.replace(WEB, b"the next version");
    assert_eq!(claimed().await, (vec![(path, Source::EarlierProof), hash], Some(WithheldBecause::Deleted)));
}
