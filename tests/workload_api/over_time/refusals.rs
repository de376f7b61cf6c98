//! What the log and the operator are told of a refusal: which unit and program it was, and what contradicts.

use std::path::Path;

use bonafide::attestation::host::sighting::Sighting;
use bonafide::audit::Event;
use bonafide::audit::Record;
use bonafide::endpoints::admin::reports::ExplainOutcome;
use bonafide::endpoints::admin::reports::ExplainReport;
use bonafide::evidence::SelectorKind;
use bonafide::evidence::Undecided;

use crate::kernel::FakeProcess;
use crate::kernel::faults::Question;
use crate::node::Client;
use crate::node::Seen;
use crate::node::TestNode;
use crate::node::workload;

/// An entry that no process here matches.
fn somebody() -> String {
    workload("/somebody", &["unix:uid:7", "unix:path:/usr/bin/somebody"])
}

/// A process of the user 1000 whose cgroup lines name two units.
fn in_two_units() -> FakeProcess {
    FakeProcess { v1_cgroup: Some("/system.slice/other.service".to_owned()), ..FakeProcess::default() }
}

/// The id of the decision that a refused caller was told.
fn decision(told: &str) -> &str {
    told.strip_prefix("no identity issued (").unwrap().strip_suffix(')').unwrap()
}

fn last_refusal(node: &TestNode) -> Record {
    let records = node.records.0.lock().unwrap();
    let mut refusals = records.iter().filter(|record| matches!(record.event, Event::Denied | Event::Undecided));
    refusals.next_back().unwrap().clone()
}

fn of_the_process(record: &Record) -> [Option<&str>; 3] {
    [&record.unit, &record.program, &record.cgroup].map(Option::as_deref)
}

const WEB: [Option<&str>; 3] = [Some("web.service"), Some("/usr/bin/web"), Some("/system.slice/web.service")];

fn why(report: &ExplainReport) -> &str {
    match &report.result {
        ExplainOutcome::Denied { why, .. } => why,
        ExplainOutcome::Undecided { cause, .. } => cause,
        ExplainOutcome::Permitted { .. } => "permitted",
    }
}

