//! The real kernel. Owns every look at `/proc`, at pidfds and at the file system that attestation takes; refuses to know
//! what a fact is worth.

mod cgroups;
mod files;
mod process;
pub mod reference;

use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

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
use crate::evidence::Undecided;

/// This machine, looked at once at start: `/proc`, PID 1's root and namespaces, the cgroup hierarchy.
#[derive(Debug)]
pub struct Linux {
    proc: Arc<OwnedFd>,
    root: OwnedFd,
    level: Level,
    reference: Reference,
    namespaces: Namespaces,
    cgroups: Hierarchy,
}

impl Linux {
    /// Looks at the machine and makes sure that what the daemon sees of other processes is the truth.
    ///
    /// # Errors
    /// [`UnsupportedHost`]: where it is not, or where this kernel gives less than `minimum`.
    pub fn open(minimum: Level) -> Result<Self, UnsupportedHost> {
        let proc = reference::proc_directory()?;
        let level = reference::level(minimum)?;
        let reference::Found { reference, namespaces, root } = reference::find(&proc)?;
        let cgroups = Hierarchy::open(&proc, &root, namespaces.shares_cgroups())?;
        Ok(Self { proc: Arc::new(proc), root, level, reference, namespaces, cgroups })
    }

    /// The process behind an accepted socket. Takes one descriptor, and keeps it for as long as the process is held.
    ///
    /// # Errors
    /// [`Unanswered::Gone`] when the process has exited already; [`Unanswered::Absent`] when, at [`Level::Reduced`], it is
    /// outside our PID namespace.
    pub fn peer(&self, socket: BorrowedFd<'_>) -> Result<LinuxProcess, Unanswered> {
        LinuxProcess::connected(self.proc.clone(), socket, self.level)
    }

    /// What callers are compared with.
    #[must_use]
    pub fn reference(&self) -> Reference {
        self.reference
    }

    /// Whether a caller's cgroup can be told for certain; without it there are no selectors for units and cgroups.
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
            // A disk that fails says nothing about the caller.
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
}

#[cfg(test)]
mod tests;
