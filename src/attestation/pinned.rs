//! A pinned process: its handle never refers to another process, even if the PID is reused. Checks that it still runs
//! the same image with the same credentials.

use std::sync::Arc;

use aws_lc_rs::digest;

use crate::attestation::attested::CgroupMark;
use crate::attestation::attested::Contradiction;
use crate::attestation::attested::ImageEpoch;
use crate::attestation::attested::NotAttested;
use crate::attestation::host::cgroup::Cgroups;
use crate::attestation::host::stat::Stat;
use crate::attestation::host::status::Status;
use crate::attestation::kernel::FileIdentity;
use crate::attestation::kernel::Namespace;
use crate::attestation::kernel::PidfdFacts;
use crate::attestation::kernel::ProcDirectory;
use crate::attestation::kernel::ProcFile;
use crate::attestation::kernel::Process;
use crate::evidence::Credentials;
use crate::evidence::Principal;

/// The id of a pinned process, unique in this run of the daemon even if the PID is reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PinId(pub(in crate::attestation) u64);

/// A process, its image when it was pinned, and the principal that its limits are charged to.
#[derive(Debug, Clone)]
pub struct PinnedProcess {
    pub(in crate::attestation) process: Arc<dyn Process>,
    pub(in crate::attestation) id: PinId,
    pub(in crate::attestation) epoch: ImageEpoch,
    pub(in crate::attestation) principal: Principal,
}

impl PinnedProcess {
    /// The process.
    #[must_use]
    pub fn process(&self) -> &Arc<dyn Process> {
        &self.process
    }

    /// The id of this pinned process.
    #[must_use]
    pub fn id(&self) -> PinId {
        self.id
    }

    /// The principal that its limits are charged to.
    #[must_use]
    pub fn principal(&self) -> Principal {
        self.principal
    }

    /// The image when it was pinned.
    #[must_use]
    pub fn epoch(&self) -> ImageEpoch {
        self.epoch
    }

    /// Checks that the process still runs the image of a decision, with the same credentials and in the same cgroup.
    /// Called before every message with a secret; takes about 10 µs.
    ///
    /// # Errors
    /// [`NotAttested`] when the process has exited, any of these has changed, or the check could not be completed.
    pub fn unchanged(&self, decided: ImageEpoch) -> Result<(), NotAttested> {
        let process = &*self.process;
        let directory = process.directory()?;
        let pidfd = pidfd_facts(process)?;
        if pidfd.is_none() {
            let status = Status::parse(&directory.read(ProcFile::Status)?).map_err(|_| Contradiction::Malformed)?;
            agree(process.peer(), &status)?;
        }
        let mark = match (decided.cgroup, pidfd) {
            (CgroupMark::Unified(_), Some(pidfd)) => CgroupMark::Unified(pidfd.cgroup),
            _ => CgroupMark::Lines(sha256(&directory.read(ProcFile::Cgroup)?)),
        };
        let (now, _) = image(&*directory, mark)?;
        process.alive()?;
        self.same_image(&now)?;
        if !now.is_same_image(&decided) {
            return Err(Contradiction::ImageChanged.into());
        }
        if mark == decided.cgroup { Ok(()) } else { Err(Contradiction::Moved.into()) }
    }

    /// Checks the sender that the kernel reports for a message on the connection.
    ///
    /// # Errors
    /// [`Contradiction::ForeignWriter`] when another process wrote it.
    pub fn check_writer(&self, writer: Credentials) -> Result<(), NotAttested> {
        if writer == self.process.peer() { Ok(()) } else { Err(Contradiction::ForeignWriter.into()) }
    }

    /// Checks that this is the image of the pinned process.
    pub(in crate::attestation) fn same_image(&self, now: &ImageEpoch) -> Result<(), Contradiction> {
        if now.is_same_image(&self.epoch) { Ok(()) } else { Err(Contradiction::ImageChanged) }
    }
}

