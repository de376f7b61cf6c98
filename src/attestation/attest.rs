//! From a pinned process to [`Attested`]. Everything of one attestation is read through one directory handle, and the image
//! that was there at the accept must be there after the last fact. Sources beside the kernel are asked in between, and make
//! nobody wait.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::attestation::attested::Attested;
use crate::attestation::attested::Contradiction;
use crate::attestation::attested::ImageEpoch;
use crate::attestation::attested::NotAttested;
use crate::attestation::hashing::HashSource;
use crate::attestation::host::cgroup::Cgroups;
use crate::attestation::host::facts;
use crate::attestation::host::facts::CgroupPosition;
use crate::attestation::host::facts::HostNamespaces;
use crate::attestation::host::facts::Observed;
use crate::attestation::host::status::Status;

use crate::attestation::kernel::Host;
use crate::attestation::kernel::Namespace;
use crate::attestation::kernel::PidfdFacts;
use crate::attestation::kernel::ProcDirectory;
use crate::attestation::kernel::ProcFile;
use crate::attestation::kernel::Process;
use crate::attestation::path::PathSource;
use crate::attestation::pinned::PinId;
use crate::attestation::pinned::PinnedProcess;
use crate::attestation::pinned::agree;
use crate::attestation::pinned::cgroup_mark;
use crate::attestation::pinned::image;
use crate::attestation::pinned::pidfd_facts;
use crate::attestation::source::Asked;
use crate::attestation::source::Change;
use crate::attestation::source::EvidenceSource;
use crate::attestation::source::Known;
use crate::evidence::Accounts;
use crate::evidence::Answer;
use crate::evidence::EvidenceSet;
use crate::evidence::Principal;
use crate::evidence::Provider;
use crate::evidence::Providers;
use crate::evidence::SelectorKind;
use crate::evidence::WithheldBecause;

/// Attests processes of one host.
#[derive(Debug)]
pub struct Attestor {
    host: Arc<dyn Host>,
    /// In the order of their providers.
    sources: Vec<Arc<dyn EvidenceSource>>,
    pinned: AtomicU64,
}

/// A proof, and when one of the sources behind it would say something else.
#[derive(Debug)]
pub struct Attestation {
    /// The proof.
    pub proof: Attested,
    /// Each resolves when a source would answer otherwise.
    pub changes: Vec<Change>,
}

/// Which providers an entry could use beside what is known, but for those that were asked.
type Wants<'a> = &'a dyn Fn(&EvidenceSet) -> Providers;

impl Attestor {
    /// Compares callers with `host`, and asks `further` sources beside the kernel, the path and the hash.
    #[must_use]
    pub fn new(host: Arc<dyn Host>, further: Vec<Arc<dyn EvidenceSource>>) -> Self {
        let path: Arc<dyn EvidenceSource> = Arc::new(PathSource::new(Arc::clone(&host)));
        let mut sources = vec![path, Arc::new(HashSource::default())];
        sources.extend(further);
        sources.sort_by_key(|source| source.provider());
        Self { host, sources, pinned: AtomicU64::new(0) }
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
        let id = PinId(self.pinned.fetch_add(1, Ordering::Relaxed));
        Ok(PinnedProcess { process, id, epoch, principal: Principal { uid: peer.uid, cgroup } })
    }

    /// Pins the process that has this number now, for somebody who asks about another process.
    ///
    /// # Errors
    /// [`NotAttested`]: there is no such process, or it cannot be pinned.
    pub fn by_reference(&self, pid: u32) -> Result<PinnedProcess, NotAttested> {
        self.by_peer(self.host.numbered(pid)?)
    }

    /// Collects what is known of a process: the kernel's facts, and what each source says that an entry could use. `wants`
    /// is asked again after each answer; `accounts` are the names that entries use. Waits for nothing.
    ///
    /// # Errors
    /// [`NotAttested`]: the kernel's facts alone decide that. A source that cannot answer leaves its own facts open.
    pub fn attest(
        &self,
        pinned: &PinnedProcess,
        wants: Wants<'_>,
        accounts: &Accounts,
    ) -> Result<Attestation, NotAttested> {
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
        if let Some(because) = facts::not_on_the_host(&seen) {
            for (provider, kind) in ON_THE_HOST {
                evidence.withhold(kind, None, because);
                evidence.answered(provider, Answer::Settled);
            }
        }
        let asked = Asked { pinned, directory: &directory, executable: &executable };
        let changes = self.ask_sources(&asked, wants, &mut evidence);
        if evidence.answer_of(&Provider::SHA256).is_some_and(|answer| answer == Answer::Settled) {
            // Time has passed since the file was hashed: is the image still the one that runs?
            pinned.same_image(&image(&*directory, epoch.cgroup)?.0)?;
        }
        process.alive()?;
        if pidfd_facts(process)? != before {
            return Err(Contradiction::CgroupsDisagree.into());
        }
        let proof = Attested { peer: process.peer(), level: process.level(), epoch, evidence };
        Ok(Attestation { proof, changes })
    }

    /// Asks each provider that an entry could use, one after the other, until none is left that matters.
    fn ask_sources(&self, asked: &Asked<'_>, wants: Wants<'_>, evidence: &mut EvidenceSet) -> Vec<Change> {
        let mut changes = Vec::new();
        // INVARIANT: every round answers for each provider that it found, so that there are at most as many as providers.
        loop {
            let wanted = wants(evidence);
            if wanted.is_empty() {
                break;
            }
            for provider in wanted {
                match self.sources.iter().find(|source| source.provider() == provider) {
                    Some(source) => changes.extend(record(source.ask(asked), provider, evidence)),
                    None => {
                        let (kind, name) = (SelectorKind::Other, Some(provider.to_string()));
                        evidence.withhold(kind, name, WithheldBecause::NoAttestor);
                        evidence.answered(provider, Answer::Settled);
                    }
                }
            }
        }
        for (provider, kind) in ON_THE_HOST {
            if evidence.answer_of(&provider).is_none() {
                evidence.withhold(kind, None, WithheldBecause::NotWanted);
            }
        }
        changes
    }

    /// Says to each of these providers that a caller has waited for it as long as it may.
    pub fn gave_up(&self, process: &PinnedProcess, providers: &Providers) {
        for source in self.sources.iter().filter(|source| providers.contains(&source.provider())) {
            source.gave_up(process);
        }
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
}

/// Providers of facts that a process can forge, or that belong to a container's image, where it is not on the host.
const ON_THE_HOST: [(Provider, SelectorKind); 2] =
    [(Provider::PATH, SelectorKind::UnixPath), (Provider::SHA256, SelectorKind::UnixSha256)];

/// Adds what a source knows to the evidence.
fn record(known: Known, provider: Provider, evidence: &mut EvidenceSet) -> Option<Change> {
    for fact in known.facts {
        evidence.prove(fact.selector, fact.grade, fact.source);
    }
    for withheld in known.withheld {
        evidence.withhold(withheld.kind, withheld.seen, withheld.because);
    }
    evidence.answered(provider, known.answer);
    // Nobody else would ever wake a stream that holds too little because of a passing fault.
    let could_not = matches!(known.answer, Answer::Undecided(_));
    known.change.or_else(|| could_not.then(Change::in_a_while))
}
