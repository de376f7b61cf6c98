//! A node whose machine loses power between any two steps of what it keeps, and the next start on what the disk holds.

use bonafide::agent::reload::ReloadTrigger;
use bonafide::authority::NoAuthority;
use bonafide::endpoints::workload_api::proto::X509svidResponse;

use crate::kernel::FakeProcess;
use crate::node::Configuration;
use crate::node::NotStarted;
use crate::node::Setup;
use crate::node::TestNode;
use crate::node::ids;
use crate::node::workload;
use crate::simulated_disk::SimulatedDisk;
use crate::simulated_disk::Trouble;
use crate::simulated_disk::Unsynced;

/// What may become of bytes and names that were not synced: files here have fewer bytes than the last one.
fn power_cuts() -> impl Iterator<Item = Unsynced> {
    [Unsynced::Lost, Unsynced::Kept, Unsynced::Zeroed].into_iter().chain((0..=4096).step_by(512).map(Unsynced::TornAt))
}

/// A configuration of two entries: half of it would be one.
fn two_entries(one: &str, other: &str) -> String {
    workload(one, &["unix:uid:1000"]) + &workload(other, &["unix:uid:1000"])
}

/// The next start on a disk.
fn start(configuration: Configuration<'_>, disk: &SimulatedDisk) -> Result<TestNode, NotStarted> {
    TestNode::try_with(Setup { configuration, disk: Some(disk.clone()), ..Setup::default() })
}

/// What user 1000 is given first.
async fn first_update(node: &TestNode) -> X509svidResponse {
    let process = node.kernel.spawn(FakeProcess { uid: 1000, ..FakeProcess::default() });
    node.workload(&process).await.update().await
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_in_a_first_start_loses_no_authority_that_signed() {
    let tables = two_entries("/web", "/metrics");
    for step in 0.. {
        let disk = SimulatedDisk::default();
        disk.expect(Trouble::PowerFailsAt(step));
        let handed_out = match start(Configuration::Tables(&tables), &disk) {
            Ok(node) => Some(first_update(&node).await),
            Err(why) => {
                assert!(matches!(why, NotStarted::Authority(NoAuthority::Store(_))), "{why}");
                None
            }
        };
        for unsynced in power_cuts() {
            let again =
                first_update(&start(Configuration::Tables(&tables), &disk.after_power_cut(unsynced)).unwrap()).await;
            if let Some(before) = &handed_out {
                assert_eq!(again.svids[0].bundle, before.svids[0].bundle, "step {step}, {unsynced:?}");
            }
            match start(Configuration::LastAccepted, &disk.after_power_cut(unsynced)) {
                Ok(node) => assert_eq!(ids(&first_update(&node).await), ids(&again), "step {step}, {unsynced:?}"),
                Err(why) => assert!(disk.power_has_failed(), "step {step}, {unsynced:?}: {why}"),
            }
        }
        if !disk.power_has_failed() {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_in_a_reload_leaves_one_whole_configuration() {
    let (old, new) = (two_entries("/web", "/metrics"), two_entries("/db", "/backup"));
    let (mut seen_old, mut seen_new) = (false, false);
    for step in 0.. {
        let disk = SimulatedDisk::default();
        let node = start(Configuration::Tables(&old), &disk).unwrap();
        let before = first_update(&node).await;
        disk.expect(Trouble::PowerFailsAt(step));
        assert!(node.reload(&new, ReloadTrigger::Asked).swapped);
        let in_force = ids(&first_update(&node).await);
        for unsynced in power_cuts() {
            let restarted = start(Configuration::LastAccepted, &disk.after_power_cut(unsynced)).unwrap();
            let after = first_update(&restarted).await;
            assert_eq!(after.svids[0].bundle, before.svids[0].bundle, "step {step}, {unsynced:?}: another authority");
            let (is_old, is_new) = (ids(&after) == ids(&before), ids(&after) == in_force);
            assert!(is_new || is_old && disk.power_has_failed(), "step {step}, {unsynced:?}: {:?}", ids(&after));
            (seen_old, seen_new) = (seen_old || is_old, seen_new || is_new);
        }
        if !disk.power_has_failed() {
            break;
        }
    }
    assert!(seen_old && seen_new);
}