/// The facts of the pidfd, which must agree with the peer credentials of the socket.
pub(in crate::attestation) fn pidfd_facts(process: &dyn Process) -> Result<Option<PidfdFacts>, NotAttested> {
    let Some(facts) = process.pidfd_facts()? else { return Ok(None) };
    let peer = process.peer();
    if facts.pid != peer.pid {
        return Err(Contradiction::ProcessGone.into());
    }
    if facts.uids.all_are(peer.uid) && facts.gids.all_are(peer.gid) {
        Ok(Some(facts))
    } else {
        Err(Contradiction::CredentialsDisagree.into())
    }
}

/// Checks that `status`, which reports the first thread, agrees with the peer credentials, which are those of the
/// thread that connected.
pub(in crate::attestation) fn agree(peer: Credentials, status: &Status) -> Result<(), Contradiction> {
    if status.pid != peer.pid {
        return Err(Contradiction::Malformed);
    }
    if status.uids.all_are(peer.uid) && status.gids.all_are(peer.gid) {
        Ok(())
    } else {
        Err(Contradiction::CredentialsDisagree)
    }
}

/// The image that runs now, and its file.
///
/// RACE: an `exec` between the reads of `stat` and `exe` combines the old addresses with the new file. The result
/// equals neither image, so the process is refused.
pub(in crate::attestation) fn image(
    directory: &dyn ProcDirectory,
    cgroup: CgroupMark,
) -> Result<(ImageEpoch, FileIdentity), NotAttested> {
    let stat = Stat::parse(&directory.read(ProcFile::Stat)?).map_err(|_| Contradiction::Malformed)?;
    if stat.is_dead() {
        return Err(Contradiction::ProcessGone.into());
    }
    let executable = directory.executable()?;
    if stat.layout.stack == 0 {
        return Err(Contradiction::ProcessGone.into());
    }
    let of = |namespace| directory.namespace(namespace);
    let epoch = ImageEpoch {
        device: executable.device,
        inode: executable.inode,
        layout: stat.layout,
        namespaces: [of(Namespace::User)?, of(Namespace::Mount)?, of(Namespace::Pid)?],
        cgroup,
    };
    Ok((epoch, executable))
}

/// The id of the cgroup where the kernel reports it for the deciding path, else a digest of all lines.
pub(in crate::attestation) fn cgroup_mark(
    pidfd: Option<&PidfdFacts>,
    cgroups: &Cgroups<'_>,
    text: &[u8],
) -> CgroupMark {
    match (cgroups.deciding(), pidfd) {
        (Some((_, true)), Some(pidfd)) => CgroupMark::Unified(pidfd.cgroup),
        _ => CgroupMark::Lines(sha256(text)),
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    digest
}

#[cfg(test)]
impl PinnedProcess {
    /// A process of this principal that answers no question.
    pub(in crate::attestation) fn example(principal: Principal) -> Self {
        use std::sync::atomic::AtomicU64;
        use std::sync::atomic::Ordering;

        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = PinId(NEXT.fetch_add(1, Ordering::Relaxed));
        let peer = Credentials { pid: 4121, uid: principal.uid, gid: principal.uid };
        let epoch = crate::attestation::Attested::example(crate::evidence::Level::Full, Default::default()).epoch();
        Self { process: Arc::new(tests::SilentProcess(peer)), id, epoch, principal }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::attestation::kernel::Unanswered;
    use crate::evidence::Level;

    /// A process that answers no question.
    #[derive(Debug)]
    pub(super) struct SilentProcess(pub(super) Credentials);

    impl Process for SilentProcess {
        fn peer(&self) -> Credentials {
            self.0
        }

        fn level(&self) -> Level {
            Level::Full
        }

        fn alive(&self) -> Result<(), Unanswered> {
            Err(Unanswered::Absent)
        }

        fn pidfd_facts(&self) -> Result<Option<PidfdFacts>, Unanswered> {
            Err(Unanswered::Absent)
        }

        fn directory(&self) -> Result<Box<dyn ProcDirectory>, Unanswered> {
            Err(Unanswered::Absent)
        }

        fn exited(&self) -> BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }
    }
}
