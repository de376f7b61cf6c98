//! Questions about callers that hand nothing out: what would this process get, and who would lose under other rules?

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use tokio::time::sleep;

use crate::attestation::NotAttested;
use crate::attestation::PinId;
use crate::attestation::PinnedProcess;
use crate::attestation::host::sighting::Sighting;
use crate::attestation::kernel::Process;
use crate::attestation::kernel::Unanswered;
use crate::attestation::source::Change;
use crate::entitlement::ledger::live::LiveStream;
use crate::entitlement::ledger::records::seconds;
use crate::entitlement::ledger::refusals::Refusal;
use crate::entitlement::ledger::refusals::RefusalCause;
use crate::entitlement::node_state::NO_AUTHORITY;
use crate::entitlement::node_state::NodeState;
use crate::evidence::Answer;
use crate::evidence::Credentials;
use crate::evidence::EvidenceSet;
use crate::evidence::Level;
use crate::evidence::Selector;
use crate::evidence::SelectorKind;
use crate::identity::SpiffeId;
use crate::policy::Decision;
use crate::policy::HeldBack;
use crate::policy::Outcome;
use crate::policy::Rulebook;
use crate::policy::Trace;
use crate::policy::held_back;
use crate::policy::redecide;

/// What was found out about one process.
#[derive(Debug, Clone)]
pub struct Examination {
    /// Whom it is about.
    pub peer: Credentials,
    /// How it was pinned.
    pub level: Level,
    /// What was proven of it; empty when attestation came to no end.
    pub evidence: EvidenceSet,
    /// What `/proc` showed of it, where it was refused.
    pub seen: Sighting,
    /// The epoch of the rulebook that it was compared with, where it was.
    pub rulebook_epoch: Option<u64>,
    /// The SPIFFE IDs it gets, or why none.
    pub verdict: Result<Vec<String>, RefusalCause>,
    /// Seconds since 1970.
    pub at: f64,
}

/// A process that holds identities by the path of a file that is not there any more. They last as long as the daemon
/// watches the process (SPEC: product contract §5, rule 5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplacedProgram {
    /// The process.
    pub peer: Credentials,
    /// Its unit.
    pub unit: Option<String>,
    /// The path that was proven.
    pub path: String,
    /// The identities that it would not get anew, sorted.
    pub loses: Vec<SpiffeId>,
    /// The identities that it would get anew, sorted.
    pub keeps: Vec<SpiffeId>,
}

impl NodeState {
    /// Attests the process that has this number now, and decides for it as if it had asked: by all evidence that there is,
    /// whether or not an entry could use it. Issues nothing and records nothing.
    ///
    /// # Errors
    /// [`Unanswered`]: there is no such process, or it could not be found out.
    pub async fn examine(&self, pid: u32) -> Result<Examination, Unanswered> {
        Ok(self.examine_process(self.parts.attestor.host().numbered(pid)?).await)
    }

    async fn examine_process(&self, process: Arc<dyn Process>) -> Examination {
        let attestor = &self.parts.attestor;
        let (peer, level, at) = (process.peer(), process.level(), seconds(self.now()));
        let examined = match attestor.by_peer(Arc::clone(&process)) {
            Ok(pinned) => self.examine_patiently(&self.images.shared(pinned)).await,
            Err(why) => Err(why),
        };
        match examined {
            Ok(Decision { outcome, trace, .. }) => Examination {
                peer,
                level,
                evidence: trace.evidence.clone(),
                seen: Sighting::default(),
                rulebook_epoch: Some(trace.rulebook_epoch),
                verdict: if self.is_without_authority() { Err(NO_AUTHORITY) } else { verdict(outcome) },
                at,
            },
            Err(why) => {
                let (evidence, seen) = (EvidenceSet::default(), attestor.sighting(&*process, None));
                Examination { peer, level, evidence, seen, rulebook_epoch: None, verdict: Err(why.into()), at }
            }
        }
    }

    /// Decides again until no provider is pending, no longer than a first answer would wait.
    async fn examine_patiently(&self, process: &PinnedProcess) -> Result<Decision, NotAttested> {
        let everything = self.parts.attestor.providers();
        let patience = sleep(self.rulebook().rules().wait);
        let mut patience = pin!(patience);
        loop {
            let swapped = self.next_rulebook();
            let (decision, _, changes) = self.decide_by(process, &self.rulebook(), &everything)?;
            let pending = |(_, answer): &(_, Answer)| *answer == Answer::Pending;
            if !decision.trace.evidence.answers().iter().any(pending) {
                return Ok(decision);
            }
            tokio::select! {
                () = Change::any(changes) => {}
                () = swapped => {}
                () = &mut patience => return Ok(decision),
            }
        }
    }

