//! A name service that answers, changes, hangs, fails and comes back: what streams gain, keep and lose by it (SPEC: product
//! contract §4, facts about the machine).

use std::path::Path;
use std::time::Duration;

use bonafide::agent::config::Accepted;
use bonafide::agent::config::files::Sources;
use bonafide::agent::reload::ReloadTrigger;
use bonafide::endpoints::admin::reports::HealthState;
use bonafide::evidence::Answer;
use bonafide::evidence::Provider;
use bonafide::evidence::Undecided;
use bonafide::evidence::WithheldBecause;
use futures_util::FutureExt as _;
use tokio::time::Instant;
use tokio::time::sleep;
use tokio::time::timeout;
use tonic::Code;

use crate::kernel::FakePid;
use crate::kernel::FakeProcess;
use crate::node::Configuration;
use crate::node::FakeNames;
use crate::node::Folder;
use crate::node::Seen;
use crate::node::Setup;
use crate::node::TestNode;
use crate::node::ids;
use crate::node::workload;
use crate::server_entries::server;
use crate::simulated_disk::SimulatedDisk;

const ALICE: &str = "spiffe://example.org/alice";
const BOB: &str = "spiffe://example.org/bob";
const PLAIN: &str = "spiffe://example.org/plain";
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A name service whose `/etc/passwd` has these users.
fn passwd(users: &[(&str, u32)]) -> FakeNames {
    let names = FakeNames::default();
    names.write_passwd(users);
    names
}

fn with(names: &FakeNames, tables: &str) -> TestNode {
    let configuration = Configuration::Tables(tables);
    TestNode::with(Setup { names: names.clone(), configuration, ..Setup::default() })
}

fn alice_alone() -> String {
    workload("/alice", &["unix:user:alice"])
}

fn of_user(node: &TestNode, uid: u32) -> FakePid {
    node.kernel.spawn(FakeProcess { uid, gid: uid, groups: vec![uid], ..FakeProcess::default() })
}

/// What a new connection of this user gets first.
async fn gets(node: &TestNode, uid: u32) -> Result<Vec<String>, Code> {
    match node.workload(&of_user(node, uid)).await.next().await {
        Seen::Update(update) => Ok(ids(&update)),
        Seen::End(code) => Err(code),
    }
}

fn only(id: &str) -> Result<Vec<String>, Code> {
    Ok(vec![id.to_owned()])
}

#[tokio::test(start_paused = true)]
async fn a_uid_that_changes_hands_takes_the_identity_from_its_new_owner() {
    let names = passwd(&[("alice", 1000)]);
    let node = with(&names, &alice_alone());
    let mut stream = node.workload(&of_user(&node, 1000)).await;
    assert_eq!(stream.ids().await, [ALICE]);
    names.write_passwd(&[("bob", 1000), ("alice", 1001)]);
    assert_eq!(stream.within(SECOND).await, Some(Seen::End(Code::PermissionDenied)));
    assert_eq!(gets(&node, 1000).await, Err(Code::PermissionDenied));
    assert_eq!(gets(&node, 1001).await, only(ALICE));
}

#[tokio::test(start_paused = true)]
async fn a_uid_that_changes_hands_while_the_node_is_down_gives_nothing_to_its_new_owner() {
    let (names, disk, tables) = (passwd(&[("alice", 1000)]), SimulatedDisk::default(), alice_alone());
    let start = |configuration| {
        let (names, disk) = (names.clone(), Some(disk.clone()));
        TestNode::with(Setup { names, configuration, disk, ..Setup::default() })
    };
    let node = start(Configuration::Tables(&tables));
    assert_eq!(gets(&node, 1000).await, only(ALICE));
    drop(node);
    names.write_passwd(&[("bob", 1000), ("alice", 1001)]);
    let node = start(Configuration::LastAccepted);
    assert_eq!(gets(&node, 1000).await, Err(Code::PermissionDenied));
    assert_eq!(gets(&node, 1001).await, only(ALICE));
}

