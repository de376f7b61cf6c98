//! What happens to callers, in the words of the audit log.

use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::attestation::PinnedProcess;
use crate::audit::Event;
use crate::audit::Record;
use crate::entitlement::ledger::refusals::Refusal;
use crate::entitlement::ledger::refusals::RefusalCause;
use crate::evidence::Providers;
use crate::identity::JwtSvid;
use crate::identity::X509Svid;
use crate::policy::DecisionId;
use crate::policy::Denial;
use crate::registration::entry::Origin;

/// A credential as a record shows it.
pub(in crate::entitlement) struct Credential<'a> {
    pub(in crate::entitlement) kind: &'static str,
    pub(in crate::entitlement) id: &'a str,
    pub(in crate::entitlement) serial: &'a str,
    pub(in crate::entitlement) not_after: SystemTime,
    pub(in crate::entitlement) entry: Option<&'a Origin>,
}

impl<'a> Credential<'a> {
    pub(in crate::entitlement) fn of_token(svid: &'a JwtSvid, entry: &'a Origin) -> Self {
        let JwtSvid { id, token_id, not_after, .. } = svid;
        Self { kind: "jwt", id: id.as_str(), serial: token_id, not_after: *not_after, entry: Some(entry) }
    }

    pub(in crate::entitlement) fn of(svid: &'a X509Svid, entry: Option<&'a Origin>) -> Self {
        Self { kind: "x509", id: svid.id.as_str(), serial: &svid.serial, not_after: svid.not_after, entry }
    }
}

impl Refusal {
    /// The record of this refusal.
    #[must_use]
    pub fn record(&self, id: DecisionId) -> Record {
        let (what, why, detail) = match &self.cause {
            RefusalCause::Denied(denial) => (Event::Denied, denied_because(denial), denial.to_string()),
            RefusalCause::Undecided(undecided) => (Event::Undecided, word(undecided), undecided.to_string()),
            RefusalCause::Awaiting(providers) => (Event::Undecided, AWAITING.to_owned(), awaiting(providers)),
        };
        Record {
            what,
            decision: id.to_string(),
            at: self.at,
            pid: self.peer.pid,
            uid: self.peer.uid,
            level: word(&self.level),
            kind: None,
            spiffe_id: None,
            serial: None,
            not_after: None,
            entry: None,
            why: Some(why),
            detail: Some(detail),
            suppressed: None,
        }
    }
}

/// The record of a credential that is issued, or has ended.
pub(in crate::entitlement) fn credential(
    what: Event,
    id: DecisionId,
    process: &PinnedProcess,
    credential: &Credential<'_>,
    at: SystemTime,
) -> Record {
    let peer = process.process().peer();
    Record {
        what,
        decision: id.to_string(),
        at: seconds(at),
        pid: peer.pid,
        uid: peer.uid,
        level: word(&process.process().level()),
        kind: Some(credential.kind.to_owned()),
        spiffe_id: Some(credential.id.to_owned()),
        serial: Some(credential.serial.to_owned()),
        not_after: Some(seconds(credential.not_after)),
        entry: credential.entry.map(Origin::to_string),
        why: None,
        detail: None,
        suppressed: None,
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
