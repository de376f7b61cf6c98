//! Checks that could not be completed.

use serde::Deserialize;
use serde::Serialize;

/// A check that could not be completed, for a cause on our side. Never the same as a denial: a caller may retry, and a
/// live caller keeps what it has (SPEC: product contract §5, rule 9). Anything about the caller itself is a "no".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Undecided {
    /// This process, or the whole system, has no file descriptor left.
    #[error("no file descriptor left")]
    OutOfDescriptors,
    /// The kernel could not give memory.
    #[error("the kernel is out of memory")]
    OutOfMemory,
    /// A step took longer than its limit.
    #[error("a check took longer than its limit")]
    TimedOut,
    /// The caller's own share of some limit is used up.
    #[error("the limit for this caller is used up")]
    Budget,
    /// `/proc` does not show what the daemon needs to see; a missing right of the daemon's own.
    #[error("the daemon lacks the right to read what it needs")]
    NotPermitted,
    /// The authority cannot sign now, or its own life is over, or the clock is wrong.
    #[error("the authority cannot sign now")]
    Authority,
    /// The daemon is starting or stopping.
    #[error("the daemon is starting or stopping")]
    NotReady,
    /// The entries, or the process, changed again each time it was decided.
    #[error("the entries or the process kept changing while it was decided; try again")]
    KeptChanging,
    /// The kernel answered with an error that none of the above describes.
    #[error("the kernel gave an unexpected error")]
    Kernel,
}

impl Undecided {
    /// Sorts an error of the kernel into causes on our side. `None` where the error is about the caller: it has gone
    /// (`ESRCH`, `ENOENT`).
    #[must_use]
    pub fn from_errno(errno: i32) -> Option<Self> {
        match errno {
            libc::ESRCH | libc::ENOENT => None,
            libc::EMFILE | libc::ENFILE => Some(Self::OutOfDescriptors),
            libc::ENOMEM | libc::ENOBUFS => Some(Self::OutOfMemory),
            libc::ETIMEDOUT => Some(Self::TimedOut),
            libc::EACCES | libc::EPERM => Some(Self::NotPermitted),
            _ => Some(Self::Kernel),
        }
    }
}
