//! One structured record per issue, denial, undecided check and end. Knows words, not the things behind them: whoever
//! decides converts its own types into a [`Record`].

pub mod daemon_log;
pub mod journal;
pub mod last_hour;
mod line;
pub mod lines;
pub mod metrics;
mod rate_limit;

pub use journal::Journal;
pub use line::LineFormat;

use serde::Deserialize;
use serde::Serialize;

use crate::audit::last_hour::RefusalCounts;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// A new credential is about to be handed over.
    Issued,
    /// A credential that another stream was handed already is about to be handed over once more.
    Delivered,
    /// A completed "no".
    Denied,
    /// A check that could not be completed.
    Undecided,
    /// What a live caller held has ended.
    Ended,
}

/// One record: a line of the log, whose keys are the names of these fields. Absent facts are left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What happened.
    pub event: Event,
    /// When, in seconds since 1970; written as RFC 3339.
    pub time: f64,
    /// The issuance that it is about, `i-…`.
    pub issuance: Option<String>,
    /// The decision behind it, `d-…`.
    pub decision: String,
    /// Process id of the caller.
    pub pid: u32,
    /// User id of the caller.
    pub uid: u32,
    /// The kernel level of the proof.
    pub level: String,
    /// `x509` or `jwt`.
    pub kind: Option<String>,
    /// The SPIFFE ID of the credential.
    pub spiffe_id: Option<String>,
    /// Serial number of a certificate or `jti` of a token.
    pub serial: Option<String>,
    /// When it ends, in seconds since 1970; written as RFC 3339.
    pub not_after: Option<f64>,
    /// The entry that gave it: `file:line`, or `server#id`.
    pub entry: Option<String>,
    /// The caller's systemd unit, where it is known.
    pub unit: Option<String>,
    /// The path of the caller's executable, where it is known; proven or not.
    pub program: Option<String>,
    /// The caller's cgroup, where it is known; proven or not.
    pub cgroup: Option<String>,
    /// Why: a stable word, for example `no_entry`.
    pub reason: Option<String>,
    /// Why, in a sentence.
    pub detail: Option<String>,
    /// How many like it, of the same caller, were left out since the last one.
    pub suppressed: Option<u64>,
}

impl Record {
    /// A record of something that happened to a process, with nothing but what each has.
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

/// Where records go.
pub trait Sink: Send + Sync + std::fmt::Debug {
    /// Writes a record down; never waits for a reader. Refusals of one caller may be counted in a later record instead.
    ///
    /// INVARIANT: when this returns for [`Event::Issued`], the line has left the process, unless standard output is not
    /// taking lines. So a credential that is handed over afterwards has its record, whatever ends the daemon meanwhile.
    fn record(&self, record: Record);

    /// What it has counted; nothing where it does not count.
    fn tally(&self) -> Tally {
        Tally::default()
    }
}

/// What a sink has counted, for `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// What was refused in the last hour.
    pub last_hour: RefusalCounts,
    /// Lines that standard output did not take.
    pub dropped_lines: u64,
    /// Refusals that were counted in another record instead of written.
    pub suppressed_records: u64,
}

impl Event {
    /// The word of a record.
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

    /// A record with nothing but what each must have.
    pub(in crate::audit) fn record(event: Event, uid: u32) -> Record {
        Record::of_process(event, 1_700_000_000.0, "d-000000000001".to_owned(), (42, uid), "full".to_owned())
    }
}
