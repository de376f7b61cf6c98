//! Refusals: each is named, kept for `explain --denial`, and written down with what `/proc` shows of the process.

use std::sync::Arc;

use crate::attestation::NotAttested;
use crate::attestation::PinnedProcess;
use crate::attestation::host::sighting::Sighting;
use crate::entitlement::door::Ended;
use crate::entitlement::ledger::records::seconds;
use crate::entitlement::ledger::refusals::Refusal;
use crate::entitlement::ledger::refusals::RefusalCause;
use crate::entitlement::node_state::NodeState;
use crate::evidence::Credentials;
use crate::evidence::Level;
use crate::evidence::Principal;
use crate::policy::DecisionId;
use crate::policy::Trace;

impl NodeState {
    /// Keeps and logs that a process could not be pinned, and says what its connection may hear of it.
    pub(in crate::entitlement) fn refuse_unpinned(
        &self,
        peer: Credentials,
        level: Level,
        seen: Sighting,
        why: NotAttested,
    ) -> Ended {
        let refusal = Refusal { cause: why.into(), trace: None, seen, peer, level, at: seconds(self.now()) };
        let (id, denied) = (self.name(), matches!(refusal.cause, RefusalCause::Denied(_)));
        self.parts.audit.record(refusal.record(id));
        let uid = self.parts.attestor.host().subordinate_uids().charged(peer.uid);
        self.refusals.keep(id, uid.map_or(Principal::COMMON, Principal::of_uid), refusal);
        if denied { Ended::Denied(id) } else { Ended::Undecided(id) }
    }

    /// Records that a caller could not be attested.
    pub(in crate::entitlement) fn refuse_unattested(&self, process: &PinnedProcess, why: NotAttested) -> Ended {
        self.refuse(process, why.into(), None)
    }

    /// Keeps and logs a refusal, and says what the caller may hear of it.
    pub(in crate::entitlement) fn refuse(
        &self,
        process: &PinnedProcess,
        cause: RefusalCause,
        trace: Option<&Arc<Trace>>,
    ) -> Ended {
        let denied = matches!(cause, RefusalCause::Denied(_));
        let id = self.keep(process, cause, trace);
        if denied { Ended::Denied(id) } else { Ended::Undecided(id) }
    }

    /// Records that another process wrote to the connection of this one.
    pub(in crate::entitlement) fn refuse_writer(
        &self,
        process: &PinnedProcess,
        writer: Credentials,
        why: NotAttested,
    ) -> Ended {
        let seen = Sighting { writer: Some(writer), ..self.parts.attestor.sighting_of(process, None) };
        Ended::Denied(self.keep_seen(process, why.into(), None, seen))
    }

    /// Keeps and logs a refusal under a name of its own.
    pub(in crate::entitlement) fn keep(
        &self,
        process: &PinnedProcess,
        cause: RefusalCause,
        trace: Option<&Arc<Trace>>,
    ) -> DecisionId {
        let seen = self.parts.attestor.sighting_of(process, trace.map(|trace| &trace.evidence));
        self.keep_seen(process, cause, trace, seen)
    }

    fn keep_seen(
        &self,
        process: &PinnedProcess,
        cause: RefusalCause,
        trace: Option<&Arc<Trace>>,
        seen: Sighting,
    ) -> DecisionId {
        let trace = trace.map(|trace| Trace::clone(trace));
        let (peer, level) = (process.process().peer(), process.process().level());
        let refusal = Refusal { cause, trace, seen, peer, level, at: seconds(self.now()) };
        let id = self.name();
        self.parts.audit.record(refusal.record(id));
        self.refusals.keep(id, process.principal(), refusal);
        id
    }
}
