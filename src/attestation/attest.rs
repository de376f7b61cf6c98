//! From a pinned process to [`Attested`]. One attestation reads all facts through one directory handle, and requires
//! the image of the accept. Sources besides the kernel are asked before the last liveness check, and never block.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::attestation::attested::Attested;
use crate::attestation::attested::Contradiction;
use crate::attestation::attested::Epoch;
use crate::attestation::attested::NotAttested;
use crate::attestation::executable::hashing::HashSource;
use crate::attestation::host::cgroup::Cgroups;
use crate::attestation::host::facts;
use crate::attestation::host::facts::CgroupPosition;
use crate::attestation::host::facts::HostNamespaces;
use crate::attestation::host::facts::Observed;
use crate::attestation::host::principal::Seen;
use crate::attestation::host::principal::UserNamespace;
use crate::attestation::host::principal::principal;
use crate::attestation::host::sighting::Sighting;
use crate::attestation::host::status::Status;

use crate::attestation::executable::path::PathSource;
use crate::attestation::kernel::AtPath;
use crate::attestation::kernel::Host;
use crate::attestation::kernel::MayBlock;
use crate::attestation::kernel::Namespace;
use crate::attestation::kernel::PidfdFacts;
use crate::attestation::kernel::ProcDirectory;
use crate::attestation::kernel::ProcFile;
use crate::attestation::kernel::Process;
use crate::attestation::kernel::Unanswered;
use crate::attestation::pinned::PinId;
use crate::attestation::pinned::PinnedProcess;
use crate::attestation::pinned::agree;
use crate::attestation::pinned::cgroup_mark;
use crate::attestation::pinned::groups_mark;
use crate::attestation::pinned::image;
use crate::attestation::pinned::namespaces;
use crate::attestation::pinned::pidfd_facts;
use crate::attestation::source::Asked;
use crate::attestation::source::Change;
use crate::attestation::source::EvidenceSource;
use crate::attestation::source::Known;
use crate::evidence::Accounts;
use crate::evidence::Answer;
use crate::evidence::EvidenceSet;
use crate::evidence::Provider;
use crate::evidence::Providers;
use crate::evidence::SelectorKind;
use crate::evidence::Undecided;
use crate::evidence::WithheldBecause;

/// Attests processes of one host.
#[derive(Debug)]
pub struct Attestor {
    host: Arc<dyn Host>,
    /// Sorted by provider.
    sources: Vec<Arc<dyn EvidenceSource>>,
    pinned: AtomicU64,
}

/// A proof, and notifications for changes of the answers behind it.
#[derive(Debug)]
pub struct Attestation {
    /// The proof.
    pub proof: Attested,
    /// One per source that can change its answer; it resolves at the change.
    pub changes: Vec<Change>,
}

/// The providers to ask next for this evidence: those without an answer whose facts an entry could use.
type Wants<'a> = &'a dyn Fn(&EvidenceSet) -> Providers;

impl Attestor {
    /// Attests against `host`, with the sources for path and hash and those in `further`.
    #[must_use]
    pub fn new(host: Arc<dyn Host>, further: Vec<Arc<dyn EvidenceSource>>) -> Self {
        let path: Arc<dyn EvidenceSource> = Arc::new(PathSource::new(Arc::clone(&host)));
        let mut sources = vec![path, Arc::new(HashSource::default())];
        sources.extend(further);
        sources.sort_by_key(|source| source.provider());
        Self { host, sources, pinned: AtomicU64::new(0) }
    }

    /// The host that callers are compared with.
    #[must_use]
    pub fn host(&self) -> &dyn Host {
        &*self.host
    }

