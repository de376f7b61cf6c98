//! The rules: which facts follow from what was read, and which are withheld and why.

use crate::attestation::host::cgroup::CgroupKind;
use crate::attestation::kernel::AtPath;
use crate::attestation::kernel::FileIdentity;
use crate::evidence::Accounts;
use crate::evidence::Answer;
use crate::evidence::Credentials;
use crate::evidence::EvidenceSet;
use crate::evidence::Grade;
use crate::evidence::Provider;
use crate::evidence::Selector;
use crate::evidence::SelectorKind;
use crate::evidence::Source;
use crate::evidence::WithheldBecause;

/// Whether a process is in the host's namespace, for each kind of namespace.
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
    /// The path from the root of the hierarchy is proven.
    Anchored {
        /// The path.
        path: String,
        /// Its kind.
        kind: CgroupKind,
    },
    /// The path could not be proven, or no path decides.
    NotAnchored {
        /// The path that `/proc` showed, where one decides.
        shown: Option<String>,
    },
}

impl CgroupPosition {
    /// Whether the cgroup is proven to be that of a container.
    #[must_use]
    pub const fn is_container(&self) -> bool {
        matches!(self, Self::Anchored { kind: CgroupKind::Container { .. }, .. })
    }
}

/// The data that was read of one process, after the checks for contradictions.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// Its credentials, which are the same in socket, pidfd and `/proc`.
    pub peer: Credentials,
    /// Its supplementary groups.
    pub groups: &'a [u32],
    /// Which of its namespaces are the host's.
    pub namespaces: HostNamespaces,
    /// Its cgroup.
    pub place: &'a CgroupPosition,
}

/// All facts except path and hash, which cost more and are read only where an entry could use them.
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
    if let Some(because) = not_on_the_host(seen).or(accounts.withheld_because()) {
        if accounts.answer().is_some() {
            evidence.answered(Provider::NAMES, Answer::Settled);
        }
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
    if let Some(answer) = accounts.answer() {
        evidence.answered(Provider::NAMES, answer);
    }
}

