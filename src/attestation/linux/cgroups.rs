//! The cgroup hierarchy: where it is mounted, where the system manager's part of it begins, and who is charged.

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

/// `f_type` of the unified hierarchy.
const CGROUP2: i64 = 0x6367_7270;

/// How deep below the root an owner is looked for. Deeper groups are charged to the one at this depth.
const MAX_DEPTH: usize = 16;

/// The inode of the unified hierarchy's root.
const ROOT_INODE: u64 = 1;

/// How many groups are looked at to find our own.
const MAX_GROUPS: usize = 65_536;

/// What is known of the hierarchy.
#[derive(Debug)]
pub(super) struct Hierarchy {
    anchor: Anchor,
    /// Its mount, where there is one.
    unified: Option<OwnedFd>,
    manager_root: String,
}

/// Where the paths begin that `/proc/PID/cgroup` shows us.
#[derive(Debug, PartialEq, Eq)]
enum Anchor {
    /// At the root of the hierarchy.
    Root,
    /// At this group, because we are in a cgroup namespace of our own.
    Below(String),
    /// Somewhere.
    Unknown,
}

impl Hierarchy {
    /// Looks for the unified hierarchy where systemd mounts it, alone or beside the older ones. `shares_cgroups` tells
    /// whether we are in the cgroup namespace of PID 1.
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
        // SPEC: systemd puts itself into `init.scope` below its own root, which a machine in a machine has elsewhere.
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

    /// SECURITY: from a cgroup namespace of our own a group below ourselves looks like `/docker/<id>`. So a path counts only
    /// if the directory that it leads to from the root has the very id that the kernel gives for the caller.
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

    /// Goes from the root of the hierarchy to where paths begin, and on as `shown` says.
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

    /// Goes down from the root for as long as directories belong to root.
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

/// The path from the root of the hierarchy to the root of our own cgroup namespace: our own group, found by its id below
/// the mount, without what we see of it. `None` where the mount does not begin at the root, or the kernel does not say.
fn own_anchor(proc: &OwnedFd, unified: &OwnedFd) -> Option<String> {
    let begins_at_root = files::identity(unified).ok()?.inode == ROOT_INODE;
    let own = begins_at_root.then(|| cgroup_of(getpid()))??;
    let path = path_of(unified, own)?;
    let text = read(&open_directory(proc, getpid().as_raw_pid().unsigned_abs()).ok()?, "cgroup").ok()?;
    let lines = Cgroups::parse(&text).ok()?;
    let shown = lines.unified()?.trim_end_matches('/');
    path.strip_suffix(shown).map(str::to_owned)
}

/// The id of a process's group, from Linux 6.13.
fn cgroup_of(pid: Pid) -> Option<u64> {
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    sys::pidfd::info(pidfd.as_fd()).ok().map(|info| info.cgroup)
}

/// Looks through the hierarchy for the group with this id.
fn path_of(unified: &OwnedFd, id: u64) -> Option<String> {
    let mut ahead = vec![String::new()];
    let mut seen = 0;
    while let Some(path) = ahead.pop() {
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
            ahead.extend(below.map(|name| format!("{path}/{name}")));
        }
        seen += 1;
        if seen > MAX_GROUPS {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A group of the unified hierarchy that goes away again.
    struct Group(std::path::PathBuf);

    impl Drop for Group {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir(&self.0);
        }
    }

    fn below(start: &str) -> Hierarchy {
        Hierarchy { anchor: Anchor::Below(start.to_owned()), unified: None, manager_root: String::new() }
    }

    #[test]
    fn a_path_from_our_own_namespace_is_followed_from_the_root() {
        let hierarchy = below("/kubepods/pod1/agent");
        let absolute = |shown| hierarchy.absolute(shown);
        assert_eq!(absolute("/"), Some("/kubepods/pod1/agent".to_owned()));
        assert_eq!(absolute("/docker/x"), Some("/kubepods/pod1/agent/docker/x".to_owned()));
        assert_eq!(absolute("/../../pod2/web"), Some("/kubepods/pod2/web".to_owned()));
        assert_eq!(absolute("/../../../system.slice/a.service"), Some("/system.slice/a.service".to_owned()));
        assert_eq!(absolute("/../../../.."), None);
    }

    #[test]
    fn a_path_is_proven_by_the_id_of_its_directory_and_by_nothing_else() {
        const TEST: &str = "a_path_is_proven_by_the_id_of_its_directory_and_by_nothing_else";
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
        let group = Group(mount.join(&name));
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
    fn where_paths_begin_is_unknown_nothing_is_anchored() {
        let unknown = Hierarchy { anchor: Anchor::Unknown, unified: None, manager_root: String::new() };
        assert_eq!(unknown.anchored("/docker/x", Some(1)), Ok(None));
        assert!(!unknown.is_anchored());
    }
}
