//! The Linux kernel: all reads of `/proc`, pidfds and file systems for attestation. Does not decide which facts count.

mod cgroups;
mod files;
mod process;
pub mod reference;

use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;

use rustix::io::Errno;

pub use process::LinuxProcess;
pub use reference::Reference;
pub use reference::UnsupportedHost;

use crate::attestation::kernel::AtPath;
use crate::attestation::kernel::Host;
use crate::attestation::kernel::MayBlock;
use crate::attestation::kernel::Namespace;
use crate::attestation::kernel::Process;
use crate::attestation::kernel::Unanswered;
use crate::attestation::linux::cgroups::Hierarchy;
use crate::attestation::linux::reference::Namespaces;
use crate::evidence::Level;
use crate::evidence::SubordinateUids;
use crate::evidence::Undecided;

/// This machine, as checked once at start: `/proc`, PID 1's root and namespaces, the cgroup hierarchy.
#[derive(Debug)]
pub struct Linux {
    proc: Arc<OwnedFd>,
    root: OwnedFd,
    level: Level,
    reference: Reference,
    namespaces: Namespaces,
    cgroups: Hierarchy,
    subordinate_uids: RwLock<Arc<SubordinateUids>>,
}

impl Linux {
    /// Checks the machine: `/proc` must show the true state of other processes.
    ///
    /// # Errors
    /// [`UnsupportedHost`] where it may not, or where this kernel supports less than `minimum`.
    pub fn open(minimum: Level) -> Result<Self, UnsupportedHost> {
        let proc = reference::proc_directory()?;
        let level = reference::level(minimum)?;
        let reference::HostReference { reference, namespaces, root } = reference::find(&proc)?;
        let cgroups = Hierarchy::open(&proc, &root, namespaces.shares_cgroups())?;
        let subordinate_uids = RwLock::default();
        Ok(Self { proc: Arc::new(proc), root, level, reference, namespaces, cgroups, subordinate_uids })
    }

    /// The peer of an accepted socket. Keeps one descriptor open until the value is dropped.
    ///
    /// # Errors
    /// [`Unanswered::Gone`] when the process has exited; [`Unanswered::Absent`] when, at [`Level::Reduced`], it is
    /// outside the daemon's PID namespace.
    pub fn peer(&self, socket: BorrowedFd<'_>) -> Result<LinuxProcess, Unanswered> {
        LinuxProcess::connected(self.proc.clone(), socket, self.level)
    }

    /// Replaces whose the ranges of subordinate uids are, for processes that are pinned from now on.
    pub fn replace_subordinate_uids(&self, ranges: SubordinateUids) {
        *self.subordinate_uids.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ranges);
    }

    /// Whether callers are compared with PID 1 or with the daemon.
    #[must_use]
    pub fn reference(&self) -> Reference {
        self.reference
    }

    /// Whether the path of a caller's cgroup can be proven; otherwise units and cgroups are withheld.
    #[must_use]
    pub fn anchors_cgroups(&self) -> bool {
        self.cgroups.is_anchored()
    }
}

impl Host for Linux {
    fn level(&self) -> Level {
        self.level
    }

    fn numbered(&self, pid: u32) -> Result<Arc<dyn Process>, Unanswered> {
        Ok(Arc::new(LinuxProcess::numbered(self.proc.clone(), pid, self.level)?))
    }

    fn namespace(&self, namespace: Namespace) -> Option<u64> {
        Some(self.namespaces.of(namespace))
    }

    fn file_at(&self, path: &Path, may_block: MayBlock) -> Result<AtPath, Undecided> {
        let Ok(below) = path.strip_prefix("/") else { return Ok(AtPath::Nothing) };
        match files::resolve(&self.root, below, may_block) {
            Ok(file) => match files::identity(&file) {
                Ok(identity) => Ok(AtPath::File(identity)),
                Err(errno) => Err(Undecided::from_errno(errno.raw_os_error()).unwrap_or(Undecided::Kernel)),
            },
            Err(Errno::AGAIN) if may_block == MayBlock::No => Err(Undecided::TimedOut),
            Err(Errno::MFILE | Errno::NFILE) => Err(Undecided::OutOfDescriptors),
            Err(Errno::NOMEM) => Err(Undecided::OutOfMemory),
            // A failing disk is no fact about the caller.
            Err(Errno::NOSYS | Errno::IO | Errno::INTR | Errno::STALE | Errno::TIMEDOUT) => Err(Undecided::Kernel),
            Err(Errno::ACCESS) => Ok(AtPath::Closed),
            Err(_) => Ok(AtPath::Nothing),
        }
    }

    fn anchored_cgroup(&self, shown: &str, cgroup: Option<u64>) -> Result<Option<String>, Undecided> {
        self.cgroups.anchored(shown, cgroup)
    }

    fn manager_root(&self) -> &str {
        self.cgroups.manager_root()
    }

    fn charged_cgroup(&self, shown: &str) -> u64 {
        self.cgroups.charged(shown)
    }

    fn subordinate_uids(&self) -> Arc<SubordinateUids> {
        Arc::clone(&self.subordinate_uids.read().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests;
