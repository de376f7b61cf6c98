//! The entrance: from a pinned process to [`Attested`]. Everything of one attestation is read through one directory handle,
//! and the image that was there at the accept must be there after the last fact.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest;

use crate::attestation::attested::Attested;
use crate::attestation::attested::CgroupMark;
use crate::attestation::attested::Contradiction;
use crate::attestation::attested::ImageEpoch;
use crate::attestation::attested::NotAttested;
use crate::attestation::hashing::Hashing;
use crate::attestation::host::cgroup::Cgroups;
use crate::attestation::host::facts;
use crate::attestation::host::facts::CgroupPosition;
use crate::attestation::host::facts::HostNamespaces;
use crate::attestation::host::facts::Observed;
use crate::attestation::host::stat::Stat;
use crate::attestation::host::status::Status;
use crate::attestation::kernel::FileIdentity;
use crate::attestation::kernel::Host;
use crate::attestation::kernel::MayBlock;
use crate::attestation::kernel::Namespace;
use crate::attestation::kernel::PidfdFacts;
use crate::attestation::kernel::ProcDirectory;
use crate::attestation::kernel::ProcFile;
use crate::attestation::kernel::Process;
use crate::evidence::Accounts;
use crate::evidence::Credentials;
use crate::evidence::EvidenceSet;
use crate::evidence::Grade;
use crate::evidence::Principal;
use crate::evidence::SelectorKind;
use crate::evidence::Source;
use crate::evidence::Undecided;
use crate::evidence::Wants;
use crate::evidence::WithheldBecause;

/// Attests processes of one host.
#[derive(Debug)]
pub struct Attestor {
    host: Arc<dyn Host>,
    hashing: Hashing,
}

/// A process, the image that it had when its connection was accepted, and whom its limits are charged to.
#[derive(Debug, Clone)]
pub struct PinnedProcess {
    process: Arc<dyn Process>,
    epoch: ImageEpoch,
    principal: Principal,
}

/// Which facts of an attestation cost more than the others.
type Wanted<'a> = &'a (dyn Fn(&EvidenceSet) -> Wants + Sync);

impl Attestor {
    /// Compares callers with `host`.
    #[must_use]
    pub fn new(host: Arc<dyn Host>) -> Self {
        Self { host, hashing: Hashing::default() }
    }

    /// What callers are compared with.
    #[must_use]
    pub fn host(&self) -> &dyn Host {
        &*self.host
    }

    /// Pins the process behind a connection that was just accepted.
    ///
    /// The image at the moment of `connect(2)` cannot be known: the kernel queues the connection, and the process may have
    /// become another program before it was accepted.
    ///
    /// # Errors
    /// [`NotAttested`]: the connection is closed without a byte.
    pub fn by_peer(&self, process: Arc<dyn Process>) -> Result<PinnedProcess, NotAttested> {
        let peer = process.peer();
        if peer.pid == 0 {
            return Err(Contradiction::OutsidePidNamespace.into());
        }
        let directory = process.directory()?;
        let pidfd = pidfd_facts(&*process)?;
        let text = directory.read(ProcFile::Cgroup)?;
        let cgroups = Cgroups::parse(&text).map_err(|_| Contradiction::Malformed)?;
        let (epoch, _) = image(&*directory, cgroup_mark(pidfd.as_ref(), &cgroups, &text))?;
        process.alive()?;
        let cgroup = cgroups.unified().map_or(0, |shown| self.host.charged_cgroup(shown));
        Ok(PinnedProcess { process, epoch, principal: Principal { uid: peer.uid, cgroup } })
    }

    /// Pins the process that has this number now, for somebody who asks about another process.
    ///
    /// # Errors
    /// [`NotAttested`]: there is no such process, or it cannot be pinned.
    pub fn by_reference(&self, pid: u32) -> Result<PinnedProcess, NotAttested> {
        self.by_peer(self.host.numbered(pid)?)
    }

    /// Collects what is known of a process. `wants` is asked which of the costly facts an entry could use beside the others,
    /// first with the cheap ones, then with the path; `accounts` are the names that entries use; `now` is written into the
    /// proof.
    ///
    /// Asynchronous only for the costly facts.
    ///
    /// # Errors
    /// [`NotAttested`]
    pub async fn attest(
        &self,
        pinned: &PinnedProcess,
        wants: Wanted<'_>,
        accounts: &Accounts,
        now: SystemTime,
    ) -> Result<Attested, NotAttested> {
        let process = &*pinned.process;
        let directory: Arc<dyn ProcDirectory> = process.directory()?.into();
        let before = pidfd_facts(process)?;
        let status = Status::parse(&directory.read(ProcFile::Status)?).map_err(|_| Contradiction::Malformed)?;
        agree(process.peer(), &status)?;
        let text = directory.read(ProcFile::Cgroup)?;
        let cgroups = Cgroups::parse(&text).map_err(|_| Contradiction::Malformed)?;
        let place = self.place(&cgroups, before.as_ref())?;
        let (epoch, executable) = image(&*directory, cgroup_mark(before.as_ref(), &cgroups, &text))?;
        pinned.same_image(&epoch)?;
        let namespaces = self.namespaces(&*directory, &epoch)?;
        let seen = Observed { peer: process.peer(), groups: &status.groups, namespaces, place: &place };
        let mut evidence = facts::facts(&seen, accounts);
        let elsewhere = facts::not_on_the_host(&seen);
        let wanted = |evidence: &_| if elsewhere.is_some() { Wants::NOTHING } else { wants(evidence) };
        let not_looked_for = elsewhere.unwrap_or(WithheldBecause::NotWanted);
        if wanted(&evidence).path {
            self.path(&mut evidence, pinned.principal, &executable, directory.executable_link()?).await?;
        } else {
            evidence.withhold(SelectorKind::UnixPath, None, not_looked_for);
        }
        // By now the path is known, and most of the entries that want a hash beside another path want none.
        if wanted(&evidence).sha256 {
            self.sha256(&mut evidence, pinned.principal, &executable, directory.clone()).await?;
            // Time has passed: is the image that was hashed still the one that runs?
            pinned.same_image(&image(&*directory, epoch.cgroup)?.0)?;
        } else {
            evidence.withhold(SelectorKind::UnixSha256, None, not_looked_for);
        }
        process.alive()?;
        if pidfd_facts(process)? != before {
            return Err(Contradiction::CgroupsDisagree.into());
        }
        Ok(Attested { peer: process.peer(), level: process.level(), epoch, evidence, at: now })
    }

