//! The cgroup hierarchy: its mount, the system manager's root in it, and the cgroup that limits are charged to.

use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::AtFlags;
use rustix::fs::Dir;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::process::Pid;
use rustix::process::PidfdFlags;
use rustix::process::getpid;
use rustix::process::pidfd_open;

use crate::attestation::host::cgroup::Cgroups;
use crate::attestation::kernel::MayBlock;
use crate::attestation::linux::files;
use crate::attestation::linux::files::read;
use crate::attestation::linux::process::open_directory;
use crate::attestation::linux::reference::UnsupportedHost;
use crate::attestation::linux::reference::first_process;
use crate::evidence::Undecided;
use crate::sys;

/// `f_type` of the unified hierarchy (cgroup v2).
const CGROUP2: i64 = 0x6367_7270;

/// The depth up to which owners are checked. A deeper cgroup is charged to its ancestor at this depth.
const MAX_DEPTH: usize = 16;

/// The inode of the unified hierarchy's root.
const ROOT_INODE: u64 = 1;

/// The most cgroups that the search for the daemon's own cgroup visits.
const MAX_GROUPS: usize = 65_536;

/// The cgroup hierarchy of this machine.
#[derive(Debug)]
pub(super) struct Hierarchy {
    anchor: Anchor,
    /// The mount of the unified hierarchy, if there is one.
    unified: Option<OwnedFd>,
    manager_root: String,
}

/// Where in the hierarchy the paths of `/proc/PID/cgroup` begin.
#[derive(Debug, PartialEq, Eq)]
enum Anchor {
    /// At the root of the hierarchy.
    Root,
    /// At this cgroup, because the daemon has its own cgroup namespace.
    Below(String),
    /// At an unknown cgroup.
    Unknown,
}

impl Hierarchy {
    /// Opens the unified hierarchy where systemd mounts it, alone or beside cgroup v1. `shares_cgroups`: whether the
    /// daemon is in the cgroup namespace of PID 1.
    pub(super) fn open(proc: &OwnedFd, root: &OwnedFd, shares_cgroups: bool) -> Result<Self, UnsupportedHost> {
        let unified = ["sys/fs/cgroup", "sys/fs/cgroup/unified"].into_iter().find_map(|path| {
            let mount = files::resolve(root, Path::new(path), MayBlock::Yes).ok()?;
            (rustix::fs::fstatfs(&mount).ok()?.f_type == CGROUP2).then_some(mount)
        });
        let anchor = match &unified {
            _ if shares_cgroups => Anchor::Root,
            Some(unified) => own_anchor(proc, unified).map_or(Anchor::Unknown, Anchor::Below),
            None => Anchor::Unknown,
        };
        let first = read(&first_process(proc)?, "cgroup").map_err(UnsupportedHost::kernel("reading /proc/1/cgroup"))?;
        let mut hierarchy = Self { anchor, unified, manager_root: String::new() };
        // SPEC: systemd moves itself into `init.scope` below its own root. In a container that root is not the root of
        // the hierarchy.
        let deciding = Cgroups::parse(&first).ok().and_then(|lines| lines.deciding().map(|(path, _)| path.to_owned()));
        let scope = deciding.and_then(|shown| hierarchy.anchored(&shown, cgroup_of(Pid::INIT)).ok().flatten());
        let manager_root = scope.and_then(|path| path.strip_suffix("/init.scope").map(str::to_owned));
        hierarchy.manager_root = manager_root.unwrap_or_default();
        Ok(hierarchy)
    }

    pub(super) fn is_anchored(&self) -> bool {
        self.anchor != Anchor::Unknown
    }

    pub(super) fn manager_root(&self) -> &str {
        &self.manager_root
    }

    /// The path from the root of the hierarchy, if it can be proven.
    ///
    /// SECURITY: in a cgroup namespace of its own, the daemon sees a cgroup below its own as `/docker/<id>`. So a path
    /// counts only if the directory at that path from the root has the id that the kernel reports for the caller.
    pub(super) fn anchored(&self, shown: &str, cgroup: Option<u64>) -> Result<Option<String>, Undecided> {
        let Some(path) = self.absolute(shown) else { return Ok(None) };
        let (Anchor::Below(_), Some(unified)) = (&self.anchor, &self.unified) else { return Ok(Some(path)) };
        let Some(cgroup) = cgroup else { return Ok(None) };
        match files::identity_at(unified, path.trim_start_matches('/'), AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)
        {
            Ok(group) => Ok((group.inode == cgroup).then_some(path)),
            Err(errno) => Undecided::from_errno(errno.raw_os_error()).map_or(Ok(None), Err),
        }
    }

    /// The path from the root of the hierarchy: the anchor, then `shown`.
    fn absolute(&self, shown: &str) -> Option<String> {
        let start = match &self.anchor {
            Anchor::Root => return Some(shown.to_owned()),
            Anchor::Below(start) => start,
            Anchor::Unknown => return None,
        };
        let mut parts: Vec<&str> = start.split('/').filter(|part| !part.is_empty()).collect();
        for part in shown.split('/').filter(|part| !part.is_empty()) {
            match part {
                ".." => drop(parts.pop()?),
                part => parts.push(part),
            }
        }
        Some(format!("/{}", parts.join("/")))
    }