    /// The processes with live identities that rest on a replaced file, by process id. Asks the kernel about each process
    /// with a path: never on a thread that serves.
    #[must_use]
    pub fn replaced_programs(&self) -> Vec<ReplacedProgram> {
        let rulebook = self.rulebook();
        let mut looked_at: BTreeMap<(PinId, Selector), bool> = BTreeMap::new();
        let mut found: BTreeMap<u32, ReplacedProgram> = BTreeMap::new();
        for stream in self.live.snapshot().iter().filter(|stream| !stream.identities.is_empty()) {
            let pinned = &stream.process.pinned;
            let is_gone = |path: &Selector| {
                let look = || self.parts.attestor.runs_file_at(pinned, Path::new(&*path.value())) == Some(false);
                *looked_at.entry((pinned.id(), path.clone())).or_insert_with(look)
            };
            let Some(replaced) = replaced_program(stream, &rulebook, is_gone) else { continue };
            let known = found.entry(replaced.peer.pid).or_insert_with(|| ReplacedProgram {
                loses: Vec::new(),
                keeps: Vec::new(),
                ..replaced.clone()
            });
            for (all, more) in [(&mut known.loses, replaced.loses), (&mut known.keeps, replaced.keeps)] {
                all.extend(more);
                all.sort();
                all.dedup();
            }
        }
        found.into_values().collect()
    }

    /// The live identities that would end under other rules, where they are so many that somebody has to ask for it.
    #[must_use]
    pub fn held_back(&self, rulebook: &Rulebook) -> Option<HeldBack> {
        let live = self.live.snapshot().into_iter().filter(|stream| !stream.identities.is_empty());
        let traces: Vec<_> = live.filter_map(|stream| stream.trace).collect();
        let before = self.rulebook();
        held_back(traces.iter().map(|trace| &**trace), &before, rulebook)
    }
}

/// What the process of a stream would lose, were it attested for the first time now. `is_gone` says of a path whether the
/// file that the process runs is there no more.
fn replaced_program(
    stream: &LiveStream,
    rulebook: &Rulebook,
    is_gone: impl FnMut(&Selector) -> bool,
) -> Option<ReplacedProgram> {
    let mut trace = Trace::clone(stream.trace.as_ref()?);
    let selectors = trace.evidence.facts().iter().map(|fact| &fact.selector);
    let mut gone: Vec<_> = selectors.filter(|selector| selector.kind() == SelectorKind::UnixPath).cloned().collect();
    gone.retain(is_gone);
    gone.iter().for_each(|path| trace.evidence.disprove(path));
    let anew = redecide(&trace, rulebook);
    let held = stream.identities.iter().map(|identity| identity.id.clone());
    let (keeps, loses): (Vec<_>, Vec<_>) = held.partition(|id| anew.may_give(id));
    let unit = trace.evidence.facts().iter().find(|fact| fact.selector.kind() == SelectorKind::SystemdId);
    let path = gone.first().filter(|_| !loses.is_empty())?.value().into_owned();
    let unit = unit.map(|fact| fact.selector.value().into_owned());
    Some(ReplacedProgram { peer: trace.peer, unit, path, loses, keeps })
}

/// The SPIFFE IDs, or why none.
fn verdict(outcome: Outcome) -> Result<Vec<String>, RefusalCause> {
    match outcome {
        Outcome::Permits(permits) => Ok(permits.iter().map(|permit| permit.grant().id.to_string()).collect()),
        Outcome::Denied(denial) => Err(RefusalCause::Denied(denial)),
        Outcome::Awaiting(providers) => Err(RefusalCause::Awaiting(providers)),
    }
}

impl From<Refusal> for Examination {
    fn from(refusal: Refusal) -> Self {
        let Refusal { peer, level, cause, at, seen, trace } = refusal;
        let rulebook_epoch = trace.as_ref().map(|trace| trace.rulebook_epoch);
        let evidence = trace.map(|trace| trace.evidence).unwrap_or_default();
        Self { peer, level, evidence, seen, rulebook_epoch, verdict: Err(cause), at }
    }
}
