//! The levels of older kernels: the shipped daemon behind a seccomp filter that denies `PIDFD_GET_INFO` (`pinned`), or
//! `SO_PEERPIDFD` as well (`reduced`).

use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt;

use crate::daemon::Daemon;
use crate::node::Node;
use crate::node::PYTHON;
use crate::process_identity::CHILD;
use crate::process_identity::DROP;
use crate::process_identity::swap;

pub(crate) const OLDER_KERNEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/older_kernel.py");
pub(crate) const OLDER: [&str; 2] = ["pinned", "reduced"];

/// A node on a kernel of this level. Where this cannot be tested, prints the reason and returns `None`.
pub(crate) fn node(test: &str, level: &str) -> Option<Node> {
    if level == "pinned" && !pins() {
        eprintln!("skipped: {test}: at pinned, needs Linux 6.5");
        return None;
    }
    Node::start_behind(test, &[PYTHON, OLDER_KERNEL, level], "")
}

/// Whether this kernel has `SO_PEERPIDFD`.
pub(crate) fn pins() -> bool {
    let (socket, _other) = UnixStream::pair().unwrap();
    getsockopt(&socket, sockopt::PeerPidfd).is_ok()
}

#[test]
fn status_names_the_level_and_a_uid_entry_works_at_reduced() {
    for level in OLDER {
        let Some(node) = node("status_names_the_level", level) else { continue };
        assert_eq!(node.level(), level);
        assert_eq!(node.honest_gets(PYTHON, 41000), "identity", "{level}");
        assert_eq!(node.honest_gets(PYTHON, 41002), "nothing", "{level}");
    }
}

#[test]
fn a_path_at_reduced_counts_only_for_an_entry_with_accept_weak() {
    for (level, verdict) in [("pinned", "identity"), ("reduced", "nothing")] {
        let Some(node) = node("a_path_at_reduced", level) else { continue };
        assert_eq!(node.honest_gets(&node.trusted, 41001), verdict, "{level}");
        assert_eq!(node.honest_gets(&node.trusted, 41003), "identity", "{level}: accept_weak");
        assert_eq!(node.honest_gets(PYTHON, 41003), "nothing", "{level}: another program");
    }
}

#[test]
fn the_daemon_refuses_to_start_below_the_configured_minimum() {
    if !Path::new(PYTHON).exists() {
        return eprintln!("skipped: the_daemon_refuses_to_start_below_the_configured_minimum: needs {PYTHON}");
    }
    for level in if pins() { &OLDER[..] } else { &OLDER[1..] } {
        let ended = Daemon::end_behind(&[PYTHON, OLDER_KERNEL, *level], "[attest]\nminimum = \"full\"\n");
        let printed = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{printed}");
        assert!(
            printed.contains(&format!("gives the level \"{level}\", below the configured minimum \"full\"")),
            "{printed}"
        );
    }
}

/// Defences: as in the tests of these attacks. At these levels the facts come from `/proc`, read between two calls of
/// `Process::alive`.
#[test]
fn attacks_3_4_6_10_and_12_fail_on_older_kernels_too() {
    for level in OLDER {
        let Some(node) = node("attacks_on_older_kernels", level) else { continue };
        assert_eq!(node.honest_gets(PYTHON, 41000), "identity", "{level}");
        assert_eq!(node.honest_gets(&node.trusted, 41003), "identity", "{level}");
        let reaped = node.dead_at_the_accept("os.waitpid(middle, 0)");
        let zombie = node.dead_at_the_accept("os.waitid(os.P_PID, middle, os.WEXITED | os.WNOWAIT)");
        let swap = swap(41003);
        for (attack, script) in [(3, &*reaped), (4, &zombie), (6, &swap), (10, DROP), (12, CHILD)] {
            assert_eq!(node.gets(script), "nothing", "attack {attack} at {level}");
        }
    }
}
