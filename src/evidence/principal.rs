//! The unit that limits are charged to.

/// Callers that share every limit: the processes of one uid in one cgroup that only root can move them out of.
///
/// SECURITY: the cgroup is the nearest ancestor that root owns. A user can create any number of cgroups in a delegated
/// subtree, and would get a new budget with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Principal {
    /// The uid of the connected process.
    pub uid: u32,
    /// Inode of the nearest ancestor cgroup owned by root; 0 where it is unknown.
    pub cgroup: u64,
}