    fn place(&self, cgroups: &Cgroups<'_>, pidfd: Option<&PidfdFacts>) -> Result<CgroupPosition, NotAttested> {
        let Some((shown, unified)) = cgroups.deciding() else { return Ok(CgroupPosition::NotAnchored { shown: None }) };
        let id = pidfd.filter(|_| unified).map(|pidfd| pidfd.cgroup);
        let Some(path) = self.host.anchored_cgroup(shown, id)? else {
            return Ok(CgroupPosition::NotAnchored { shown: Some(shown.to_owned()) });
        };
        let group = cgroups.group(&path, self.host.manager_root()).map_err(|_| Contradiction::CgroupsDisagree)?;
        Ok(CgroupPosition::Anchored { path, group })
    }

    fn namespaces(&self, directory: &dyn ProcDirectory, epoch: &ImageEpoch) -> Result<HostNamespaces, NotAttested> {
        let [user, _, pid] = epoch.namespaces;
        let is_host = |namespace, inode| self.host.namespace(namespace) == Some(inode);
        let cgroup = directory.namespace(Namespace::Cgroup)?;
        Ok(HostNamespaces {
            user: is_host(Namespace::User, user),
            pid: is_host(Namespace::Pid, pid),
            cgroup: is_host(Namespace::Cgroup, cgroup),
        })
    }

    async fn path(
        &self,
        evidence: &mut EvidenceSet,
        caller: Principal,
        running: &FileIdentity,
        link: PathBuf,
    ) -> Result<(), Undecided> {
        let at_path = match self.host.file_at(&link, MayBlock::No) {
            Err(Undecided::TimedOut) => {
                let (host, link) = (self.host.clone(), link.clone());
                self.hashing.look_up(caller, move || host.file_at(&link, MayBlock::Yes)).await??
            }
            answer => answer?,
        };
        let text = link.to_string_lossy();
        match facts::path(&text, running, at_path) {
            Ok(path) => evidence.prove(path, Grade::Kernel, Source::Executable),
            Err(because) => evidence.withhold(SelectorKind::UnixPath, Some(text.into_owned()), because),
        }
        Ok(())
    }

    async fn sha256(
        &self,
        evidence: &mut EvidenceSet,
        caller: Principal,
        running: &FileIdentity,
        directory: Arc<dyn ProcDirectory>,
    ) -> Result<(), NotAttested> {
        match self.hashing.digest(caller, running, directory).await? {
            Ok(digest) => {
                let selector = crate::evidence::Selector::UnixSha256(digest);
                evidence.prove(selector, Grade::Kernel, Source::ExecutableBytes);
            }
            Err(because) => evidence.withhold(SelectorKind::UnixSha256, None, because),
        }
        Ok(())
    }
}

impl PinnedProcess {
    /// The process.
    #[must_use]
    pub fn process(&self) -> &Arc<dyn Process> {
        &self.process
    }

    /// Whom its limits are charged to.
    #[must_use]
    pub fn principal(&self) -> Principal {
        self.principal
    }

    /// The image at the accept.
    #[must_use]
    pub fn epoch(&self) -> ImageEpoch {
        self.epoch
    }

    /// Proves that the image which something was decided for is still running, with the credentials and in the cgroup of
    /// then. Some 10 µs: asked before every message with a secret.
    ///
    /// # Errors
    /// [`NotAttested`]
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

    /// Checks the kernel's sender of a message that arrived on the connection.
    ///
    /// # Errors
    /// [`Contradiction::ForeignWriter`]
    pub fn check_writer(&self, writer: Credentials) -> Result<(), NotAttested> {
        if writer == self.process.peer() { Ok(()) } else { Err(Contradiction::ForeignWriter.into()) }
    }

    fn same_image(&self, now: &ImageEpoch) -> Result<(), Contradiction> {
        if now.is_same_image(&self.epoch) { Ok(()) } else { Err(Contradiction::ImageChanged) }
    }
}

/// What the pidfd says, which must agree with what the socket said when it was connected.
fn pidfd_facts(process: &dyn Process) -> Result<Option<PidfdFacts>, NotAttested> {
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

/// What `/proc` says must agree, too: it speaks of the first thread, the socket of the one that connected.
fn agree(peer: Credentials, status: &Status) -> Result<(), Contradiction> {
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
/// RACE: an exec between `stat` and the link pairs the old addresses with the new file, which is the image of neither.
fn image(directory: &dyn ProcDirectory, cgroup: CgroupMark) -> Result<(ImageEpoch, FileIdentity), NotAttested> {
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

fn cgroup_mark(pidfd: Option<&PidfdFacts>, cgroups: &Cgroups<'_>, text: &[u8]) -> CgroupMark {
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
