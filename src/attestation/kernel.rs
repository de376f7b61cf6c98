//! The kernel as attestation sees it: a handful of questions about one pinned process. `Linux` asks the real one; a test
//! asks a model of one.

use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde::Serialize;

use crate::evidence::Credentials;
use crate::evidence::Level;
use crate::evidence::Undecided;

/// Why a question about a process has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// The process has exited; there is nothing to know any more. A completed "no".
    #[error("the process has gone")]
    Gone,
    /// This process never has such a thing (no executable, no cgroup line). A completed "no".
    #[error("the process has no such thing")]
    Absent,
    /// The question could not be put.
    #[error(transparent)]
    Undecided(#[from] Undecided),
}

impl Unanswered {
    /// Sorts an error of the kernel: about the process, or a cause on our side.
    #[must_use]
    pub fn from_errno(errno: i32) -> Self {
        Undecided::from_errno(errno).map_or(Self::Gone, Self::Undecided)
    }
}

/// Real, effective, saved and file-system ids of one kind.
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
    /// Whether all four are `id`.
    #[must_use]
    pub const fn all_are(&self, id: u32) -> bool {
        self.real == id && self.effective == id && self.saved == id && self.fs == id
    }
}

/// What the pidfd itself says of a live process (`PIDFD_GET_INFO`, Linux 6.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PidfdFacts {
    /// Process id in our PID namespace.
    pub pid: u32,
    /// User ids.
    pub uids: Ids,
    /// Group ids.
    pub gids: Ids,
    /// Inode of the process's cgroup in the v2 hierarchy.
    pub cgroup: u64,
}

/// A file below `/proc/PID`, read whole through the one directory handle.
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

/// Which file an executable is, and what it looked like when it was asked for.
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
    /// Names this file has; 0 once deleted.
    pub links: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Mode bits.
    pub mode: u32,
}

impl FileIdentity {
    /// Whether both are one file, whatever it looked like at either time.
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

/// One process, held by a handle that never comes to mean another.
///
/// INVARIANT: between attestations an implementation keeps nothing open but the pidfd.
pub trait Process: Send + Sync + fmt::Debug {
    /// The credentials that the socket was connected with.
    fn peer(&self) -> Credentials;

    /// How this process is pinned.
    fn level(&self) -> Level;

    /// Proves that the process is alive at this moment.
    ///
    /// # Errors
    /// [`Unanswered::Gone`] once it has exited, reaped or not.
    fn alive(&self) -> Result<(), Unanswered>;

    /// What the pidfd says; `None` below [`Level::Full`].
    ///
    /// # Errors
    /// [`Unanswered`]
    fn pidfd_facts(&self) -> Result<Option<PidfdFacts>, Unanswered>;

    /// Opens the process's directory in `/proc`, and proves then that the process is alive: so the directory is its own.
    ///
    /// # Errors
    /// [`Unanswered`]
    fn directory(&self) -> Result<Box<dyn ProcDirectory>, Unanswered>;

    /// Resolves when the process has exited. One wait per process, however many streams it has.
    fn exited(&self) -> BoxFuture<'static, ()>;
}

/// An open `/proc/PID`: after the process's death every read fails, and never meets another process.
pub trait ProcDirectory: Send + Sync {
    /// Reads a file, whole or its first 64 KiB and one byte more, by which a reader knows that it is too long.
    ///
    /// # Errors
    /// [`Unanswered`]
    fn read(&self, file: ProcFile) -> Result<Vec<u8>, Unanswered>;

    /// The inode of a namespace.
    ///
    /// # Errors
    /// [`Unanswered`]
    fn namespace(&self, namespace: Namespace) -> Result<u64, Unanswered>;

    /// The running executable.
    ///
    /// # Errors
    /// [`Unanswered::Absent`] for a kernel thread or a zombie.
    fn executable(&self) -> Result<FileIdentity, Unanswered>;

    /// The text of the link to the running executable.
    ///
    /// # Errors
    /// As [`ProcDirectory::executable`].
    fn executable_link(&self) -> Result<PathBuf, Unanswered>;

    /// The `f_type` of the running executable's file system. May wait for that file system.
    ///
    /// # Errors
    /// [`Unanswered`]
    fn executable_file_system(&self) -> Result<i64, Unanswered>;

    /// Opens the running executable itself for hashing. May wait for its file system.
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
    /// Its identity, asked of the open file.
    pub identity: FileIdentity,
}

/// Whether a look-up may wait for a file system, which may never answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MayBlock {
    /// Only what the kernel has at hand.
    No,
    /// As long as it takes: never on a thread that serves others.
    Yes,
}

/// What PID 1 sees at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtPath {
    /// This file.
    File(FileIdentity),
    /// No file, or a symlink on the way.
    Nothing,
    /// The daemon may not search a directory on the way.
    Closed,
}

/// The host that callers are compared with: PID 1's view, found once at start.
pub trait Host: Send + Sync + fmt::Debug {
    /// The level this kernel gives.
    fn level(&self) -> Level;

    /// The process that has this number now, for somebody who asks about another process.
    ///
    /// # Errors
    /// [`Unanswered`]
    fn numbered(&self, pid: u32) -> Result<Arc<dyn Process>, Unanswered>;

    /// The inode of the reference namespace; `None` where the kernel does not say.
    fn namespace(&self, namespace: Namespace) -> Option<u64>;

    /// What is at `path`, resolved from PID 1's root without symlinks or magic links.
    ///
    /// # Errors
    /// [`Undecided`]; with [`MayBlock::No`] [`Undecided::TimedOut`] when it would have to wait.
    fn file_at(&self, path: &Path, may_block: MayBlock) -> Result<AtPath, Undecided>;

    /// The absolute path from the root of the hierarchy for a path that `/proc/PID/cgroup` showed us. `cgroup` is the
    /// caller's cgroup id, where the path is that of the unified hierarchy and the kernel says. `None` where the path cannot
    /// be proven.
    ///
    /// # Errors
    /// [`Undecided`]
    fn anchored_cgroup(&self, shown: &str, cgroup: Option<u64>) -> Result<Option<String>, Undecided>;

    /// The path of the system manager's own root in the hierarchy, without a trailing `/`: empty on an ordinary machine.
    fn manager_root(&self) -> &str;

    /// The inode of the nearest ancestor of this v2 cgroup that root owns; 0 where it is not known.
    fn charged_cgroup(&self, shown: &str) -> u64;
}
