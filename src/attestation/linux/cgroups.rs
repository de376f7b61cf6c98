//! The cgroup hierarchy: where it is mounted, where the system manager's part of it begins, and who is charged.

use std::os::fd::OwnedFd;

use rustix::fs::AtFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;

use crate::attestation::host::cgroup::Cgroups;
use crate::attestation::linux::Unfit;
use crate::attestation::linux::files;
use crate::attestation::linux::read;
use crate::attestation::linux::reference::first_process;
use crate::evidence::Undecided;

/// `f_type` of the unified hierarchy.
const CGROUP2: i64 = 0x6367_7270;

/// How deep below the root an owner is looked for. Deeper groups are charged to the one at this depth.
const MAX_DEPTH: usize = 16;

/// What is known of the hierarchy.
#[derive(Debug)]
pub(super) struct Hierarchy {
    /// Whether a path that `/proc/PID/cgroup` shows us begins at the root of the hierarchy.
    anchored: bool,
    /// Its mount, where there is one.
    unified: Option<OwnedFd>,
    manager_root: String,
}

impl Hierarchy {
    /// Looks for the unified hierarchy where systemd mounts it, alone or beside the older ones.
    pub(super) fn open(proc: &OwnedFd, root: &OwnedFd, anchored: bool) -> Result<Self, Unfit> {
        let unified = ["sys/fs/cgroup", "sys/fs/cgroup/unified"].into_iter().find_map(|path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let mount = rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
            (rustix::fs::fstatfs(&mount).ok()?.f_type == CGROUP2).then_some(mount)
        });
        let first = read(&first_process(proc)?, "cgroup").map_err(Unfit::kernel("reading /proc/1/cgroup"))?;
        // SPEC: systemd puts itself into `init.scope` below its own root, which a machine in a machine has elsewhere.
        let deciding = Cgroups::parse(&first).ok().and_then(|lines| lines.deciding().map(|(path, _)| path.to_owned()));
        let manager_root = deciding.and_then(|path| path.strip_suffix("/init.scope").map(str::to_owned));
        Ok(Self { anchored, unified, manager_root: manager_root.unwrap_or_default() })
    }

    pub(super) fn is_anchored(&self) -> bool {
        self.anchored
    }

    pub(super) fn manager_root(&self) -> &str {
        &self.manager_root
    }

    #[allow(clippy::unnecessary_wraps, reason = "a look at the file system can fail for a cause on our side")]
    pub(super) fn anchored(&self, shown: &str, _cgroup: Option<u64>) -> Result<Option<String>, Undecided> {
        Ok(self.anchored.then(|| shown.to_owned()))
    }

    /// Goes down from the root for as long as directories belong to root.
    pub(super) fn charged(&self, shown: &str) -> u64 {
        let Some(unified) = &self.unified else { return 0 };
        let Ok(root) = files::identity(unified) else { return 0 };
        let mut charged = root.inode;
        let ends = shown.match_indices('/').map(|(at, _)| at).skip(1).chain([shown.len()]);
        for end in ends.take(MAX_DEPTH) {
            let Some(below) = shown.get(1..end).filter(|below| !below.is_empty()) else { break };
            match files::identity_at(unified, below, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(group) if group.uid == 0 => charged = group.inode,
                _ => break,
            }
        }
        charged
    }
}