#[tokio::test(start_paused = true)]
async fn every_refusal_is_recorded_with_unit_program_and_cgroup() {
    let node = TestNode::start(7, &somebody());
    let refused = async |process: FakeProcess| {
        let process = node.kernel.spawn(process);
        node.workload(&process).await.refusal().await;
        process.exit();
        last_refusal(&node)
    };
    let denied = refused(FakeProcess::default()).await;
    assert_eq!((denied.reason.as_deref(), of_the_process(&denied)), (Some("no_entry"), WEB));
    let before_the_evidence = refused(in_two_units()).await;
    assert_eq!(
        (before_the_evidence.reason.as_deref(), of_the_process(&before_the_evidence)),
        (Some("cgroups_disagree"), WEB)
    );
    let in_container = refused(FakeProcess::in_docker()).await;
    let [unit, program, cgroup] = of_the_process(&in_container);
    assert_eq!((unit, program), (None, Some("/usr/bin/web")));
    assert!(cgroup.unwrap().starts_with("/system.slice/docker-"), "{cgroup:?}");
    node.kernel.fail_at(Question::Namespaces, Undecided::OutOfMemory);
    let undecided = refused(FakeProcess::default()).await;
    assert_eq!((undecided.event, of_the_process(&undecided)), (Event::Undecided, WEB));
    node.kernel.heal();
    let signed_nothing = TestNode::start(7, &workload("/web", &["unix:uid:1000"]));
    signed_nothing.authority.refuse("signer unreachable");
    let web = signed_nothing.kernel.spawn(FakeProcess::default());
    signed_nothing.workload(&web).await.refusal().await;
    assert_eq!(of_the_process(&last_refusal(&signed_nothing)), WEB);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_for_want_of_descriptors_names_unit_and_cgroup_of_the_accept() {
    let node = TestNode::start(7, &somebody());
    let client = node.client(&node.kernel.spawn(FakeProcess::default()));
    client.jwt_bundles().await.refusal().await;
    node.kernel.fail(Undecided::OutOfDescriptors);
    client.x509_svids().await.refusal().await;
    let record = last_refusal(&node);
    assert_eq!(record.reason.as_deref(), Some("out_of_descriptors"));
    assert_eq!(of_the_process(&record), [WEB[0], None, WEB[2]]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_before_the_evidence_shows_what_contradicts_and_no_entry() {
    let mut node = TestNode::start(7, &somebody());
    let operator = node.open_admin_door();
    let process = node.kernel.spawn(in_two_units());
    let told = node.workload(&process).await.refusal().await;
    let denial = operator.explain_denial(decision(&told)).await.unwrap();
    let examined = operator.explain(process.number()).await.unwrap();
    for report in [denial, examined] {
        assert_eq!(why(&report), "cgroups_disagree");
        assert_eq!(
            (report.entries, &report.considered, &report.nearest_miss, &report.suggestion),
            (1, &vec![], &None, &None)
        );
        assert!(report.evidence.facts().is_empty());
        let lines = &report.seen.cgroups;
        assert!(lines.contains(&"1:cpu:/system.slice/other.service".to_owned()), "{lines:?}");
        assert!(lines.contains(&"0::/system.slice/web.service".to_owned()), "{lines:?}");
        assert_eq!((report.seen.uids, report.seen.gids), (None, None), "they agree");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_has_changed_its_user_is_shown_with_its_ids() {
    let mut node = TestNode::start(7, &somebody());
    let operator = node.open_admin_door();
    let process = node.kernel.spawn(FakeProcess::default());
    let client = node.client(&process);
    client.jwt_bundles().await.refusal().await;
    process.setuid(0);
    let told = client.x509_svids().await.refusal().await;
    let report = operator.explain_denial(decision(&told)).await.unwrap();
    assert_eq!((why(&report), report.peer.uid), ("credentials_disagree", 1000));
    assert_eq!(report.seen.uids.map(|uids| uids.effective), Some(0));
    assert_eq!(report.seen.gids, None);
}

#[tokio::test(start_paused = true)]
async fn a_foreign_writer_is_shown_with_his_number_and_user() {
    let mut node = TestNode::start(7, &somebody());
    let operator = node.open_admin_door();
    let [web, thief] =
        [1000, 1001].map(|uid| node.kernel.spawn(FakeProcess { uid, gid: uid, ..FakeProcess::default() }));
    let connected = node.connect(&web);
    *connected.writer.lock().unwrap() = thief.credentials();
    let mut cut = Client::new(connected).x509_svids().await;
    assert!(matches!(cut.next().await, Seen::End(_)));
    let record = last_refusal(&node);
    assert_eq!((record.reason.as_deref(), of_the_process(&record)), (Some("foreign_writer"), WEB));
    let report = operator.explain_denial(&record.decision).await.unwrap();
    assert_eq!((report.peer, report.seen.writer), (web.credentials(), Some(thief.credentials())));
}

#[tokio::test(start_paused = true)]
async fn explain_looks_up_path_and_hash_although_no_entry_asks() {
    let mut node = TestNode::start(7, &workload("/web", &["unix:uid:1000"]));
    let operator = node.open_admin_door();
    let found = |report: &ExplainReport| {
        let facts =
            [SelectorKind::UnixPath, SelectorKind::UnixSha256].map(|kind| report.evidence.found(kind).is_some());
        (facts, report.evidence.withheld().to_vec())
    };
    for uid in [1000, 1001] {
        let process = node.kernel.spawn(FakeProcess { uid, gid: uid, ..FakeProcess::default() });
        let report = operator.explain(process.number()).await.unwrap();
        assert_eq!(why(&report), if uid == 1000 { "permitted" } else { "no_entry" });
        assert_eq!(found(&report), ([true, true], vec![]), "{uid}");
    }
    let stranger = node.kernel.spawn(FakeProcess { uid: 1001, gid: 1001, ..FakeProcess::default() });
    let told = node.workload(&stranger).await.refusal().await;
    let report = operator.explain_denial(decision(&told)).await.unwrap();
    assert_eq!(found(&report), ([false, false], vec![]), "nothing was withheld: nobody looked");
    assert_eq!(report.seen, Sighting::default().with_program(Path::new("/usr/bin/web")));
}

#[tokio::test(start_paused = true)]
async fn a_denial_is_explained_as_one_of_other_entries_once_they_have_changed() {
    let mut node = TestNode::start(7, &somebody());
    let operator = node.open_admin_door();
    let process = node.kernel.spawn(FakeProcess::default());
    let told = node.workload(&process).await.refusal().await;
    let before = operator.explain_denial(decision(&told)).await.unwrap();
    assert!(!before.entries_changed && before.considered.iter().all(|one| !one.matches()));
    let tables = somebody() + &workload("/web", &["unix:uid:1000"]);
    node.reload(&tables, bonafide::agent::reload::ReloadTrigger::Asked);
    let after = operator.explain_denial(decision(&told)).await.unwrap();
    assert!(after.entries_changed && after.considered[0].matches());
    assert_eq!(why(&after), "no_entry");
}

#[tokio::test(start_paused = true)]
async fn a_denial_counts_the_groups_that_no_entry_names_and_explain_lists_them_all() {
    let mut node = TestNode::start(7, &somebody());
    let operator = node.open_admin_door();
    let crowd = FakeProcess { uid: 1001, gid: 1001, groups: (100_000..109_000).collect(), ..FakeProcess::default() };
    let process = node.kernel.spawn(crowd);
    let groups = |report: &ExplainReport| {
        let facts = report.evidence.facts().iter();
        let listed = facts.filter(|fact| fact.selector.kind() == SelectorKind::UnixSupplementaryGid).count();
        (listed, report.evidence.further_groups())
    };
    let told = node.workload(&process).await.refusal().await;
    let denial = operator.explain_denial(decision(&told)).await.unwrap();
    assert_eq!(groups(&denial), (32, 8968));
    assert_eq!(groups(&operator.explain(process.number()).await.unwrap()), (9000, 0));
    let tables = somebody() + &workload("/crowd", &["unix:supplementary_gid:108999"]);
    node.reload(&tables, bonafide::agent::reload::ReloadTrigger::Asked);
    assert_eq!(why(&operator.explain(process.number()).await.unwrap()), "permitted");
}
