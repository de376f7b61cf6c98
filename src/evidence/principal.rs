//! Whom limits are charged to.

/// Callers that share every limit: one user in one group of processes that only root can leave.
///
/// SECURITY: the cgroup is the nearest ancestor that root owns, because a user can make as many cgroups as it likes in
/// a subtree delegated to it, and would get a fresh budget with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Principal {
    /// The uid that connected.
    pub uid: u32,
    /// Inode of the nearest ancestor cgroup owned by root; 0 where it is not known.
    pub cgroup: u64,
}
