//! What happens to callers, in the words of the audit log.

use std::borrow::Cow;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::audit::Event;
use crate::audit::Record;
use crate::entitlement::ledger::refusals::Refusal;
use crate::entitlement::ledger::refusals::RefusalCause;
use crate::evidence::EvidenceSet;
use crate::evidence::Providers;
use crate::evidence::Selector;
use crate::evidence::SelectorKind;
use crate::issuance::Issuance;
use crate::policy::DecisionId;
use crate::policy::Denial;
use crate::policy::Trace;

impl Refusal {
    /// The record of this refusal.
    #[must_use]
    pub fn record(&self, id: DecisionId) -> Record {
        let (event, reason, detail) = match &self.cause {
            RefusalCause::Denied(denial) => (Event::Denied, denied_because(denial), denial.to_string()),
            RefusalCause::Undecided(undecided) => (Event::Undecided, word(undecided), undecided.to_string()),
            RefusalCause::Awaiting(providers) => (Event::Undecided, AWAITING.to_owned(), awaiting(providers)),
        };
        let process = (self.peer.pid, self.peer.uid);
        let record = Record::of_process(event, self.at, id.to_string(), process, word(&self.level));
        let record = match &self.trace {
            Some(trace) => with_origin(record, &trace.evidence),
            None => record,
        };
        Record {
            unit: record.unit.clone().or_else(|| self.seen.unit.clone()),
            program: record.program.clone().or_else(|| self.seen.program.clone()),
            cgroup: record.cgroup.clone().or_else(|| self.seen.cgroup.clone()),
            reason: Some(reason),
            detail: Some(detail),
            ..record
        }
    }
}

/// The record of what happens to a credential that was issued by the decision of `trace`.
pub(in crate::entitlement) fn issuance(event: Event, issuance: &Issuance, trace: &Trace, at: SystemTime) -> Record {
    let process = (trace.peer.pid, trace.peer.uid);
    let decision = issuance.decision.to_string();
    let record = Record {
        issuance: Some(issuance.id.to_string()),
        kind: Some(issuance.kind.as_str().to_owned()),
        spiffe_id: Some(issuance.spiffe_id.to_string()),
        serial: Some(issuance.serial.clone()),
        not_after: Some(seconds(issuance.not_after)),
        entry: Some(issuance.entry.to_string()),
        ..Record::of_process(event, seconds(at), decision, process, word(&trace.level))
    };
    with_origin(record, &trace.evidence)
}

/// Adds what the evidence says of the unit, the program and the cgroup. What was withheld is named, too: a record tells
/// where to look, and proves nothing.
fn with_origin(record: Record, evidence: &EvidenceSet) -> Record {
    let fact = |kind| evidence.found(kind).map(Cow::into_owned);
    Record {
        unit: evidence.facts().iter().find_map(|fact| match &fact.selector {
            Selector::SystemdId(unit) => Some(unit.to_string()),
            _ => None,
        }),
        program: fact(SelectorKind::UnixPath),
        cgroup: fact(SelectorKind::Cgroup),
        ..record
    }
}

/// The stable word for evidence that has not come.
pub const AWAITING: &str = "awaiting_evidence";

/// Names the providers that have not answered.
#[must_use]
pub fn awaiting(providers: &Providers) -> String {
    let names: Vec<_> = providers.iter().map(ToString::to_string).collect();
    format!("no answer yet from: {}", names.join(", "))
}

/// A stable word for a denial: the contradiction's own where attestation found one.
#[must_use]
pub fn denied_because(denial: &Denial) -> String {
    match denial {
        Denial::BelowMinimum => "below_minimum".to_owned(),
        Denial::NoEntry => "no_entry".to_owned(),
        Denial::NotAttested(contradiction) => word(contradiction),
        Denial::NotThatId => "not_that_id".to_owned(),
        Denial::Audience { .. } => "audience".to_owned(),
        Denial::Withdrawn { .. } => "withdrawn".to_owned(),
    }
}

/// The word that a unit variant serialises to.
#[must_use]
pub fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// Seconds since 1970, negative before.
#[must_use]
pub fn seconds(at: SystemTime) -> f64 {
    match at.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}
