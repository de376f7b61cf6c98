//! Who is charged for a caller: a pure function of what the kernel and `/etc/subuid` say of it.

use crate::evidence::Principal;
use crate::evidence::SubordinateUids;

/// What decides who is charged for a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen<'a> {
    /// Its uid, in the host's user namespace.
    pub uid: u32,
    /// Its user namespace.
    pub namespace: UserNamespace,
    /// The path of its cgroup from the root of the hierarchy, where it is proven.
    pub path: Option<&'a str>,
    /// Inode of the nearest ancestor of its cgroup that root owns; 0 where it is unknown.
    pub cgroup: u64,
}

/// The user namespace of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserNamespace {
    /// That of the host.
    Host,
    /// One below it.
    Below {
        /// Whose the outermost namespace below the host's is.
        owner: u32,
    },
    /// The kernel does not tell.
    Unknown,
}

/// The principal (SPEC: product contract §2). `manager` is the path of the system manager's own root.
///
/// SECURITY: whoever is counted for another one must belong to him. A user namespace is made by a process of its owner, and
/// only root writes the ranges. So nobody can use up another's share, or get a second one by more uids: those in a namespace
/// count for the owner, and the uids of a range count for theirs, also where a setuid file of such a uid runs outside of any
/// namespace. Root's namespaces are as they are: its containers have cgroups that only root can make, and with the uid alone
/// one of them would use up the share of all.
#[must_use]
pub fn principal(seen: &Seen<'_>, ranges: &SubordinateUids, manager: &str) -> Principal {
    let own = match seen.namespace {
        UserNamespace::Host | UserNamespace::Below { owner: 0 } => seen.uid,
        UserNamespace::Below { owner } => owner,
        UserNamespace::Unknown => return Principal::COMMON,
    };
    let Some(uid) = ranges.charged(own) else { return Principal::COMMON };
    let is_session = seen.path.is_some_and(|path| is_below_user_slice(path, manager));
    Principal { uid, cgroup: if is_session { 0 } else { seen.cgroup } }
}

/// Whether this is the cgroup of a login session, a user manager or another part of `user.slice`. Each session has a cgroup of
/// root's, and a user can have any number of sessions.
fn is_below_user_slice(path: &str, manager: &str) -> bool {
    let below = path.strip_prefix(manager).and_then(|below| below.strip_prefix("/user.slice"));
    below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::RangeOwner;

    const HOST: UserNamespace = UserNamespace::Host;
    const ALICES: UserNamespace = UserNamespace::Below { owner: 1000 };
    const ROOTS: UserNamespace = UserNamespace::Below { owner: 0 };
    const SERVICE: &str = "/system.slice/web.service";
    const SESSION: &str = "/user.slice/user-1000.slice/session-3.scope";

    /// Alice is 1000, with the range from 100000. The range from 200000 is of somebody who is not known now.
    fn charged(uid: u32, namespace: UserNamespace, path: &str) -> Principal {
        let mut ranges = SubordinateUids::default();
        ranges.add(100_000..=165_535, RangeOwner::Uid(1000));
        ranges.add(200_000..=265_535, RangeOwner::Unknown);
        principal(&Seen { uid, namespace, path: Some(path), cgroup: 47 }, &ranges, "")
    }

    #[test]
    fn a_caller_is_charged_to_whoever_made_its_namespace_or_has_its_range() {
        for (uid, namespace, path, principal) in [
            (1000, HOST, SERVICE, Principal { uid: 1000, cgroup: 47 }),
            (0, HOST, SERVICE, Principal { uid: 0, cgroup: 47 }),
            (1000, HOST, SESSION, Principal::of_uid(1000)),
            // In a namespace of alice's: her own uid, root of the namespace, and uids of her range and of no range.
            (1000, ALICES, SERVICE, Principal { uid: 1000, cgroup: 47 }),
            (100_007, ALICES, SERVICE, Principal { uid: 1000, cgroup: 47 }),
            (4711, ALICES, SERVICE, Principal { uid: 1000, cgroup: 47 }),
            (100_007, ALICES, SESSION, Principal::of_uid(1000)),
            // In a namespace of root's everyone is who he is, unless he is in a range.
            (0, ROOTS, SERVICE, Principal { uid: 0, cgroup: 47 }),
            (4711, ROOTS, SERVICE, Principal { uid: 4711, cgroup: 47 }),
            (100_007, ROOTS, SERVICE, Principal { uid: 1000, cgroup: 47 }),
            // A setuid file of a uid of the range, run from outside, and what that uid makes.
            (100_007, HOST, SERVICE, Principal { uid: 1000, cgroup: 47 }),
            (100_007, HOST, SESSION, Principal::of_uid(1000)),
            (4711, UserNamespace::Below { owner: 100_007 }, SERVICE, Principal { uid: 1000, cgroup: 47 }),
            // What cannot be asked.
            (1000, UserNamespace::Unknown, SERVICE, Principal::COMMON),
            (0, UserNamespace::Unknown, SESSION, Principal::COMMON),
            (200_007, HOST, SERVICE, Principal::COMMON),
            (4711, UserNamespace::Below { owner: 200_007 }, SESSION, Principal::COMMON),
        ] {
            assert_eq!(charged(uid, namespace, path), principal, "{uid} {namespace:?} {path}");
        }
    }

    #[test]
    fn the_uid_alone_is_charged_in_every_part_of_the_system_managers_user_slice_and_nowhere_else() {
        let manager_in_container = "/system.slice/docker-1.scope";
        for (path, manager, alone) in [
            (Some("/user.slice"), "", true),
            (Some("/user.slice/user-1000.slice/session-c4.scope"), "", true),
            (Some("/user.slice/user-1000.slice/user@1000.service/app.slice/web.service"), "", true),
            (Some("/user.slice/user-0.slice/cron.scope/deeper"), "", true),
            (Some("/system.slice/docker-1.scope/user.slice/user-1.slice/session-1.scope"), manager_in_container, true),
            (Some("/user.slice/user-1.slice"), manager_in_container, false),
            (Some("/user.slices/x"), "", false),
            (Some("/user.slice-x/y"), "", false),
            (Some("/system.slice/cron.service"), "", false),
            (Some("/system.slice/web.service/user.slice/x"), "", false),
            (Some("/docker/1/user.slice/user-1.slice"), "", false),
            (Some("/"), "", false),
            (None, "", false),
        ] {
            let seen = Seen { uid: 7, namespace: HOST, path, cgroup: 47 };
            let expected = Principal { uid: 7, cgroup: if alone { 0 } else { 47 } };
            assert_eq!(principal(&seen, &SubordinateUids::default(), manager), expected, "{path:?} {manager}");
        }
    }
}
