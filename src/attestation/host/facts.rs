//! Which facts follow from what was read, each by its own condition, and what is withheld and why.

use crate::attestation::host::cgroup::Group;
use crate::attestation::kernel::AtPath;
use crate::attestation::kernel::FileIdentity;
use crate::evidence::Accounts;
use crate::evidence::Credentials;
use crate::evidence::EvidenceSet;
use crate::evidence::Grade;
use crate::evidence::Selector;
use crate::evidence::SelectorKind;
use crate::evidence::Source;
use crate::evidence::WithheldBecause;

/// Whether a process is in the host's own namespaces of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostNamespaces {
    /// Its user namespace is the host's.
    pub user: bool,
    /// Its PID namespace is the host's.
    pub pid: bool,
    /// Its cgroup namespace is the host's.
    pub cgroup: bool,
}

/// The cgroup of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupPosition {
    /// The path from the root of the hierarchy, and what it stands for.
    Anchored {
        /// The path.
        path: String,
        /// What it stands for.
        group: Group,
    },
    /// The path could not be proven, or hierarchies without rank show several.
    NotAnchored {
        /// The path that was shown, where one decides.
        shown: Option<String>,
    },
}

impl CgroupPosition {
    /// Whether the process is in a container, or may be: where the cgroup proves nothing, that is no proof of the host.
    #[must_use]
    pub const fn is_container(&self) -> bool {
        matches!(self, Self::Anchored { group: Group::Container { .. }, .. })
    }
}

/// What was read of one process, checked against itself.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// Its credentials, on which socket, pidfd and `/proc` agree.
    pub peer: Credentials,
    /// Its supplementary groups.
    pub groups: &'a [u32],
    /// Where its namespaces are the host's.
    pub namespaces: HostNamespaces,
    /// Its cgroup.
    pub place: &'a CgroupPosition,
}

/// Everything but path and hash, which cost more and are looked for only when an entry could use them.
#[must_use]
pub fn facts(seen: &Observed<'_>, accounts: &Accounts) -> EvidenceSet {
    let mut evidence = EvidenceSet::default();
    let Observed { peer, groups, .. } = *seen;
    let mut prove = |selector, source| evidence.prove(selector, Grade::Kernel, source);
    prove(Selector::UnixUid(peer.uid), Source::Credentials);
    prove(Selector::UnixGid(peer.gid), Source::Credentials);
    for gid in groups {
        prove(Selector::UnixSupplementaryGid(*gid), Source::Status);
    }
    names(&mut evidence, seen, accounts);
    cgroup(&mut evidence, seen);
    host(&mut evidence, seen);
    evidence
}

fn names(evidence: &mut EvidenceSet, seen: &Observed<'_>, accounts: &Accounts) {
    if let Some(because) = not_on_the_host(seen) {
        for kind in [SelectorKind::UnixUser, SelectorKind::UnixGroup, SelectorKind::UnixSupplementaryGroup] {
            evidence.withhold(kind, None, because);
        }
        return;
    }
    let mut prove = |selector, source| evidence.prove(selector, Grade::Kernel, source);
    for name in accounts.user_names(seen.peer.uid) {
        prove(Selector::UnixUser(name.clone()), Source::Credentials);
    }
    for name in accounts.group_names(seen.peer.gid) {
        prove(Selector::UnixGroup(name.clone()), Source::Credentials);
    }
    for name in seen.groups.iter().flat_map(|gid| accounts.group_names(*gid)) {
        prove(Selector::UnixSupplementaryGroup(name.clone()), Source::Status);
    }
}

fn cgroup(evidence: &mut EvidenceSet, seen: &Observed<'_>) {
    let units = [SelectorKind::SystemdId, SelectorKind::SystemdSlice];
    let (path, group) = match seen.place {
        CgroupPosition::Anchored { group: Group::Container { .. }, path } => {
            for kind in units.into_iter().chain([SelectorKind::Cgroup]) {
                evidence.withhold(kind, Some(path.clone()), WithheldBecause::Container);
            }
            return;
        }
        CgroupPosition::NotAnchored { shown } => {
            for kind in units.into_iter().chain([SelectorKind::Cgroup]) {
                evidence.withhold(kind, shown.clone(), WithheldBecause::CgroupNotAnchored);
            }
            return;
        }
        CgroupPosition::Anchored { path, group } => (path, group),
    };
    match Selector::cgroup(path) {
        Some(selector) => evidence.prove(selector, Grade::Kernel, Source::Cgroup),
        None => evidence.withhold(SelectorKind::Cgroup, Some(path.clone()), WithheldBecause::NotPrintable),
    }
    match group {
        Group::Unit { id, slice } => {
            evidence.prove(Selector::SystemdId(id.as_str().into()), Grade::Kernel, Source::Cgroup);
            evidence.prove(Selector::SystemdSlice(slice.as_str().into()), Grade::Kernel, Source::Cgroup);
        }
        Group::Plain | Group::Container { .. } => {
            for kind in units {
                evidence.withhold(kind, Some(path.clone()), WithheldBecause::NotAUnit);
            }
        }
    }
}

