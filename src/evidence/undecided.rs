//! Checks that could not be completed.

use serde::Deserialize;
use serde::Serialize;

/// A check that could not be completed, for a cause on the daemon's side. It is not a denial: a caller may retry, and a
/// live caller keeps its identities (SPEC: product contract §5, rule 9). A cause on the caller's side is a denial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Undecided {
    /// The daemon, or the whole system, has no file descriptor left.
    #[error("no file descriptor left")]
    OutOfDescriptors,
    /// The kernel could not allocate memory.
    #[error("the kernel is out of memory")]
    OutOfMemory,
    /// A step took longer than its limit.
    #[error("a check took longer than its limit")]
    TimedOut,
    /// The caller's own share of some limit is used up.
    #[error("the limit for this caller is used up")]
    Budget,
    /// The daemon lacks a right, so `/proc` does not show what it needs.
    #[error("the daemon lacks the right to read what it needs")]
    NotPermitted,
    /// The authority cannot sign now, or has expired, or the clock is wrong.
    #[error("the authority cannot sign now")]
    Authority,
    /// The daemon is starting or stopping.
    #[error("the daemon is starting or stopping")]
    NotReady,
    /// The entries or the process changed during every attempt to decide.
    #[error("the entries or the process kept changing while it was decided; try again")]
    KeptChanging,
    /// The name service has not answered, or its last answer is too old to count.
    #[error("the name service does not say who the users and groups of the entries are")]
    NameService,
    /// The kernel returned an error that no other variant describes.
    #[error("the kernel gave an unexpected error")]
    Kernel,
}

impl Undecided {
    /// The cause that an error of the kernel stands for. `None` where the process has exited (`ESRCH`, `ENOENT`).
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