    /// The inode of the last cgroup on the path before the first one that root does not own.
    pub(super) fn charged(&self, shown: &str) -> u64 {
        let Some(unified) = &self.unified else { return 0 };
        let Ok(root) = files::identity(unified) else { return 0 };
        let mut charged = root.inode;
        let Some(path) = self.absolute(shown).filter(|path| !path.split('/').any(|part| part == "..")) else {
            return charged;
        };
        let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
        for end in ends.take(MAX_DEPTH) {
            let Some(below) = path.get(1..end).filter(|below| !below.is_empty()) else { break };
            match files::identity_at(unified, below, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(group) if group.uid == 0 => charged = group.inode,
                _ => break,
            }
        }
        charged
    }
}

/// The path from the root of the hierarchy to the root of the daemon's cgroup namespace. It is the path of the daemon's
/// own cgroup, found by id below the mount, minus the path that `/proc` shows. `None` where the mount does not begin at
/// the root of the hierarchy, or the kernel reports no id.
fn own_anchor(proc: &OwnedFd, unified: &OwnedFd) -> Option<String> {
    let begins_at_root = files::identity(unified).ok()?.inode == ROOT_INODE;
    let own = begins_at_root.then(|| cgroup_of(getpid()))??;
    let path = path_of(unified, own)?;
    let text = read(&open_directory(proc, getpid().as_raw_pid().unsigned_abs()).ok()?, "cgroup").ok()?;
    let lines = Cgroups::parse(&text).ok()?;
    let shown = lines.unified()?.trim_end_matches('/');
    path.strip_suffix(shown).map(str::to_owned)
}

/// The id of a process's cgroup (Linux 6.13).
fn cgroup_of(pid: Pid) -> Option<u64> {
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    sys::pidfd::info(pidfd.as_fd()).ok().map(|info| info.cgroup)
}

/// Searches the hierarchy for the cgroup with this id.
fn path_of(unified: &OwnedFd, id: u64) -> Option<String> {
    let mut pending = vec![String::new()];
    let mut visited = 0;
    while let Some(path) = pending.pop() {
        let name = if path.is_empty() { "." } else { path.trim_start_matches('/') };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let Ok(group) = rustix::fs::openat(unified, name, flags, Mode::empty()) else { continue };
        if files::identity(&group).is_ok_and(|group| group.inode == id) {
            return Some(path);
        }
        for entry in
            Dir::new(group).ok()?.filter_map(Result::ok).filter(|entry| entry.file_type() == FileType::Directory)
        {
            let below = entry.file_name().to_str().ok().filter(|name| !matches!(*name, "." | ".."));
            pending.extend(below.map(|name| format!("{path}/{name}")));
        }
        visited += 1;
        if visited > MAX_GROUPS {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cgroup of the unified hierarchy, removed on drop.
    struct TestCgroup(std::path::PathBuf);

    impl Drop for TestCgroup {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir(&self.0);
        }
    }

    fn below(start: &str) -> Hierarchy {
        Hierarchy { anchor: Anchor::Below(start.to_owned()), unified: None, manager_root: String::new() }
    }

    #[test]
    fn a_path_in_the_daemons_own_namespace_is_resolved_from_the_root() {
        let hierarchy = below("/kubepods/pod1/agent");
        let absolute = |shown| hierarchy.absolute(shown);
        assert_eq!(absolute("/"), Some("/kubepods/pod1/agent".to_owned()));
        assert_eq!(absolute("/docker/x"), Some("/kubepods/pod1/agent/docker/x".to_owned()));
        assert_eq!(absolute("/../../pod2/web"), Some("/kubepods/pod2/web".to_owned()));
        assert_eq!(absolute("/../../../system.slice/a.service"), Some("/system.slice/a.service".to_owned()));
        assert_eq!(absolute("/../../../.."), None);
    }

    #[test]
    fn a_path_is_proven_only_by_the_id_of_its_directory() {
        const TEST: &str = "a_path_is_proven_only_by_the_id_of_its_directory";
        let name = format!("bonafide-{}", std::process::id());
        let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(std::path::Path::new);
        let made = mounts.iter().find(|mount| {
            let kind = rustix::fs::statfs(**mount).is_ok_and(|at| at.f_type == CGROUP2);
            kind && std::fs::create_dir(mount.join(&name)).is_ok()
        });
        let Some(mount) = made else {
            eprintln!("skipped: {TEST}: cannot make a cgroup");
            return;
        };
        let group = TestCgroup(mount.join(&name));
        let unified = rustix::fs::open(*mount, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let id = files::identity(rustix::fs::open(&group.0, OFlags::PATH, Mode::empty()).unwrap()).unwrap().inode;
        assert_eq!(path_of(&unified, id), Some(format!("/{name}")));
        let hierarchy = Hierarchy { unified: Some(unified), ..below("/somewhere/else") };
        let shown = format!("/../../{name}");
        assert_eq!(hierarchy.anchored(&shown, Some(id)), Ok(Some(format!("/{name}"))));
        assert_eq!(hierarchy.anchored(&shown, Some(id + 1)), Ok(None));
        assert_eq!(hierarchy.anchored(&shown, None), Ok(None));
        assert_eq!(hierarchy.anchored(&format!("/{name}"), Some(id)), Ok(None));
        assert_eq!(hierarchy.charged(&shown), id, "root owns it");
    }

    #[test]
    fn without_a_known_anchor_no_path_is_proven() {
        let unknown = Hierarchy { anchor: Anchor::Unknown, unified: None, manager_root: String::new() };
        assert_eq!(unknown.anchored("/docker/x", Some(1)), Ok(None));
        assert!(!unknown.is_anchored());
    }
}
