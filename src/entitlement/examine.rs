//! Questions about callers that hand nothing out: what would this process get, and who would lose under other rules?

use std::sync::Arc;

use crate::attestation::kernel::Process;
use crate::attestation::kernel::Unanswered;
use crate::entitlement::ledger::records::seconds;
use crate::entitlement::ledger::refusals::Refusal;
use crate::entitlement::ledger::refusals::RefusalCause;
use crate::entitlement::node_state::NodeState;
use crate::evidence::Credentials;
use crate::evidence::EvidenceSet;
use crate::evidence::Level;
use crate::policy::HeldBack;
use crate::policy::Rulebook;
use crate::policy::Trace;
use crate::policy::held_back;

/// What was found out about one process.
#[derive(Debug, Clone)]
pub struct Examination {
    /// Whom it is about.
    pub peer: Credentials,
    /// How it was pinned.
    pub level: Level,
    /// What was proven of it; empty when attestation came to no end.
    pub evidence: EvidenceSet,
    /// The SPIFFE IDs it gets, or why none.
    pub verdict: Result<Vec<String>, RefusalCause>,
    /// Seconds since 1970.
    pub at: f64,
}

impl NodeState {
    /// Attests the process that has this number now, and decides for it as if it had asked. Issues nothing and records
    /// nothing.
    ///
    /// # Errors
    /// [`Unanswered`]: there is no such process, or it could not be found out.
    pub async fn examine(&self, pid: u32) -> Result<Examination, Unanswered> {
        Ok(self.examine_process(self.parts.attestor.host().numbered(pid)?).await)
    }

    async fn examine_process(&self, process: Arc<dyn Process>) -> Examination {
        let (peer, level, at) = (process.peer(), process.level(), seconds(self.now()));
        let examination = |trace: Option<Arc<Trace>>, verdict| {
            let evidence = trace.map(|trace| trace.evidence.clone()).unwrap_or_default();
            Examination { peer, level, evidence, verdict, at }
        };
        let process = match self.parts.attestor.by_peer(process) {
            Ok(process) => process,
            Err(why) => return examination(None, Err(why.into())),
        };
        match self.decide_quietly(&process).await {
            Ok(granted) => {
                let ids = granted.permits.iter().map(|permit| permit.grant().id.to_string()).collect();
                examination(Some(granted.trace), Ok(ids))
            }
            Err((verdict, trace)) => examination(trace, Err(verdict)),
        }
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

impl From<Refusal> for Examination {
    fn from(refusal: Refusal) -> Self {
        let Refusal { peer, level, cause, at, trace } = refusal;
        let evidence = trace.map(|trace| trace.evidence).unwrap_or_default();
        Self { peer, level, evidence, verdict: Err(cause), at }
    }
}
