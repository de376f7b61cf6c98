//! The unit that limits are charged to.

use std::fmt;

/// Callers that share every limit (SPEC: product contract §2): those of one uid in one cgroup that only root can move them
/// out of, or those of one uid wherever they are.
///
/// SECURITY: the cgroup is the nearest ancestor that root owns. A user can create any number of cgroups in a delegated
/// subtree, of login sessions, and of uids in a user namespace, and would get a new budget with each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Principal {
    /// The uid that is charged: that of the connected process, or of the user that this uid belongs to.
    pub uid: u32,
    /// Inode of the nearest ancestor cgroup owned by root; 0 where the uid is charged alone, or the cgroup is unknown.
    pub cgroup: u64,
}

impl Principal {
    /// Everyone of whom it cannot be said who is charged for him. SPEC: credentials(7): no process has the uid -1.
    pub const COMMON: Self = Self { uid: u32::MAX, cgroup: 0 };

    /// A uid, wherever it runs.
    #[must_use]
    pub const fn of_uid(uid: u32) -> Self {
        Self { uid, cgroup: 0 }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::COMMON => f.write_str("all callers whose user cannot be told"),
            Self { uid, cgroup: 0 } => write!(f, "uid {uid}"),
            Self { uid, cgroup } => write!(f, "uid {uid} in cgroup {cgroup}"),
        }
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Principal({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_reads_as_whom_it_stands_for() {
        for (principal, text) in [
            (Principal { uid: 0, cgroup: 47 }, "uid 0 in cgroup 47"),
            (Principal::of_uid(1000), "uid 1000"),
            (Principal::COMMON, "all callers whose user cannot be told"),
        ] {
            assert_eq!(principal.to_string(), text);
            assert_eq!(format!("{principal:?}"), format!("Principal({text})"));
        }
    }
}
