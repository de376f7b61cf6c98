//! PID reuse: the daemon does not take a process for its predecessor with the same PID.

use crate::levels;
use crate::node::Node;
use crate::node::PYTHON;

/// How long one round of tries may take.
const SECONDS: u32 = 150;

/// The count of attacks: a process without an entry connects and exits, and one with an entry gets its PID.
struct Tries {
    /// How many PIDs were reused.
    made: u32,
    /// How many of the reusing processes started in the same clock tick as their predecessor.
    in_one_tick: u32,
    /// How many of the attackers' connections got an identity.
    won: u32,
}

/// A node at `pinned` or above: below it a reused PID of the same user is not detected.
fn pinning(test: &str) -> Option<Node> {
    if !levels::pins() {
        eprintln!("skipped: {test}: at reduced a reused PID of the same user is not detected, needs Linux 6.5");
        return None;
    }
    Node::start(test)
}

/// Runs the attacks. `victim` runs the trusted program, `attacker` another one.
fn tries(node: &Node, attacker: u32, victim: u32, tries: u32) -> Tries {
    let script =
        format!("attackers({attacker}) if len(sys.argv) > 3 else attacks({PYTHON:?}, {victim}, {tries}, {SECONDS})");
    let printed = node.gets_as(&node.trusted, &script);
    let numbers: Vec<u32> = printed.split(' ').map(|number| number.parse().unwrap()).collect();
    let [made, in_one_tick, won] = numbers[..] else { panic!("{printed}") };
    eprintln!("{made} PIDs reused from {attacker} to {victim}, {in_one_tick} in one tick, {won} won");
    Tries { made, in_one_tick, won }
}

/// Defences: `Process::alive` on the pidfd of `SO_PEERPIDFD`, `pinned::pidfd_facts`, and for another user
/// `pinned::agree`. If the first two return early, no attacker wins.
#[test]
fn attack_1_a_reused_pid_of_another_user_gets_no_identity() {
    let Some(node) = Node::start("attack_1_another_user") else { return };
    assert_eq!(node.honest_gets(PYTHON, 41000), "identity");
    let tries = tries(&node, 41002, 41000, 10_000);
    assert_eq!(tries.won, 0);
    assert!(tries.made > 500);
    assert_eq!(node.honest_gets(PYTHON, 41000), "identity");
}

/// Defences: `Process::alive` and `pinned::pidfd_facts`. If both return early, every tenth attacker wins; if only the
/// first does, none.
#[test]
fn attack_1_a_reused_pid_of_the_same_user_gets_no_identity() {
    let Some(node) = pinning("attack_1_same_user") else { return };
    assert_eq!(node.honest_gets(&node.trusted, 41001), "identity");
    let tries = tries(&node, 41001, 41001, 10_000);
    assert_eq!(tries.won, 0);
    assert!(tries.made > 500);
    assert_eq!(node.honest_gets(&node.trusted, 41001), "identity");
}

/// Defence at reduced: `pinned::agree`, which a process of the same user passes if its entry has `accept_weak`.
/// Defence at pinned: `Process::alive`. If it returns early, every eighth attacker of the same user wins.
#[test]
fn attack_1_a_reused_pid_wins_only_at_reduced_and_for_the_same_user() {
    for level in levels::OLDER {
        let Some(node) = levels::node("attack_1_at_reduced", level) else { continue };
        assert_eq!(node.honest_gets(PYTHON, 41000), "identity", "{level}");
        assert_eq!(node.honest_gets(&node.trusted, 41003), "identity", "{level}");
        assert_eq!(tries(&node, 41002, 41000, 200).won, 0, "{level}");
        let same_user = tries(&node, 41003, 41003, 200).won;
        assert_eq!(same_user > 0, level == "reduced", "{level}: {same_user}");
    }
}

/// Defences: those of attack 1; no check compares start times. If both return early, attackers win.
#[test]
fn attack_2_a_reused_pid_with_the_same_start_tick_gets_no_identity() {
    let Some(node) = pinning("attack_2") else { return };
    assert_eq!(node.honest_gets(&node.trusted, 41001), "identity");
    let tries = tries(&node, 41001, 41001, 2_000);
    assert_eq!(tries.won, 0);
    assert!(tries.in_one_tick > 10);
}
