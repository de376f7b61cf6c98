//! Ten generations of keys of the embedded authority, under services in four languages that connect to each other all the
//! time, while the shipped daemon is killed and its disk is full. A binary of its own, for it takes all of a small machine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "generations/circle.rs"]
mod circle;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "generations/machine.rs"]
mod machine;
#[path = "generations/rust_member.rs"]
mod rust_member;
#[path = "support/small_disk.rs"]
mod small_disk;
#[path = "clients/tools.rs"]
#[allow(dead_code, reason = "each test binary uses its own part of this")]
mod tools;
#[path = "generations/trust.rs"]
mod trust;

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::machine::Machine;
use crate::trust::Kept;

/// Under so many authorities everyone meets everyone.
const GENERATIONS: usize = 10;
/// A postponed step is tried again after 2 s, which are noticed within half a second.
const TRIED_AGAIN: Duration = Duration::from_secs(4);

/// The seed of the moments: `BONAFIDE_TEST_SEED`, or another one each time.
fn seed() -> u64 {
    let given = std::env::var_os("BONAFIDE_TEST_SEED").map(|seed| seed.to_str().unwrap().parse().unwrap());
    #[allow(clippy::disallowed_methods, reason = "any number will do")]
    let other = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    given.unwrap_or_else(other)
}

#[test]
fn ten_generations_of_keys_pass_under_open_clients_kills_and_a_full_disk_without_a_failed_handshake() {
    let test = "ten_generations_of_keys_pass_under_open_clients_kills_and_a_full_disk_without_a_failed_handshake";
    let seed = seed();
    eprintln!("BONAFIDE_TEST_SEED={seed}");
    let mut machine = Machine::begin(test, seed);
    let (first_roots, first_keys) = machine.believed().keys();
    let first = machine.shown(&["active"]);
    killed_at_a_random_moment(&mut machine, Duration::from_secs(9));
    machine.live_until_next_generation();
    machine.live_until("a JWT key", TRIED_AGAIN, |machine| machine.generations()[1] == 2);
    machine.kill_and_restart("right after a key was first used");
    full_when_a_rotation_is_due(&mut machine);
    killed_between_the_disk_and_the_streams(&mut machine);
    // A start during a lead delays the use of a key, and the next one follows it sooner: not before those parts.
    machine.live_until_next_generation();
    killed_during_a_lead(&mut machine);
    machine.live_until_next_generation();
    full_and_killed_during_a_lead(&mut machine);
    while machine.circle.least_met() < GENERATIONS {
        killed_at_a_random_moment(&mut machine, Duration::from_secs(13));
        machine.live_until_next_generation();
    }

    machine.live_until("healthy", Duration::from_secs(20), |machine| machine.status().0 == "healthy");
    machine.circle.judge();
    let (roots, keys) = machine.believed().keys();
    assert!(first_roots.is_disjoint(&roots) && first_keys.is_disjoint(&keys), "the first authority is in the bundle");
    assert_eq!(first.len(), 2);
    assert!(first.is_disjoint(&machine.shown(&["prepared", "published", "active", "retired"])));
    let [x509, jwt] = machine.generations();
    assert!(x509 >= GENERATIONS && jwt >= GENERATIONS, "{x509} and {jwt} generations");
    let (kills, in_the_bundle) = (machine.kills(), roots.len());
    machine.tell(&format!("{}, {kills} kills, {in_the_bundle} roots in the bundle", machine.circle.summary()));
}

fn killed_at_a_random_moment(machine: &mut Machine, within: Duration) {
    let moment = machine.chance.up_to(within);
    machine.live(moment);
    machine.kill_and_restart("at a random moment");
}

fn killed_during_a_lead(machine: &mut Machine) {
    machine.live_until_next_key_is("published");
    let moment = machine.chance.up_to(Duration::from_millis(3000));
    machine.live(moment);
    assert!(Kept::by(&machine.daemon).at_stage("x509", "published").is_some());
    machine.kill_and_restart("during a lead");
    machine.live_until_next_generation();
}

/// The disk is full before the next key can be made, and past the time at which it would be used.
fn full_when_a_rotation_is_due(machine: &mut Machine) {
    let moment = machine.chance.up_to(Duration::from_secs(6));
    machine.live(moment);
    let Some(disk) = &machine.disk else { return };
    disk.fill();
    machine.tell("the disk is full");
    machine.live_until("degraded", Duration::from_secs(20), is_postponed);
    machine.live(Duration::from_secs(6));
    assert!(is_postponed(machine), "{:?}", machine.status());
    assert!(Kept::by(&machine.daemon).at_stage("x509", "published").is_none());
    give_room(machine);
    machine.live_until("a next key", TRIED_AGAIN, |machine| {
        Kept::by(&machine.daemon).at_stage("x509", "published").is_some()
    });
    // The key is on the disk before the daemon goes by it.
    machine.live_until("no postponed rotation", TRIED_AGAIN, |machine| !is_postponed(machine));
    machine.live_until_next_generation();
    machine.live_until("healthy", TRIED_AGAIN, |machine| machine.status().0 == "healthy");
}

/// The next key is on the disk, and the daemon has told nobody. Some services wait for longer than what is left of the lead
/// before they connect again (go-spiffe 3 s by then, java-spiffe 4 s).
fn killed_between_the_disk_and_the_streams(machine: &mut Machine) {
    machine.live_until_next_key_is("prepared");
    machine.kill_for(Duration::from_millis(1300), "before a key is published");
    machine.daemon.restart();
    machine.kill_for(Duration::from_millis(1800), "before anybody heard of the next key");
    assert!(Kept::by(&machine.daemon).at_stage("x509", "published").is_some(), "the moment was missed");
    machine.restart();
    machine.live_until_next_generation();
}

/// The disk is full before the next key can be used, and a daemon starts on it.
fn full_and_killed_during_a_lead(machine: &mut Machine) {
    machine.live_until_next_key_is("published");
    let Some(disk) = &machine.disk else { return };
    disk.fill();
    machine.tell("the disk is full");
    machine.live_until("degraded", Duration::from_secs(10), is_postponed);
    machine.kill_and_restart("with a full disk");
    let moment = machine.chance.up_to(Duration::from_secs(4));
    machine.live(moment);
    give_room(machine);
    machine.live_until_next_generation();
}

fn give_room(machine: &Machine) {
    machine.disk.as_ref().unwrap().empty();
    machine.tell("the disk has room again");
}

/// Whether the daemon says that a rotation is postponed, why, and what to do.
fn is_postponed(machine: &Machine) -> bool {
    let (state, reasons) = machine.status();
    let says = |words: &str| reasons.contains(words);
    state == "degraded" && says("postponed") && says("No space left on device") && says("make room")
}