    /// Pins the process behind a connection that was just accepted.
    ///
    /// The image at the time of `connect(2)` is unknown: the kernel queues the connection, and the process can `exec`
    /// before the accept.
    ///
    /// # Errors
    /// [`NotAttested`] when the process has exited, is outside the daemon's PID namespace, or cannot be checked. At the
    /// level full also when its credentials have changed since the connect.
    pub fn by_peer(&self, process: Arc<dyn Process>) -> Result<PinnedProcess, NotAttested> {
        let peer = process.peer();
        if peer.pid == 0 {
            return Err(Contradiction::OutsidePidNamespace.into());
        }
        let directory = process.directory()?;
        let pidfd = pidfd_facts(&*process)?;
        let text = directory.read(ProcFile::Cgroup)?;
        let cgroups = Cgroups::parse(&text).map_err(|_| Contradiction::Malformed)?;
        let namespace = self.user_namespace(&*directory)?;
        let (image, _) = image(&*directory)?;
        process.alive()?;
        let path = self.path(&cgroups, pidfd.as_ref())?;
        let charged = cgroups.unified().map_or(0, |shown| self.host.charged_cgroup(shown));
        let seen = Seen { uid: peer.uid, namespace, path: path.as_deref(), cgroup: charged };
        let principal = principal(&seen, &self.host.subordinate_uids(), self.host.manager_root());
        let cgroup = cgroups.deciding().map_or("", |(path, _)| path).into();
        let id = PinId(self.pinned.fetch_add(1, Ordering::Relaxed));
        let proven = Arc::default();
        Ok(PinnedProcess { process, id, image, principal, cgroup, proven })
    }

    /// Pins the process that has this PID now, for a connection that asks about another process.
    ///
    /// # Errors
    /// [`NotAttested`] when there is no such process, or as [`by_peer`](Self::by_peer).
    pub fn by_reference(&self, pid: u32) -> Result<PinnedProcess, NotAttested> {
        self.by_peer(self.host.numbered(pid)?)
    }