fn cgroup(evidence: &mut EvidenceSet, seen: &Observed<'_>) {
    let units = [SelectorKind::SystemdId, SelectorKind::SystemdSlice];
    let (path, cgroup_kind) = match seen.place {
        CgroupPosition::Anchored { kind: CgroupKind::Container { .. }, path } => {
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
        CgroupPosition::Anchored { path, kind } => (path, kind),
    };
    match Selector::cgroup(path) {
        Some(selector) => evidence.prove(selector, Grade::Kernel, Source::Cgroup),
        None => evidence.withhold(SelectorKind::Cgroup, Some(path.clone()), WithheldBecause::NotPrintable),
    }
    match cgroup_kind {
        CgroupKind::Unit { id, slice } => {
            evidence.prove(Selector::SystemdId(id.as_str().into()), Grade::Kernel, Source::Cgroup);
            evidence.prove(Selector::SystemdSlice(slice.as_str().into()), Grade::Kernel, Source::Cgroup);
        }
        CgroupKind::Plain | CgroupKind::Container { .. } => {
            for kind in units {
                evidence.withhold(kind, Some(path.clone()), WithheldBecause::NotAUnit);
            }
        }
    }
}

fn host(evidence: &mut EvidenceSet, seen: &Observed<'_>) {
    let HostNamespaces { user, pid, cgroup } = seen.namespaces;
    let because = match seen.place {
        CgroupPosition::Anchored { kind: CgroupKind::Container { .. }, .. } => WithheldBecause::Container,
        _ if !(user && pid && cgroup) => WithheldBecause::NotHostNamespaces,
        CgroupPosition::NotAnchored { .. } => WithheldBecause::CgroupNotAnchored,
        CgroupPosition::Anchored { .. } => return evidence.prove(Selector::Host, Grade::Kernel, Source::Namespaces),
    };
    evidence.withhold(SelectorKind::Host, None, because);
}

/// Why facts do not count that a process can forge in its own user namespace, or that belong to the image of a
/// container.
#[must_use]
pub fn not_on_the_host(seen: &Observed<'_>) -> Option<WithheldBecause> {
    if seen.place.is_container() {
        Some(WithheldBecause::Container)
    } else if seen.namespaces.user {
        None
    } else {
        // SECURITY: in its own user namespace a process can set its executable link to any file (`PR_SET_MM_MAP`), and
        // can mount any file at any path. This is no defence against a child that shares the memory of a process of the
        // host and does so from a namespace of its own: the link is that of the memory (attack 149).
        Some(WithheldBecause::ForeignUserNamespace)
    }
}

/// The selector for the path of the executable's link. `at_path` is the file that PID 1 has there.
///
/// SECURITY: this tells the programs of one user apart, against mistakes, and proves nothing of the code that runs: the user
/// can start the program with code of their own in it, and can let a process of theirs seem to run it (attacks 149, 155).
/// The grade is claimed, therefore. The same is true of the hash.
///
/// SECURITY: a deleted file is detected by its link count. Its link text ends in ` (deleted)`, but so can a real file
/// name.
///
/// # Errors
/// The reason why the path does not count.
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

/// Local file systems, whose bytes change only by those whom the metadata of the file lets write, by `f_type` (SPEC: statfs(2)): ext2 to ext4,
/// xfs, btrfs, f2fs, erofs, squashfs, tmpfs, zfs, bcachefs.
const LOCAL_FILE_SYSTEMS: [i64; 9] =
    [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010, 0xE0F5_E1E2, 0x7371_7368, 0x0102_1994, 0x2FC1_2FC1, 0xCA45_1A4E];
const OVERLAY: i64 = 0x794C_7630;

/// Major numbers of block devices whose data is in a file (loop) or on another machine (nbd).
const INDIRECT_DEVICES: [u32; 2] = [7, 43];

/// The size of the largest executable that is hashed.
pub const MAX_HASHED: u64 = 512 << 20;

/// Why the hash of this file proves nothing for this caller; `None` when it counts.
///
/// SECURITY: the owner of an overlay's upper directory can replace the upper file after the `exec`. For root an overlay
/// counts, because root can change any file.
#[must_use]
pub fn hash_withheld(uid: u32, file: &FileIdentity, file_system: i64) -> Option<WithheldBecause> {
    if !(LOCAL_FILE_SYSTEMS.contains(&file_system) || file_system == OVERLAY && uid == 0) {
        Some(WithheldBecause::ForeignFileSystem)
    } else {
        hash_withheld_by_metadata(uid, file)
    }
}

/// The part of [`hash_withheld`] that needs no call to the file system.
///
/// SECURITY: bytes that the caller can change after the `exec` are not even those of the file that was started. A write bit for the group counts
/// as the caller's, because with an ACL that bit is the ACL's mask. Root can change any file anyway, so neither rule
/// applies to root.
#[must_use]
pub fn hash_withheld_by_metadata(uid: u32, file: &FileIdentity) -> Option<WithheldBecause> {
    let root = uid == 0;
    if INDIRECT_DEVICES.contains(&file.major()) && !root {
        Some(WithheldBecause::ForeignFileSystem)
    } else if !root && (file.uid == uid || file.mode & 0o022 != 0) {
        Some(WithheldBecause::WritableByCaller)
    } else if file.size > MAX_HASHED {
        Some(WithheldBecause::TooLarge)
    } else {
        None
    }
}

/// Whether nobody but root can write to this file, so that what was proven of it before is true still.
///
/// SECURITY: not on an overlay, not even for root: nothing shows who owns the directory of its upper layer.
#[must_use]
pub fn only_root_writes(file: &FileIdentity, file_system: i64) -> bool {
    LOCAL_FILE_SYSTEMS.contains(&file_system) && only_root_writes_by_metadata(file)
}

/// The part of [`only_root_writes`] that needs no call to the file system.
#[must_use]
pub fn only_root_writes_by_metadata(file: &FileIdentity) -> bool {
    file.uid == 0 && file.mode & 0o022 == 0 && !INDIRECT_DEVICES.contains(&file.major())
}

/// Whether the metadata of the file determines its bytes, so that a cached digest can be used without a call to the
/// file system.
///
/// SECURITY: not where the caller can change the file, because the metadata can be restored after a change. And not on
/// an anonymous device (major 0: overlay, tmpfs, btrfs, FUSE), because the kernel reuses its number. A FUSE file system
/// of the caller could get that number and return the metadata of a cached file.
#[must_use]
pub fn digest_is_cacheable(uid: u32, file: &FileIdentity) -> bool {
    file.major() != 0 && hash_withheld_by_metadata(uid, file).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostNamespaces = HostNamespaces { user: true, pid: true, cgroup: true };

    fn place(path: &str) -> CgroupPosition {
        CgroupPosition::Anchored { path: path.to_owned(), kind: CgroupKind::of(path, "") }
    }

    fn accounts() -> Accounts {
        Accounts::example(&[(1000, "web")], &[(1000, "web"), (27, "sudo")])
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
    fn a_process_of_a_unit_has_ids_names_unit_cgroup_and_host() {
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
    fn a_process_in_a_container_has_only_numeric_ids() {
        let id = "0123456789abcdef".repeat(4);
        let numbers = ["unix:uid:1000", "unix:gid:1000", "unix:supplementary_gid:27"];
        assert_eq!(texts(&place(&format!("/docker/{id}")), HOST), numbers);
        assert_eq!(texts(&place(&format!("/system.slice/docker-{id}.scope")), HOST), numbers);
    }

    #[test]
    fn a_process_in_its_own_user_namespace_has_its_unit_but_no_names() {
        let own = HostNamespaces { user: false, ..HOST };
        let texts = texts(&place("/system.slice/web.service"), own);
        assert!(texts.contains(&"systemd:id:web.service".to_owned()));
        assert!(
            texts.iter().all(|text| !text.contains("user") && !text.contains("group:") || text.starts_with("cgroup:"))
        );
        assert!(!texts.contains(&"host:true".to_owned()));
    }

    #[test]
    fn host_needs_the_user_pid_and_cgroup_namespace() {
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
    fn a_cgroup_without_a_proven_path_proves_no_unit_path_or_host() {
        let texts = texts(&CgroupPosition::NotAnchored { shown: Some("/web.service".to_owned()) }, HOST);
        assert!(texts.iter().all(|text| text.starts_with("unix:")), "{texts:?}");
    }

    #[test]
    fn a_cgroup_path_that_is_not_printable_is_withheld() {
        for path in ["/a\u{1b}[31m", "/a\u{fffd}", "/a\nb"] {
            let texts = texts(&place(path), HOST);
            assert!(!texts.iter().any(|text| text.starts_with("cgroup:")), "{texts:?}");
        }
    }

    #[test]
    fn a_path_counts_only_where_the_host_has_the_running_file_there() {
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
        for odd in ["/usr/bin/we\u{fffd}", "/usr/bin/we\nb"] {
            assert_eq!(path(odd, &file(), AtPath::File(file())), Err(WithheldBecause::NotPrintable));
        }
        let closed = path("/home/web/web", &file(), AtPath::Closed);
        assert_eq!(closed, Err(WithheldBecause::PathNotSearchable), "not searchable does not mean another file");
    }

    #[test]
    fn a_deleted_file_is_detected_by_its_link_count_and_not_by_its_text() {
        let deleted = FileIdentity { links: 0, ..file() };
        assert_eq!(path("/tmp/x (deleted)", &deleted, AtPath::File(deleted)), Err(WithheldBecause::Deleted));
        assert_eq!(path("/memfd:/usr/bin/nginx (deleted)", &deleted, AtPath::Nothing), Err(WithheldBecause::Anonymous));
        let named_deleted = path("/tmp/x (deleted)", &file(), AtPath::File(file()));
        assert_eq!(named_deleted.map(|selector| selector.to_string()), Ok("unix:path:/tmp/x (deleted)".to_owned()));
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
    fn a_digest_is_cacheable_only_where_metadata_determines_the_bytes() {
        assert!(digest_is_cacheable(1000, &file()));
        assert!(!digest_is_cacheable(1000, &FileIdentity { uid: 1000, ..file() }));
        // The kernel reuses numbers of anonymous devices: for example for FUSE after a tmpfs.
        assert!(!digest_is_cacheable(0, &FileIdentity { device: libc::makedev(0, 50), ..file() }));
    }
}
