//! A number that comes round is not the process that connected.

use crate::levels;
use crate::node::Node;
use crate::node::PYTHON;

/// How long one round of tries may take.
const SECONDS: u32 = 150;

/// A process that may have no identity connects and dies, and one that may have one gets its number.
struct Tries {
    /// How many numbers came round.
    made: u32,
    /// How many of the heirs started in the same clock tick as the one they inherit from.
    in_one_tick: u32,
    /// How many connections got an identity.
    won: u32,
}

/// A node that tells an heir of the same user, which none below pinned can.
fn pinning(test: &str) -> Option<Node> {
    if !levels::pins() {
        eprintln!("skipped: {test}: at reduced nothing tells an heir of the same user, needs Linux 6.5");
        return None;
    }
    Node::start(test)
}

/// `attacker` runs another program than `victim`, which runs the trusted one.
fn tries(node: &Node, attacker: u32, victim: u32, tries: u32) -> Tries {
    let script =
        format!("attackers({attacker}) if len(sys.argv) > 3 else attacks({PYTHON:?}, {victim}, {tries}, {SECONDS})");
    let said = node.gets_as(&node.trusted, &script);
    let numbers: Vec<u32> = said.split(' ').map(|number| number.parse().unwrap()).collect();
    let [made, in_one_tick, won] = numbers[..] else { panic!("{said}") };
    eprintln!("of {made} numbers that came round from {attacker} to {victim}, {in_one_tick} in one tick, {won} won");
    Tries { made, in_one_tick, won }
}

/// Defences: `Process::alive` on the pidfd of `SO_PEERPIDFD`, `attestation::attest::pidfd_facts`, and for another user
/// `attestation::attest::agree`. With the first two returning early, still nobody wins.
#[test]
fn attack_1_an_heir_of_another_user_inherits_no_identity() {
    let Some(node) = Node::start("attack_1_another_user") else { return };
    assert_eq!(node.honest_gets(PYTHON, 41000), "identity");
    let tries = tries(&node, 41002, 41000, 10_000);
    assert_eq!(tries.won, 0);
    assert!(tries.made > 500);
    assert_eq!(node.honest_gets(PYTHON, 41000), "identity");
}

/// Defences: `Process::alive` and `attestation::attest::pidfd_facts`. With both returning early, every tenth heir wins; with
/// the first alone, none.
#[test]
fn attack_1_an_heir_of_the_same_user_inherits_no_identity() {
    let Some(node) = pinning("attack_1_same_user") else { return };
    assert_eq!(node.honest_gets(&node.trusted, 41001), "identity");
    let tries = tries(&node, 41001, 41001, 10_000);
    assert_eq!(tries.won, 0);
    assert!(tries.made > 500);
    assert_eq!(node.honest_gets(&node.trusted, 41001), "identity");
}

/// Defence at reduced: `attestation::attest::agree`, which a process of the same user passes, if its entry accepts that a
/// path is weak. At pinned: `Process::alive`. With it returning early, every eighth heir of the same user wins.
#[test]
fn attack_1_at_reduced_only_an_heir_of_the_same_user_inherits_and_at_pinned_none() {
    for level in levels::OLDER {
        let Some(node) = levels::node("attack_1_at_reduced", level) else { continue };
        assert_eq!(node.honest_gets(PYTHON, 41000), "identity", "{level}");
        assert_eq!(node.honest_gets(&node.trusted, 41003), "identity", "{level}");
        assert_eq!(tries(&node, 41002, 41000, 200).won, 0, "{level}");
        let same_user = tries(&node, 41003, 41003, 200).won;
        assert_eq!(same_user > 0, level == "reduced", "{level}: {same_user}");
    }
}

/// Defences: those of attack 1, for nothing asks for a start time. With both returning early, heirs win.
#[test]
fn attack_2_an_heir_that_started_in_the_same_tick_inherits_no_identity() {
    let Some(node) = pinning("attack_2") else { return };
    assert_eq!(node.honest_gets(&node.trusted, 41001), "identity");
    let tries = tries(&node, 41001, 41001, 2_000);
    assert_eq!(tries.won, 0);
    assert!(tries.in_one_tick > 10);
}