#[test]
fn the_last_accepted_configuration_keeps_no_accounts() {
    let accepted = Accepted { sources: Sources { files: Vec::new(), folders: Vec::new() } };
    let kept = serde_json::to_value(accepted).unwrap();
    assert_eq!(kept.as_object().unwrap().keys().collect::<Vec<_>>(), ["sources"]);
    let of_an_older_version = r#"{"sources":{"files":[],"folders":[]},"accounts":{"users":{"7":["a"]},"groups":{}}}"#;
    assert!(serde_json::from_str::<Accepted>(of_an_older_version).is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_entry_of_a_missing_user_matches_nobody_and_takes_nothing_from_others() {
    let names = FakeNames::default();
    let mut node = with(&names, &(alice_alone() + &workload("/plain", &["unix:uid:2000"])));
    let operator = node.open_admin_door();
    assert_eq!(gets(&node, 1000).await, Err(Code::PermissionDenied));
    assert_eq!(gets(&node, 2000).await, only(PLAIN));
    let status = operator.status().await;
    let note = "test.toml:4:14: there is no user \"alice\" on this machine; ";
    assert!(status.notes.iter().any(|said| said.starts_with(note)), "{:?}", status.notes);
    assert_eq!(status.state, HealthState::Healthy, "a missing user is no fault of the node");
    names.write_passwd(&[("alice", 1000)]);
    sleep(SECOND).await;
    assert_eq!(gets(&node, 1000).await, only(ALICE));
    assert_eq!(operator.status().await.notes, [] as [String; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_user_that_a_service_has_later_gets_the_identity_within_a_minute() {
    let names = FakeNames::default();
    let node = with(&names, &alice_alone());
    assert_eq!(gets(&node, 61_184).await, Err(Code::PermissionDenied));
    names.serve_user("alice", Some(61_184));
    sleep(MINUTE).await;
    assert_eq!(gets(&node, 61_184).await, only(ALICE));
}

#[tokio::test(start_paused = true)]
async fn a_changed_answer_of_a_service_counts_within_a_minute_though_no_file_changes() {
    let names = FakeNames::default();
    names.serve_user("alice", Some(1000));
    let node = with(&names, &alice_alone());
    let mut stream = node.workload(&of_user(&node, 1000)).await;
    assert_eq!(stream.ids().await, [ALICE]);
    names.serve_user("alice", Some(1001));
    assert_eq!(stream.within(MINUTE).await, Some(Seen::End(Code::PermissionDenied)));
    assert_eq!(gets(&node, 1001).await, only(ALICE));
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_slept_asks_its_names_when_it_wakes() {
    let names = FakeNames::default();
    names.serve_user("alice", Some(1000));
    let node = with(&names, &alice_alone());
    let mut stream = node.workload(&of_user(&node, 1000)).await;
    assert_eq!(stream.ids().await, [ALICE]);
    names.serve_user("alice", Some(1001));
    node.clock.step_forward(10 * MINUTE);
    assert_eq!(stream.within(3 * SECOND).await, Some(Seen::End(Code::PermissionDenied)));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_restarts_and_knows_nobody_meanwhile_ends_no_identity() {
    let names = FakeNames::default();
    names.serve_user("alice", Some(1000));
    let node = with(&names, &alice_alone());
    let mut stream = node.workload(&of_user(&node, 1000)).await;
    assert_eq!(stream.ids().await, [ALICE]);
    names.serve_user("alice", None);
    let asked = names.asked();
    while names.asked() == asked {
        sleep(SECOND).await;
    }
    names.serve_user("alice", Some(1000));
    assert_eq!(stream.within(5 * MINUTE).await, None);
    names.serve_user("alice", None);
    assert_eq!(stream.within(2 * MINUTE).await, Some(Seen::End(Code::PermissionDenied)), "gone for good");
}

#[tokio::test(start_paused = true)]
async fn a_name_service_that_hangs_at_boot_delays_only_those_who_could_match_by_it() {
    let names = passwd(&[("alice", 1000)]);
    names.hang();
    let node = with(
        &names,
        &[workload("/alice", &["unix:user:alice", "systemd:id:alice.service"]), workload("/plain", &["unix:uid:2000"])]
            .concat(),
    );
    let alice = || {
        let cgroup = "/system.slice/alice.service".to_owned();
        node.kernel.spawn(FakeProcess { cgroup, ..FakeProcess::default() })
    };
    let begun = Instant::now();
    assert_eq!(gets(&node, 2000).await, only(PLAIN));
    assert_eq!(gets(&node, 1000).await, Err(Code::PermissionDenied), "it is in another unit");
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(node.workload(&alice()).await.next().await, Seen::End(Code::Unavailable));
    assert!(begun.elapsed() <= 3 * SECOND, "{:?}", begun.elapsed());
    let begun = Instant::now();
    assert_eq!(node.workload(&alice()).await.next().await, Seen::End(Code::Unavailable));
    assert_eq!(begun.elapsed(), Duration::ZERO, "the next caller does not wait again");
    names.come_back();
    sleep(SECOND).await;
    assert_eq!(node.workload(&alice()).await.ids().await, [ALICE]);
}

#[tokio::test(start_paused = true)]
async fn a_token_waits_for_a_name_that_is_answered_soon() {
    let names = passwd(&[("alice", 1000)]);
    names.hang();
    let node = with(&names, &alice_alone());
    let client = node.client(&of_user(&node, 1000));
    let token = tokio::spawn(async move { client.jwt_svids("ledger", "").await.map(|svids| svids.len()) });
    sleep(SECOND).await;
    assert!(!token.is_finished());
    names.come_back();
    assert_eq!(token.await.unwrap(), Ok(1));
}

/// `/alice` and `/bob` by name, `/plain` by number.
fn three() -> String {
    [alice_alone(), workload("/bob", &["unix:user:bob"]), workload("/plain", &["unix:uid:2000"])].concat()
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_unconfirmed_for_five_minutes_is_undecided_and_no_other_name_is() {
    let names = passwd(&[("alice", 1000), ("bob", 1001)]);
    let mut node = with(&names, &three());
    let operator = node.open_admin_door();
    let mut stream = node.workload(&of_user(&node, 1000)).await;
    assert_eq!(stream.ids().await, [ALICE]);
    names.hang_user("alice");
    sleep(4 * MINUTE).await;
    assert_eq!(gets(&node, 1000).await, only(ALICE), "the last answer still counts");
    sleep(2 * MINUTE).await;
    let web = of_user(&node, 1000);
    assert_eq!(node.workload(&web).await.next().await, Seen::End(Code::Unavailable));
    assert_eq!(gets(&node, 1001).await, only(BOB));
    assert_eq!(gets(&node, 2000).await, only(PLAIN));
    assert_eq!(stream.next().now_or_never(), None, "what is live is kept");
    let status = operator.status().await;
    assert_eq!(status.state, HealthState::Degraded);
    assert!(status.reasons[0].detail.starts_with("the name service does not say who user \"alice\" is"), "{status:?}");
    let explained = operator.explain(web.credentials().pid).await.unwrap();
    assert_eq!(explained.evidence.answer_of(&Provider::NAMES), Some(Answer::Undecided(Undecided::NameService)));
    names.come_back();
    sleep(10 * SECOND).await;
    assert_eq!(gets(&node, 1000).await, only(ALICE));
    assert_eq!(operator.status().await.state, HealthState::Healthy);
    assert_eq!(stream.next().now_or_never(), None);
}

#[tokio::test(start_paused = true)]
async fn an_svid_is_renewed_once_its_name_is_confirmed_again() {
    let names = passwd(&[("alice", 1000)]);
    let node = with(&names, &alice_alone());
    let mut stream = node.workload(&of_user(&node, 1000)).await;
    assert_eq!(stream.ids().await, [ALICE]);
    names.hang();
    // It lives for an hour, and would be renewed after half of it.
    assert_eq!(stream.within(50 * MINUTE).await, None);
    names.come_back();
    let Some(Seen::Update(renewed)) = stream.within(10 * SECOND).await else { panic!("not renewed") };
    assert_eq!(ids(&renewed), [ALICE]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_changes_while_the_service_hangs_counts_as_soon_as_it_answers() {
    let names = passwd(&[("alice", 1000)]);
    let node = with(&names, &alice_alone());
    let mut stream = node.workload(&of_user(&node, 1000)).await;
    assert_eq!(stream.ids().await, [ALICE]);
    names.hang();
    names.write_passwd(&[("bob", 1000), ("alice", 1001)]);
    assert_eq!(stream.within(10 * MINUTE).await, None);
    names.come_back();
    assert_eq!(stream.within(10 * SECOND).await, Some(Seen::End(Code::PermissionDenied)));
    assert_eq!(gets(&node, 1001).await, only(ALICE));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_confirms_nothing_and_ends_nothing() {
    let names = passwd(&[("alice", 1000)]);
    let node = with(&names, &alice_alone());
    let mut stream = node.workload(&of_user(&node, 1000)).await;
    assert_eq!(stream.ids().await, [ALICE]);
    names.go_down();
    sleep(6 * MINUTE).await;
    assert_eq!(stream.next().now_or_never(), None);
    assert_eq!(gets(&node, 1000).await, Err(Code::Unavailable));
    names.come_back();
    sleep(10 * SECOND).await;
    assert_eq!(gets(&node, 1000).await, only(ALICE));
}

#[tokio::test(start_paused = true)]
async fn a_process_in_a_container_is_denied_while_its_names_are_unconfirmed() {
    let names = passwd(&[("alice", 1000)]);
    names.hang();
    let node = with(&names, &alice_alone());
    let contained = node.kernel.spawn(FakeProcess::in_docker());
    assert_eq!(node.workload(&contained).await.next().await, Seen::End(Code::PermissionDenied));
}

#[tokio::test(start_paused = true)]
async fn names_that_cannot_be_read_are_withheld_and_explain_says_why() {
    let names = passwd(&[("alice", 1000)]);
    names.close();
    let mut node = with(&names, &three());
    let operator = node.open_admin_door();
    assert_eq!(gets(&node, 1000).await, Err(Code::PermissionDenied));
    assert_eq!(gets(&node, 2000).await, only(PLAIN));
    let web = of_user(&node, 1000);
    let explained = operator.explain(web.credentials().pid).await.unwrap();
    let withheld = explained.evidence.withheld();
    let because = withheld.iter().filter(|one| one.because == WithheldBecause::NamesNotReadable).count();
    assert_eq!(because, 3, "{withheld:?}");
    let notes = operator.status().await.notes;
    assert!(notes.len() == 1 && notes[0].contains("no user or group name matches a process on this node"), "{notes:?}");
}

#[tokio::test(start_paused = true)]
async fn groups_have_an_age_as_users_have() {
    let names = FakeNames::default();
    names.serve_group("web", 1000);
    let tables =
        workload("/first", &["unix:group:web"]) + &workload("/further", &["unix:supplementary_group:operators"]);
    let node = with(&names, &tables);
    let process = FakeProcess { groups: vec![1000, 27], ..FakeProcess::default() };
    let mut stream = node.workload(&node.kernel.spawn(process)).await;
    assert_eq!(stream.ids().await, ["spiffe://example.org/first"]);
    names.serve_group("operators", 27);
    let Some(Seen::Update(update)) = stream.within(MINUTE).await else { panic!("no update") };
    assert_eq!(ids(&update), ["spiffe://example.org/first", "spiffe://example.org/further"]);
    names.serve_group("web", 7);
    let Some(Seen::Update(update)) = stream.within(MINUTE).await else { panic!("no update") };
    assert_eq!(ids(&update), ["spiffe://example.org/further"]);
}

#[tokio::test(start_paused = true)]
async fn the_names_of_a_servers_entries_have_an_age_too() {
    let names = passwd(&[("alice", 1000)]);
    let (registry, entries) = server(&[]);
    let node = TestNode::with(Setup { names: names.clone(), entry_sources: vec![entries], ..Setup::default() });
    assert_eq!(gets(&node, 1000).await, Err(Code::PermissionDenied));
    registry.register(&[("/alice", &["unix:user:alice"])]);
    sleep(SECOND).await;
    let mut stream = node.workload(&of_user(&node, 1000)).await;
    assert_eq!(stream.ids().await, [ALICE]);
    names.write_passwd(&[("bob", 1000)]);
    assert_eq!(stream.within(2 * SECOND).await, Some(Seen::End(Code::PermissionDenied)));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_user_ends_its_identity_and_blocks_no_reload() {
    let names = passwd(&[("alice", 1000), ("bob", 1001)]);
    let node = with(&names, &alice_alone());
    let mut stream = node.workload(&of_user(&node, 1000)).await;
    assert_eq!(stream.ids().await, [ALICE]);
    names.write_passwd(&[("bob", 1001)]);
    assert_eq!(stream.within(2 * SECOND).await, Some(Seen::End(Code::PermissionDenied)));
    assert!(node.reload(&three(), ReloadTrigger::Asked).swapped);
    assert_eq!(gets(&node, 1001).await, only(BOB));
}

#[tokio::test(start_paused = true)]
async fn a_passwd_that_is_rewritten_in_place_ends_no_identity() {
    let names = passwd(&[("alice", 1000)]);
    let node = with(&names, &alice_alone());
    let mut stream = node.workload(&of_user(&node, 1000)).await;
    assert_eq!(stream.ids().await, [ALICE]);
    names.write_passwd(&[]);
    sleep(Duration::from_millis(300)).await;
    names.write_passwd(&[("alice", 1000)]);
    assert_eq!(stream.within(2 * MINUTE).await, None);
}

fn following(names: &FakeNames, folder: &Folder) -> TestNode {
    let configuration = Configuration::Files(folder);
    TestNode::with(Setup { names: names.clone(), configuration, ..Setup::default() })
}

/// What is followed on a thread needs a clock that runs.
#[tokio::test]
async fn a_reload_says_which_users_are_missing_and_a_saved_file_that_would_end_many_is_held_back() {
    let names = passwd(&[("alice", 1000), ("bob", 1001)]);
    let folder = Folder::of(&three());
    let mut node = following(&names, &folder);
    let operator = node.open_admin_door();
    let (mut alice, mut bob) = (node.workload(&of_user(&node, 1000)).await, node.workload(&of_user(&node, 1001)).await);
    assert_eq!((alice.ids().await, bob.ids().await), (vec![ALICE.to_owned()], vec![BOB.to_owned()]));
    let mut reasons = node.readiness.watch();
    names.slow_down(SECOND / 2);
    folder.write_main(&three().replace("unix:user:", "unix:user:no-"));
    let held_back = reasons.wait_for(|reasons| reasons.iter().any(|reason| reason.detail.contains("is held back")));
    timeout(MINUTE, held_back).await.expect("held back").unwrap();
    assert_eq!((alice.next().now_or_never(), bob.next().now_or_never()), (None, None));
    let report = operator.reload().await;
    assert!(report.swapped, "{report:?}");
    let main = folder.path("bonafide.toml");
    let warning = |line: u32, name: &str| {
        format!("{}:{line}:14: warning: there is no user {name:?} on this machine", Path::new(&main).display())
    };
    for (line, name) in [(4, "no-alice"), (7, "no-bob")] {
        assert!(report.warnings.iter().any(|said| said.starts_with(&warning(line, name))), "{report:?}");
    }
    assert_eq!(alice.next().await, Seen::End(Code::PermissionDenied));
    assert_eq!(bob.next().await, Seen::End(Code::PermissionDenied));
}

#[tokio::test]
async fn a_reload_waits_two_seconds_for_a_name_service_that_hangs_and_is_done_then() {
    let names = passwd(&[("alice", 1000)]);
    let folder = Folder::of(&workload("/plain", &["unix:uid:2000"]));
    let mut node = following(&names, &folder);
    let operator = node.open_admin_door();
    assert_eq!(gets(&node, 2000).await, only(PLAIN));
    names.hang();
    let begun = Instant::now();
    folder.write_main(&three());
    let report = operator.reload().await;
    assert!(report.swapped, "{report:?}");
    assert!(begun.elapsed() < 30 * SECOND, "{:?}", begun.elapsed());
    assert_eq!(report.warnings.len(), 2, "{report:?}");
    assert_eq!(gets(&node, 2000).await, only(PLAIN));
    names.come_back();
    let answered = async {
        loop {
            let got = gets(&node, 1000).await;
            if got != Err(Code::Unavailable) {
                return got;
            }
        }
    };
    assert_eq!(timeout(MINUTE, answered).await, Ok(only(ALICE)));
}
