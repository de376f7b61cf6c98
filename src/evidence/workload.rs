//! The credentials that the kernel reports for a process, and the level of proof that the kernel supports.

use serde::Deserialize;
use serde::Serialize;

/// The level of proof that this kernel supports (SPEC: product contract §5, rule 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Below Linux 6.5: `pidfd_open` by PID after the accept; the start time must be equal before and after.
    Reduced,
    /// Linux 6.5 to 6.12: the socket's own pidfd, facts from `/proc` between two liveness checks.
    Pinned,
    /// Linux 6.13 and later: the socket's own pidfd, credentials and cgroup id from the pidfd itself.
    Full,
}

/// The credentials with which a socket was connected, or a message was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Credentials {
    /// Process id in the daemon's PID namespace; 0 for a process outside it.
    pub pid: u32,
    /// User id in the daemon's user namespace.
    pub uid: u32,
    /// Group id in the daemon's user namespace.
    pub gid: u32,
}
