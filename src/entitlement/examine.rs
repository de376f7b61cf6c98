//! Questions about callers that hand nothing out: what would this process get, and who would lose under other rules?

use std::pin::pin;
use std::sync::Arc;

use tokio::time::sleep;

use crate::attestation::kernel::Process;
use crate::attestation::kernel::Unanswered;
use crate::entitlement::ledger::records::seconds;
use crate::entitlement::ledger::refusals::Refusal;
use crate::entitlement::ledger::refusals::RefusalCause;
use crate::entitlement::liveness::CheckedProcess;
use crate::entitlement::node_state::LiveDecision;
use crate::entitlement::node_state::NodeState;
use crate::entitlement::node_state::Undecidable;
use crate::entitlement::node_state::any;
use crate::evidence::Answer;
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
            Ok(pinned) => CheckedProcess::new(pinned),
            Err(why) => return examination(None, Err(why.into())),
        };
        match self.examine_patiently(&process).await {
            Ok(decision) if decision.permits.is_empty() => {
                let providers = decision.open.iter().flat_map(|open| open.awaits.iter().cloned()).collect();
                examination(Some(decision.basis.trace), Err(RefusalCause::Awaiting(providers)))
            }
            Ok(decision) => {
                let ids = decision.permits.iter().map(|permit| permit.grant().id.to_string()).collect();
                examination(Some(decision.basis.trace), Ok(ids))
            }
            Err((cause, trace)) => examination(trace, Err(cause)),
        }
    }

    /// Decides again until no provider is pending, no longer than a first answer would wait.
    async fn examine_patiently(&self, process: &CheckedProcess) -> Result<LiveDecision, Undecidable> {
        let patience = sleep(self.rulebook().rules().wait);
        let mut patience = pin!(patience);
        loop {
            let mut decision = self.decide_quietly(process)?;
            let pending = |(_, answer): &(_, Answer)| *answer == Answer::Pending;
            if !decision.basis.trace.evidence.answers().iter().any(pending) {
                return Ok(decision);
            }
            tokio::select! {
                () = any(std::mem::take(&mut decision.changes)) => {}
                () = &mut patience => return Ok(decision),
            }
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
