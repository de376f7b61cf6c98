//! The traits through which attestation asks the kernel about a process. The module `linux` implements them
//! with system calls; tests implement them with a model of the kernel.

use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde::Serialize;

use crate::evidence::Credentials;
use crate::evidence::Level;
use crate::evidence::SubordinateUids;
use crate::evidence::Undecided;

/// Why the kernel did not answer a question about a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// The process has exited.
    #[error("the process has exited")]
    Gone,
    /// The process has no such thing: a kernel thread has no executable, a PID of 0 no process.
    #[error("the process has no such thing")]
    Absent,
    /// The check could not be completed.
    #[error(transparent)]
    Undecided(#[from] Undecided),
}

impl Unanswered {
    /// `Gone` for an error of the kernel that means the process has exited, else undecided.
    #[must_use]
    pub fn from_errno(errno: i32) -> Self {
        Undecided::from_errno(errno).map_or(Self::Gone, Self::Undecided)
    }
}

/// The real, effective, saved and file system ids of a process: all user ids, or all group ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ids {
    /// Real.
    pub real: u32,
    /// Effective.
    pub effective: u32,
    /// Saved.
    pub saved: u32,
    /// File system.
    pub fs: u32,
}

impl Ids {
    /// Whether all four ids are `id`.
    #[must_use]
    pub const fn all_are(&self, id: u32) -> bool {
        self.real == id && self.effective == id && self.saved == id && self.fs == id
    }
}

/// The facts that a pidfd reports for a live process (`PIDFD_GET_INFO`, Linux 6.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PidfdFacts {
    /// Process id in the daemon's PID namespace.
    pub pid: u32,
    /// User ids.
    pub uids: Ids,
    /// Group ids.
    pub gids: Ids,
    /// Inode of the process's cgroup in the v2 hierarchy.
    pub cgroup: u64,
}

/// A file below `/proc/PID`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProcFile {
    /// `status`
    Status,
    /// `stat`
    Stat,
    /// `cgroup`
    Cgroup,
}

/// A namespace link below `/proc/PID/ns`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Namespace {
    /// `user`
    User,
    /// `mnt`
    Mount,
    /// `pid`
    Pid,
    /// `cgroup`
    Cgroup,
}

/// The identity and metadata of a file (SPEC: statx(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Size in bytes.
    pub size: u64,
    /// Change time in nanoseconds since 1970.
    pub ctime: i128,
    /// Modification time in nanoseconds since 1970.
    pub mtime: i128,
    /// Number of hard links; 0 once deleted.
    pub links: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Mode bits.
    pub mode: u32,
}

impl FileIdentity {
    /// Whether both are the same file, with the same or changed metadata.
    #[must_use]
    pub const fn is_same_file(&self, other: &Self) -> bool {
        self.device == other.device && self.inode == other.inode
    }

    /// Major number of the device.
    #[must_use]
    pub const fn major(&self) -> u32 {
        libc::major(self.device)
    }
}

/// A process, held by a handle that never refers to another process, even if its PID is reused.
///
/// INVARIANT: between attestations an implementation keeps nothing open but the pidfd.
pub trait Process: Send + Sync + fmt::Debug {
    /// The credentials that the socket was connected with. For a process that was opened by PID, its effective ids at
    /// that time.
    fn peer(&self) -> Credentials;

    /// The level at which this process is pinned.
    fn level(&self) -> Level;

    /// Checks that the process is alive now.
    ///
    /// # Errors
    /// [`Unanswered::Gone`] once it has exited, even if it was not reaped.
    fn alive(&self) -> Result<(), Unanswered>;

    /// The facts of the pidfd; `None` below [`Level::Full`].
    ///
    /// # Errors
    /// [`Unanswered`]
    fn pidfd_facts(&self) -> Result<Option<PidfdFacts>, Unanswered>;

    /// Opens the process's directory in `/proc`, and then checks that the process is alive.
    ///
    /// SECURITY: a PID is reused only after the process has exited, so a directory that was opened before the check
    /// belongs to this process.
    ///
    /// # Errors
    /// [`Unanswered`]
    fn directory(&self) -> Result<Box<dyn ProcDirectory>, Unanswered>;

    /// Resolves when the process has exited. All callers share one registration of the pidfd.
    fn exited(&self) -> BoxFuture<'static, ()>;
}

