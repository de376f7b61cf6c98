//! A pinned process: its handle never refers to another process, even if the PID is reused. Checks that it still runs
//! the same image with the same credentials.

use std::sync::Arc;

use aws_lc_rs::digest;

use crate::attestation::attested::CgroupMark;
use crate::attestation::attested::Contradiction;
use crate::attestation::attested::Epoch;
use crate::attestation::attested::Image;
use crate::attestation::attested::NotAttested;
use crate::attestation::executable::proven::ProvenExecutable;
use crate::attestation::host::cgroup::Cgroups;
use crate::attestation::host::stat::MemoryLayout;
use crate::attestation::host::stat::Stat;
use crate::attestation::host::status::Status;
use crate::attestation::kernel::FileIdentity;
use crate::attestation::kernel::Namespace;
use crate::attestation::kernel::PidfdFacts;
use crate::attestation::kernel::ProcDirectory;
use crate::attestation::kernel::ProcFile;
use crate::attestation::kernel::Process;
use crate::evidence::Credentials;
use crate::evidence::EpochPart;
use crate::evidence::EpochParts;
use crate::evidence::Principal;

/// The id of a pinned process, unique in this run of the daemon even if the PID is reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PinId(pub(in crate::attestation) u64);

/// A process, its image when it was pinned, and the principal that its limits are charged to.
#[derive(Debug, Clone)]
pub struct PinnedProcess {
    pub(in crate::attestation) process: Arc<dyn Process>,
    pub(in crate::attestation) id: PinId,
    pub(in crate::attestation) image: Image,
    pub(in crate::attestation) principal: Principal,
    /// The cgroup path that decided at the accept, for the record of a refusal; empty where none did.
    pub(in crate::attestation) cgroup: Arc<str>,
    /// What was proven of the file of this image: of no other, and for all its connections.
    pub(in crate::attestation) proven: Arc<ProvenExecutable>,
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

    /// Checks what a decision rests on: the image, the user and group ids, the cgroup, and those other parts of `decided`
    /// that are among `rests_on`. Called before every message with a secret; takes about 10 µs.
    ///
    /// # Errors
    /// [`NotAttested`] when the process has exited, any of these has changed, or the check could not be completed.
    pub fn unchanged(&self, decided: &Epoch, rests_on: EpochParts) -> Result<(), NotAttested> {
        let process = &*self.process;
        let directory = process.directory()?;
        let pidfd = pidfd_facts(process)?;
        let mut groups = None;
        if pidfd.is_none() || rests_on.contains(EpochPart::Groups) {
            let status = Status::parse(&directory.read(ProcFile::Status)?).map_err(|_| Contradiction::Malformed)?;
            agree(process.peer(), &status)?;
            groups = rests_on.contains(EpochPart::Groups).then(|| groups_mark(&status.groups));
        }
        let cgroup = match (decided.cgroup, pidfd) {
            (CgroupMark::Unified(_), Some(pidfd)) => CgroupMark::Unified(pidfd.cgroup),
            _ => CgroupMark::Lines(sha256(&directory.read(ProcFile::Cgroup)?)),
        };
        let namespaces = match rests_on.contains(EpochPart::Namespaces) {
            true => Some(namespaces(&*directory)?),
            false => None,
        };
        self.runs_still(&*directory)?;
        if decided.image != self.image {
            return Err(Contradiction::ImageChanged.into());
        }
        if cgroup != decided.cgroup {
            return Err(Contradiction::Moved.into());
        }
        if namespaces.is_some_and(|namespaces| namespaces != decided.namespaces) {
            return Err(Contradiction::NamespaceChanged.into());
        }
        if groups.is_some_and(|groups| groups != decided.groups) {
            return Err(Contradiction::GroupsChanged.into());
        }
        Ok(())
    }

    /// Checks that the process still runs the image that was pinned, with the same user and group ids.
    ///
    /// # Errors
    /// As [`unchanged`](Self::unchanged).
    pub fn is_same_image(&self) -> Result<(), NotAttested> {
        let directory = self.process.directory()?;
        if pidfd_facts(&*self.process)?.is_none() {
            let status = Status::parse(&directory.read(ProcFile::Status)?).map_err(|_| Contradiction::Malformed)?;
            agree(self.process.peer(), &status)?;
        }
        self.runs_still(&*directory)
    }

    /// Whether `later` is this image, pinned again for another connection of the same user.
    ///
    /// Two live processes never have one PID: the process of this handle has it during this check, and that of the other
    /// handle before and after. The addresses tell one `exec` of a file from the next, unless the process has switched their
    /// randomness off for itself: then it has the same evidence as before, and the same key.
    #[must_use]
    pub fn is_pinned_again(&self, later: &Self) -> bool {
        let same = self.process.peer() == later.process.peer() && self.image == later.image;
        same && self.process.alive().is_ok() && later.process.alive().is_ok()
    }

    /// Checks the sender that the kernel reports for a message on the connection.
    ///
    /// # Errors
    /// [`Contradiction::ForeignWriter`] when another process wrote it.
    pub fn check_writer(&self, writer: Credentials) -> Result<(), NotAttested> {
        if writer == self.process.peer() { Ok(()) } else { Err(Contradiction::ForeignWriter.into()) }
    }

    /// Checks that the process is alive and runs the pinned image.
    pub(in crate::attestation) fn runs_still(&self, directory: &dyn ProcDirectory) -> Result<(), NotAttested> {
        let (now, _) = image(directory)?;
        self.process.alive()?;
        if now == self.image { Ok(()) } else { Err(Contradiction::ImageChanged.into()) }
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
pub(in crate::attestation) fn image(directory: &dyn ProcDirectory) -> Result<(Image, FileIdentity), NotAttested> {
    let layout = layout(directory)?;
    let executable = directory.executable()?;
    Ok((Image { device: executable.device, inode: executable.inode, layout }, executable))
}

/// The addresses of a program that runs.
fn layout(directory: &dyn ProcDirectory) -> Result<MemoryLayout, NotAttested> {
    let stat = Stat::parse(&directory.read(ProcFile::Stat)?).map_err(|_| Contradiction::Malformed)?;
    if stat.is_dead() || stat.layout.stack == 0 {
        return Err(Contradiction::ProcessGone.into());
    }
    Ok(stat.layout)
}

/// Inodes of the user, mount, PID and cgroup namespaces.
pub(in crate::attestation) fn namespaces(directory: &dyn ProcDirectory) -> Result<[u64; 4], NotAttested> {
    let of = |namespace| directory.namespace(namespace);
    Ok([of(Namespace::User)?, of(Namespace::Mount)?, of(Namespace::Pid)?, of(Namespace::Cgroup)?])
}

/// A digest of supplementary groups.
pub(in crate::attestation) fn groups_mark(groups: &[u32]) -> [u8; 32] {
    sha256(&groups.iter().flat_map(|gid| gid.to_le_bytes()).collect::<Vec<_>>())
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
    pub(crate) fn example(principal: Principal) -> Self {
        use std::sync::atomic::AtomicU64;
        use std::sync::atomic::Ordering;

        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = PinId(NEXT.fetch_add(1, Ordering::Relaxed));
        let peer = Credentials { pid: 4121, uid: principal.uid, gid: principal.uid };
        let example = crate::attestation::Attested::example(crate::evidence::Level::Full, Default::default());
        let (process, image) = (Arc::new(tests::SilentProcess(peer)), example.epoch().image);
        Self { process, id, image, principal, cgroup: "".into(), proven: Arc::default() }
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