fn host(evidence: &mut EvidenceSet, seen: &Observed<'_>) {
    let HostNamespaces { user, pid, cgroup } = seen.namespaces;
    let because = match seen.place {
        CgroupPosition::Anchored { group: Group::Container { .. }, .. } => WithheldBecause::Container,
        _ if !(user && pid && cgroup) => WithheldBecause::NotHostNamespaces,
        CgroupPosition::NotAnchored { .. } => WithheldBecause::CgroupNotAnchored,
        CgroupPosition::Anchored { .. } => return evidence.prove(Selector::Host, Grade::Kernel, Source::Namespaces),
    };
    evidence.withhold(SelectorKind::Host, None, because);
}

/// Why facts that a process can forge from its own user namespace, or that belong to a container's image, do not count.
#[must_use]
pub fn not_on_the_host(seen: &Observed<'_>) -> Option<WithheldBecause> {
    if seen.place.is_container() {
        Some(WithheldBecause::Container)
    } else if seen.namespaces.user {
        None
    } else {
        // SECURITY: with a user namespace of its own a process can put any file behind its executable's link
        // (`PR_SET_MM_MAP`), and any file at any path (mounts).
        Some(WithheldBecause::ForeignUserNamespace)
    }
}

/// Whether the path of the executable's link counts. `at_path` is what PID 1 sees there.
///
/// SECURITY: a deleted file is known by its count of names. Its link ends in ` (deleted)`, and a file can be called that.
///
/// # Errors
/// Why it does not count.
pub fn path(link: &str, running: &FileIdentity, at_path: AtPath) -> Result<Selector, WithheldBecause> {
    if running.links == 0 {
        let anonymous = link.starts_with("/memfd:");
        return Err(if anonymous { WithheldBecause::Anonymous } else { WithheldBecause::Deleted });
    }
    match at_path {
        AtPath::File(there) if there.is_same_file(running) => Selector::path(link).ok_or(WithheldBecause::NotPrintable),
        AtPath::Closed => Err(WithheldBecause::PathNotSearchable),
        AtPath::File(_) | AtPath::Nothing => Err(WithheldBecause::PathIsAnotherFile),
    }
}

/// File systems whose bytes only their owner and root can change, by `f_type` (SPEC: statfs(2)): ext2 to ext4, xfs, btrfs,
/// f2fs, erofs, squashfs, tmpfs, zfs, bcachefs.
const LOCAL: [i64; 9] =
    [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010, 0xE0F5_E1E2, 0x7371_7368, 0x0102_1994, 0x2FC1_2FC1, 0xCA45_1A4E];
const OVERLAY: i64 = 0x794C_7630;

/// Major numbers of block devices whose bytes live in a file (loop) or on another machine (nbd).
const BORROWED_DEVICES: [u32; 2] = [7, 43];

/// Largest executable that is hashed.
pub const MAX_HASHED: u64 = 512 << 20;

/// Why the hash of this file proves nothing for this caller; `None` when it counts.
///
/// SECURITY: the upper file of an overlay can be swapped after the exec by whoever owns the upper directory. Root can do
/// that anyway.
#[must_use]
pub fn hash_withheld(uid: u32, file: &FileIdentity, file_system: i64) -> Option<WithheldBecause> {
    if !(LOCAL.contains(&file_system) || file_system == OVERLAY && uid == 0) {
        Some(WithheldBecause::ForeignFileSystem)
    } else {
        hash_withheld_by_metadata(uid, file)
    }
}