/// An open `/proc/PID`. After the process has exited, every read fails; none returns data of another process.
pub trait ProcDirectory: Send + Sync {
    /// Reads a file: whole, or its first 64 KiB and one byte, so that a parser refuses it as too long.
    ///
    /// # Errors
    /// [`Unanswered`]
    fn read(&self, file: ProcFile) -> Result<Vec<u8>, Unanswered>;

    /// The inode of a namespace.
    ///
    /// # Errors
    /// [`Unanswered`]
    fn namespace(&self, namespace: Namespace) -> Result<u64, Unanswered>;

    /// The owner of the outermost user namespace that the process is in below `host`, the inode of the host's: the uid of
    /// whoever made it.
    ///
    /// # Errors
    /// [`Unanswered`]; also where the process is in no namespace below `host`.
    fn user_namespace_owner(&self, host: u64) -> Result<u32, Unanswered>;

    /// The identity and metadata of the running executable.
    ///
    /// # Errors
    /// [`Unanswered::Absent`] for a kernel thread or a zombie.
    fn executable(&self) -> Result<FileIdentity, Unanswered>;

    /// The text of the link to the running executable.
    ///
    /// # Errors
    /// As [`ProcDirectory::executable`].
    fn executable_link(&self) -> Result<PathBuf, Unanswered>;

    /// The `f_type` of the running executable's file system. May block on that file system.
    ///
    /// # Errors
    /// [`Unanswered`]
    fn executable_file_system(&self) -> Result<i64, Unanswered>;

    /// Opens the running executable for hashing. May block on its file system.
    ///
    /// # Errors
    /// [`Unanswered`]
    fn open_executable(&self) -> Result<Executable, Unanswered>;
}

/// The running executable, opened for reading.
#[derive(Debug)]
pub struct Executable {
    /// The file.
    pub file: std::fs::File,
    /// Its identity, read from the open file.
    pub identity: FileIdentity,
}

/// Whether a look-up may block on a file system, which may never answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MayBlock {
    /// Only from the caches of the kernel.
    No,
    /// Without limit: never call this on a thread that serves other callers.
    Yes,
}

/// The result of resolving a path from the root of PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtPath {
    /// This file.
    File(FileIdentity),
    /// There is no file, or the path leads through a symlink.
    Nothing,
    /// The daemon may not search a directory on the path.
    Closed,
}

/// The host that callers are compared with: the root and namespaces of PID 1, determined once at start.
pub trait Host: Send + Sync + fmt::Debug {
    /// The level that this kernel supports.
    fn level(&self) -> Level;

    /// Opens the process that has this PID now. Which process had it when the request was made is not known.
    ///
    /// # Errors
    /// [`Unanswered`]
    fn numbered(&self, pid: u32) -> Result<Arc<dyn Process>, Unanswered>;

    /// The inode of the host's namespace; `None` where it is unknown.
    fn namespace(&self, namespace: Namespace) -> Option<u64>;

    /// The file at `path`, resolved from PID 1's root without symlinks or magic links.
    ///
    /// # Errors
    /// [`Undecided`]; with [`MayBlock::No`] it is [`Undecided::TimedOut`] where the look-up would block.
    fn file_at(&self, path: &Path, may_block: MayBlock) -> Result<AtPath, Undecided>;

    /// The path from the root of the hierarchy for a path that `/proc/PID/cgroup` showed. `cgroup` is the caller's
    /// cgroup id, where the path is that of the unified hierarchy and the kernel reports an id. `None` where the path
    /// cannot be proven.
    ///
    /// # Errors
    /// [`Undecided`]
    fn anchored_cgroup(&self, shown: &str, cgroup: Option<u64>) -> Result<Option<String>, Undecided>;

    /// The path of the system manager's own root in the hierarchy, without a trailing `/`. It is empty where systemd
    /// runs at the root of the hierarchy.
    fn manager_root(&self) -> &str;

    /// The inode of the nearest ancestor of this v2 cgroup that root owns; 0 where it is unknown.
    fn charged_cgroup(&self, shown: &str) -> u64;

    /// Whose the ranges of subordinate uids are now.
    fn subordinate_uids(&self) -> Arc<SubordinateUids>;
}