    /// Collects the evidence about a process: the kernel's facts, and those of each source that an entry could use.
    /// `wants` is called again after each round of answers; `accounts` are the names that entries use. Does not block.
    ///
    /// # Errors
    /// [`NotAttested`], by the kernel's facts alone. A source that cannot answer only leaves its own facts open.
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
        let (image, executable) = image(&*directory)?;
        if image != pinned.image {
            return Err(Contradiction::ImageChanged.into());
        }
        let cgroup = cgroup_mark(before.as_ref(), &cgroups, &text);
        let (namespaces, groups) = (namespaces(&*directory)?, groups_mark(&status.groups));
        let epoch = Epoch { image, cgroup, namespaces, groups };
        let namespaces = self.of_the_host(namespaces);
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
        // RACE: the file may have been hashed earlier. An `exec` before this check changes the image, and the process is
        // refused. An exec after it is found by `unchanged`, before each message with a secret.
        pinned.runs_still(&*directory)?;
        if pidfd_facts(process)? != before {
            return Err(Contradiction::CgroupsDisagree.into());
        }
        let proof = Attested { peer: process.peer(), level: process.level(), epoch, evidence };
        Ok(Attestation { proof, changes })
    }

    /// Asks providers in rounds, until `wants` names no more.
    fn ask_sources(&self, asked: &Asked<'_>, wants: Wants<'_>, evidence: &mut EvidenceSet) -> Vec<Change> {
        let mut changes = Vec::new();
        // INVARIANT: each round records an answer for every provider that it asks, so there are at most as many rounds
        // as providers.
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
        changes
    }

    /// The providers besides the kernel, for an examination by all evidence that there is.
    #[must_use]
    pub fn providers(&self) -> Providers {
        self.sources.iter().map(|source| source.provider()).collect()
    }

    /// What `/proc` shows now of a process that is refused: everything, or besides `evidence` the program.
    #[must_use]
    pub fn sighting(&self, process: &dyn Process, evidence: Option<&EvidenceSet>) -> Sighting {
        let seen = Sighting::default();
        let has_program = |evidence: &EvidenceSet| evidence.found(SelectorKind::UnixPath).is_some();
        if evidence.is_some_and(has_program) {
            return seen;
        }
        let Ok(directory) = process.directory() else { return seen };
        let seen = directory.executable_link().map(|link| seen.clone().with_program(&link)).unwrap_or(seen);
        if evidence.is_some() {
            return seen;
        }
        let cgroups = directory.read(ProcFile::Cgroup).unwrap_or_default();
        let status = directory.read(ProcFile::Status).unwrap_or_default();
        seen.with_cgroups(&cgroups, self.host.manager_root()).with_status(&status, process.peer())
    }

    /// The same of a process that was pinned: what cannot be read any more is as it was at the accept.
    #[must_use]
    pub fn sighting_of(&self, pinned: &PinnedProcess, evidence: Option<&EvidenceSet>) -> Sighting {
        let seen = self.sighting(&*pinned.process, evidence);
        if evidence.is_some() { seen } else { seen.with_cgroup(&pinned.cgroup, self.host.manager_root()) }
    }

    /// Whether the host has the file that this process runs at `path`; `None` where that cannot be said at once. Does not
    /// block.
    #[must_use]
    pub fn runs_file_at(&self, process: &PinnedProcess, path: &Path) -> Option<bool> {
        let running = process.process.directory().and_then(|directory| directory.executable()).ok()?;
        if (running.device, running.inode) != (process.image.device, process.image.inode) {
            return None; // another program by now
        }
        match self.host.file_at(path, MayBlock::No) {
            _ if running.links == 0 => Some(false),
            Ok(AtPath::File(there)) => Some(there.is_same_file(&running)),
            Ok(AtPath::Nothing) => Some(false),
            Ok(AtPath::Closed) | Err(_) => None,
        }
    }

    /// Reports to each of these providers that a caller waited the longest allowed time for it.
    pub fn gave_up(&self, process: &PinnedProcess, providers: &Providers) {
        for source in self.sources.iter().filter(|source| providers.contains(&source.provider())) {
            source.gave_up(process);
        }
    }

    /// The user namespace of a process, for the one who is charged.
    ///
    /// RACE: a process can enter a namespace after this, and leaves none: it stays with whom it was counted for. One that
    /// enters it before this, after it connected, counts for the owner, who is itself or whoever gave it the namespace.
    fn user_namespace(&self, directory: &dyn ProcDirectory) -> Result<UserNamespace, NotAttested> {
        let Some(host) = self.host.namespace(Namespace::User) else { return Ok(UserNamespace::Unknown) };
        let seen = match directory.namespace(Namespace::User) {
            Ok(own) if own == host => return Ok(UserNamespace::Host),
            Ok(_) => directory.user_namespace_owner(host),
            Err(unanswered) => Err(unanswered),
        };
        match seen {
            Ok(owner) => Ok(UserNamespace::Below { owner }),
            Err(Unanswered::Gone) => Err(Unanswered::Gone.into()),
            Err(Unanswered::Undecided(out_of @ (Undecided::OutOfDescriptors | Undecided::OutOfMemory))) => {
                Err(out_of.into())
            }
            Err(Unanswered::Absent | Unanswered::Undecided(_)) => Ok(UserNamespace::Unknown),
        }
    }

    /// The path of the deciding cgroup from the root of the hierarchy; `None` where it cannot be proven.
    fn path(&self, cgroups: &Cgroups<'_>, pidfd: Option<&PidfdFacts>) -> Result<Option<String>, Undecided> {
        let Some((shown, unified)) = cgroups.deciding() else { return Ok(None) };
        self.host.anchored_cgroup(shown, pidfd.filter(|_| unified).map(|pidfd| pidfd.cgroup))
    }

    fn place(&self, cgroups: &Cgroups<'_>, pidfd: Option<&PidfdFacts>) -> Result<CgroupPosition, NotAttested> {
        let Some(path) = self.path(cgroups, pidfd)? else {
            let shown = cgroups.deciding().map(|(shown, _)| shown.to_owned());
            return Ok(CgroupPosition::NotAnchored { shown });
        };
        let kind = cgroups.group(&path, self.host.manager_root()).map_err(|_| Contradiction::CgroupsDisagree)?;
        Ok(CgroupPosition::Anchored { path, kind })
    }

    fn of_the_host(&self, [user, _, pid, cgroup]: [u64; 4]) -> HostNamespaces {
        let is_host = |namespace, inode| self.host.namespace(namespace) == Some(inode);
        HostNamespaces {
            user: is_host(Namespace::User, user),
            pid: is_host(Namespace::Pid, pid),
            cgroup: is_host(Namespace::Cgroup, cgroup),
        }
    }
}

/// Providers of facts that count only on the host. Elsewhere a process could forge them, or they belong to the image of
/// a container.
const ON_THE_HOST: [(Provider, SelectorKind); 2] =
    [(Provider::PATH, SelectorKind::UnixPath), (Provider::SHA256, SelectorKind::UnixSha256)];

/// Adds the answer of a source to the evidence. SECURITY: a source proves facts of its own provider alone, whatever it
/// answers.
fn record(known: Known, provider: Provider, evidence: &mut EvidenceSet) -> Option<Change> {
    for fact in known.facts.into_iter().filter(|fact| fact.selector.provider() == provider) {
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
