//! Audit: one structured record per issue, delivery, denial, undecided check and end. A record holds text only; the
//! module that reports an event converts its own types into a [`Record`].

pub mod daemon_log;
pub mod journal;
pub mod last_hour;
mod line;
pub mod lines;
mod log_settings;
pub mod metrics;
mod rate_limit;

pub use journal::Journal;
pub use line::LineFormat;
pub use log_settings::LogSettings;

use serde::Deserialize;
use serde::Serialize;

use crate::audit::last_hour::RefusalCounts;

/// The event that a record reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// A new credential is about to be sent to a caller.
    Issued,
    /// A credential that another stream has received is about to be sent again.
    Delivered,
    /// A caller was denied: the check was completed.
    Denied,
    /// A check that could not be completed.
    Undecided,
    /// A credential of a live caller has ended.
    Ended,
}

/// One record: a line of the log whose keys are the names of these fields. Fields without a value are left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The event.
    pub event: Event,
    /// Its time in seconds since 1970; written as RFC 3339.
    pub time: f64,
    /// The id of the issuance, `i-…`.
    pub issuance: Option<String>,
    /// The id of the decision, `d-…`.
    pub decision: String,
    /// Process id of the caller.
    pub pid: u32,
    /// User id of the caller.
    pub uid: u32,
    /// The kernel level of the attestation.
    pub level: String,
    /// `x509` or `jwt`.
    pub kind: Option<String>,
    /// The SPIFFE ID of the credential.
    pub spiffe_id: Option<String>,
    /// Serial number of a certificate or `jti` of a token.
    pub serial: Option<String>,
    /// When the credential expires, in seconds since 1970; written as RFC 3339.
    pub not_after: Option<f64>,
    /// The entry that grants it: `file:line` or `server#id`.
    pub entry: Option<String>,
    /// The caller's systemd unit, if known.
    pub unit: Option<String>,
    /// The path of the caller's executable, if known; it may be unproven.
    pub program: Option<String>,
    /// The caller's cgroup, if known; it may be unproven.
    pub cgroup: Option<String>,
    /// The reason: a stable word, for example `no_entry`.
    pub reason: Option<String>,
    /// The reason as a sentence.
    pub detail: Option<String>,
    /// How many records of this kind were suppressed since the last one: of this user, or of all users that have no
    /// rate limit of their own.
    pub suppressed: Option<u64>,
}

impl Record {
    /// A record about a process, with the mandatory fields only.
    #[must_use]
    pub fn of_process(event: Event, time: f64, decision: String, (pid, uid): (u32, u32), level: String) -> Self {
        Self {
            event,
            time,
            issuance: None,
            decision,
            pid,
            uid,
            level,
            kind: None,
            spiffe_id: None,
            serial: None,
            not_after: None,
            entry: None,
            unit: None,
            program: None,
            cgroup: None,
            reason: None,
            detail: None,
            suppressed: None,
        }
    }
}

/// A destination of records.
pub trait Sink: Send + Sync + std::fmt::Debug {
    /// Writes a record; never waits for the reader of the log. A refusal may be counted in a later record instead.
    ///
    /// INVARIANT: when this returns for [`Event::Issued`], the kernel has the line, unless standard output accepts none at
    /// present. So a credential that is sent afterwards has its record, even if the daemon is killed in between. While
    /// standard output accepts none, the line waits in a queue that only records of credentials can fill.
    fn record(&self, record: Record);

    /// Its counters; zero for a sink that does not count.
    fn tally(&self) -> Tally {
        Tally::default()
    }
}

/// The counters of a sink, for `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// The refusals of the last hour.
    pub last_hour: RefusalCounts,
    /// Lines that standard output did not accept.
    pub dropped_lines: u64,
    /// The records among them.
    pub dropped_records: u64,
    /// Refusals that were counted in another record instead of being written.
    pub suppressed_records: u64,
    /// Other lines beyond what their cause and caller may have written.
    pub suppressed_lines: u64,
}

impl Event {
    /// The word that a record has for the event.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Delivered => "delivered",
            Self::Denied => "denied",
            Self::Undecided => "undecided",
            Self::Ended => "ended",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record with the mandatory fields only.
    pub(in crate::audit) fn record(event: Event, uid: u32) -> Record {
        Record::of_process(event, 1_700_000_000.0, "d-000000000001".to_owned(), (42, uid), "full".to_owned())
    }
}