/// The part of [`hash_withheld`] that asks no file system.
///
/// SECURITY: bytes that the caller can change after they ran prove nothing of what ran. A write bit for a group counts as
/// the caller's, for an access list hides behind it. Root can do all of that anyway.
#[must_use]
pub fn hash_withheld_by_metadata(uid: u32, file: &FileIdentity) -> Option<WithheldBecause> {
    let root = uid == 0;
    if BORROWED_DEVICES.contains(&file.major()) && !root {
        Some(WithheldBecause::ForeignFileSystem)
    } else if !root && (file.uid == uid || file.mode & 0o022 != 0) {
        Some(WithheldBecause::WritableByCaller)
    } else if file.size > MAX_HASHED {
        Some(WithheldBecause::TooLarge)
    } else {
        None
    }
}

/// Whether what the file looks like tells its bytes, so that its digest may be remembered and found again without asking
/// its file system anything.
///
/// SECURITY: not in the hands of the caller, who may change bytes behind their looks, and not on a device without a name
/// (overlay, tmpfs, btrfs, FUSE), whose number the next file system gets: one that its owner answers for could then show
/// whatever looks were remembered.
#[must_use]
pub fn digest_is_cacheable(uid: u32, file: &FileIdentity) -> bool {
    file.major() != 0 && hash_withheld_by_metadata(uid, file).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostNamespaces = HostNamespaces { user: true, pid: true, cgroup: true };

    fn place(path: &str) -> CgroupPosition {
        CgroupPosition::Anchored { path: path.to_owned(), group: Group::of(path, "") }
    }

    fn accounts() -> Accounts {
        Accounts {
            users: [(1000, vec!["web".into()])].into(),
            groups: [(1000, vec!["web".into()]), (27, vec!["sudo".into()])].into(),
        }
    }

    fn texts(place: &CgroupPosition, namespaces: HostNamespaces) -> Vec<String> {
        let peer = Credentials { pid: 7, uid: 1000, gid: 1000 };
        let evidence = facts(&Observed { peer, groups: &[27], namespaces, place }, &accounts());
        evidence.facts().iter().map(|fact| fact.selector.to_string()).collect()
    }

    fn file() -> FileIdentity {
        FileIdentity {
            device: libc::makedev(8, 1),
            inode: 5,
            size: 100,
            ctime: 1,
            mtime: 1,
            links: 1,
            uid: 0,
            gid: 0,
            mode: 0o100_755,
        }
    }

    const EXT4: i64 = 0xEF53;

    #[test]
    fn a_unit_of_the_host_has_its_names_and_its_unit() {
        assert_eq!(
            texts(&place("/system.slice/web.service"), HOST),
            [
                "unix:uid:1000",
                "unix:gid:1000",
                "unix:user:web",
                "unix:group:web",
                "unix:supplementary_gid:27",
                "unix:supplementary_group:sudo",
                "systemd:id:web.service",
                "systemd:slice:system.slice",
                "cgroup:/system.slice/web.service",
                "host:true"
            ]
        );
    }

    #[test]
    fn a_container_has_numbers_and_nothing_else() {
        let id = "0123456789abcdef".repeat(4);
        let numbers = ["unix:uid:1000", "unix:gid:1000", "unix:supplementary_gid:27"];
        assert_eq!(texts(&place(&format!("/docker/{id}")), HOST), numbers);
        assert_eq!(texts(&place(&format!("/system.slice/docker-{id}.scope")), HOST), numbers);
    }

    #[test]
    fn a_user_namespace_of_its_own_takes_the_names_but_not_the_unit() {
        let own = HostNamespaces { user: false, ..HOST };
        let texts = texts(&place("/system.slice/web.service"), own);
        assert!(texts.contains(&"systemd:id:web.service".to_owned()));
        assert!(
            texts.iter().all(|text| !text.contains("user") && !text.contains("group:") || text.starts_with("cgroup:"))
        );
        assert!(!texts.contains(&"host:true".to_owned()));
    }

    #[test]
    fn the_host_is_all_of_its_namespaces() {
        let plain = place("/");
        for namespaces in [
            HostNamespaces { user: false, ..HOST },
            HostNamespaces { pid: false, ..HOST },
            HostNamespaces { cgroup: false, ..HOST },
        ] {
            assert!(!texts(&plain, namespaces).contains(&"host:true".to_owned()), "{namespaces:?}");
        }
        assert!(texts(&plain, HOST).contains(&"host:true".to_owned()));
    }

    #[test]
    fn a_cgroup_that_cannot_be_anchored_proves_neither_unit_nor_path_nor_host() {
        let texts = texts(&CgroupPosition::NotAnchored { shown: Some("/web.service".to_owned()) }, HOST);
        assert!(texts.iter().all(|text| text.starts_with("unix:")), "{texts:?}");
    }

    #[test]
    fn a_cgroup_that_cannot_be_printed_is_no_selector() {
        let texts = texts(&place("/a\u{1b}[31m"), HOST);
        assert!(!texts.iter().any(|text| text.starts_with("cgroup:")), "{texts:?}");
    }

    #[test]
    fn a_path_counts_only_when_the_host_has_the_running_file_there() {
        let same = path("/usr/bin/web", &file(), AtPath::File(file()));
        assert_eq!(same, Ok("unix:path:/usr/bin/web".parse().unwrap()));
        let touched = FileIdentity { ctime: 2, links: 2, ..file() };
        assert!(path("/usr/bin/web", &file(), AtPath::File(touched)).is_ok());
        for other in [
            AtPath::Nothing,
            AtPath::File(FileIdentity { inode: 6, ..file() }),
            AtPath::File(FileIdentity { device: libc::makedev(8, 2), ..file() }),
        ] {
            assert_eq!(path("/usr/bin/web", &file(), other), Err(WithheldBecause::PathIsAnotherFile));
        }
        let closed = path("/home/web/web", &file(), AtPath::Closed);
        assert_eq!(closed, Err(WithheldBecause::PathNotSearchable), "which is not to say that it is another file");
    }

    #[test]
    fn a_deleted_file_is_known_by_its_names_and_not_by_its_text() {
        let deleted = FileIdentity { links: 0, ..file() };
        assert_eq!(path("/tmp/x (deleted)", &deleted, AtPath::File(deleted)), Err(WithheldBecause::Deleted));
        assert_eq!(path("/memfd:/usr/bin/nginx (deleted)", &deleted, AtPath::Nothing), Err(WithheldBecause::Anonymous));
        let called_so = path("/tmp/x (deleted)", &file(), AtPath::File(file()));
        assert_eq!(called_so.map(|selector| selector.to_string()), Ok("unix:path:/tmp/x (deleted)".to_owned()));
    }

    #[test]
    fn a_hash_counts_only_for_bytes_that_the_caller_cannot_change() {
        let owned = FileIdentity { uid: 1000, ..file() };
        let mode = |mode: u32| FileIdentity { mode: 0o100_000 | mode, ..file() };
        let on_loop = FileIdentity { device: libc::makedev(7, 0), ..file() };
        let large = FileIdentity { size: MAX_HASHED + 1, ..file() };
        let (writable, foreign) = (WithheldBecause::WritableByCaller, WithheldBecause::ForeignFileSystem);
        for (uid, file, file_system, expected) in [
            (1000, file(), EXT4, None),
            (1000, owned, EXT4, Some(writable)),
            (1000, mode(0o775), EXT4, Some(writable)),
            (1000, mode(0o757), EXT4, Some(writable)),
            (1000, file(), OVERLAY, Some(foreign)),
            (1000, on_loop, EXT4, Some(foreign)),
            (1000, file(), 0x6573_5546, Some(foreign)),
            (1000, file(), 0x6969, Some(foreign)),
            (1000, large, EXT4, Some(WithheldBecause::TooLarge)),
            (0, file(), OVERLAY, None),
            (0, mode(0o777), EXT4, None),
            (0, on_loop, EXT4, None),
            (0, file(), 0x6573_5546, Some(foreign)),
            (0, large, EXT4, Some(WithheldBecause::TooLarge)),
        ] {
            assert_eq!(hash_withheld(uid, &file, file_system), expected, "{uid} {file:?} {file_system:#x}");
        }
    }

    #[test]
    fn a_hash_is_remembered_only_where_looks_tell_bytes_and_devices_keep_their_numbers() {
        assert!(digest_is_cacheable(1000, &file()));
        assert!(!digest_is_cacheable(1000, &FileIdentity { uid: 1000, ..file() }));
        // Numbers of unnamed devices are given out anew: to a FUSE file system after a tmpfs.
        assert!(!digest_is_cacheable(0, &FileIdentity { device: libc::makedev(0, 50), ..file() }));
    }
}
