//! Questions about callers that hand nothing out: what would this process get, and who would lose under other rules?

use std::sync::Arc;

use crate::attestation::kernel::Credentials;
use crate::attestation::kernel::Level;
use crate::attestation::kernel::Process;
use crate::entitlement::entitlements::Entitlements;
use crate::entitlement::entitlements::Rulebook;
use crate::entitlement::ledger::decisions::Refusal;
use crate::entitlement::ledger::decisions::Verdict;
use crate::entitlement::ledger::records::seconds;
use crate::evidence::EvidenceSet;
use crate::evidence::Selector;
use crate::evidence::Wants;
use crate::identity::SpiffeId;
use crate::policy::decide::Considered;
use crate::policy::decide::Trace;
use crate::policy::decide::redecide;
use crate::registration::Entry;

/// What was found out about one process.
#[derive(Debug, Clone)]
pub struct Examination {
    /// Whom it is about.
    pub peer: Credentials,
    /// How it was pinned.
    pub level: Level,
    /// What was proven of it; empty when attestation came to no end.
    pub evidence: EvidenceSet,
    /// The entries that were looked at.
    pub considered: Vec<Considered>,
    /// The SPIFFE IDs it gets, or why none.
    pub verdict: Result<Vec<String>, Verdict>,
    /// Seconds since 1970.
    pub at: f64,
}

/// What would become of the live identities.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fate {
    /// How many are live.
    pub live: usize,
    /// Those that would end, once for each holder.
    pub ending: Vec<SpiffeId>,
}

impl Entitlements {
    /// Attests a process and decides for it as if it had asked. Issues nothing and records nothing.
    pub async fn examine(&self, process: Arc<dyn Process>) -> Examination {
        let (peer, level, at) = (process.peer(), process.level(), seconds(self.now()));
        let examination = |trace: Option<Arc<Trace>>, verdict| {
            let (evidence, considered) =
                trace.map(|trace| (trace.evidence.clone(), trace.considered.clone())).unwrap_or_default();
            Examination { peer, level, evidence, considered, verdict, at }
        };
        let process = match self.parts.attestor.pin(process) {
            Ok(process) => process,
            Err(why) => return examination(None, Err(why.into())),
        };
        match self.decide_quietly(&process).await {
            Ok(granted) => {
                let ids = granted.permits.iter().map(|permit| permit.entry().id.to_string()).collect();
                examination(Some(granted.trace), Ok(ids))
            }
            Err((verdict, trace)) => examination(trace, Err(verdict)),
        }
    }

    /// What would become of the live identities under other rules. An identity that would rest on facts which nobody has
    /// looked for yet does not count as ending.
    #[must_use]
    pub fn fate_under(&self, rulebook: &Rulebook) -> Fate {
        let mut fate = Fate::default();
        for stream in self.live.snapshot() {
            let Some(trace) = &stream.trace else { continue };
            fate.live += stream.identities.len();
            if rulebook.entries.wants(&trace.evidence) != Wants::NOTHING {
                continue;
            }
            let kept = ids_under(trace, rulebook);
            let ending = stream.identities.into_iter().map(|identity| identity.id).filter(|id| !kept.contains(id));
            fate.ending.extend(ending);
        }
        fate
    }
}

fn ids_under(trace: &Trace, rulebook: &Rulebook) -> Vec<SpiffeId> {
    entries_under(trace, rulebook).iter().map(|entry| entry.id.clone()).collect()
}

/// The entries that a caller's recorded evidence satisfies.
pub(in crate::entitlement) fn entries_under(trace: &Trace, rulebook: &Rulebook) -> Vec<Arc<Entry>> {
    match redecide(trace, &rulebook.entries, &rulebook.rules) {
        Ok(granted) => granted.into_iter().map(|granted| granted.entry).collect(),
        Err(_) => Vec::new(),
    }
}

/// Whether a caller could tell one rulebook from the other: it gets something else, or what it gets depends on facts
/// that nobody has looked for yet.
pub(in crate::entitlement) fn outcome_differs(trace: &Trace, before: &Rulebook, after: &Rulebook) -> bool {
    if after.entries.wants(&trace.evidence) != Wants::NOTHING || names_differ(trace, before, after) {
        return true;
    }
    let decided = |rulebook: &Rulebook| redecide(trace, &rulebook.entries, &rulebook.rules);
    match (decided(before), decided(after)) {
        (Ok(before), Ok(after)) => {
            before.len() != after.len()
                || before
                    .iter()
                    .zip(&after)
                    .any(|(before, after)| !before.entry.grants_the_same_as(&after.entry) || before.hint != after.hint)
        }
        (Err(_), Err(_)) => false,
        _ => true,
    }
}

/// Whether the caller's own user or groups have other names than before: evidence that the record does not have.
fn names_differ(trace: &Trace, before: &Rulebook, after: &Rulebook) -> bool {
    let (before, after) = (before.entries.accounts(), after.entries.accounts());
    trace.evidence.facts().iter().any(|fact| match fact.selector {
        Selector::UnixUid(uid) => before.user_names(uid) != after.user_names(uid),
        Selector::UnixGid(gid) | Selector::UnixSupplementaryGid(gid) => {
            before.group_names(gid) != after.group_names(gid)
        }
        _ => false,
    })
}

impl From<Refusal> for Examination {
    fn from(refusal: Refusal) -> Self {
        let (evidence, considered) = refusal.trace.map(|trace| (trace.evidence, trace.considered)).unwrap_or_default();
        let Refusal { peer, level, verdict, at, .. } = refusal;
        Self { peer, level, evidence, considered, verdict: Err(verdict), at }
    }
}
