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
    /// A credential is about to be handed over.
    Issued,
    /// A completed "no".
    Denied,
    /// A check that could not be completed.
    Undecided,
    /// What a live caller held has ended.
    Ended,
}

/// One record. Absent facts are left out of the text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What happened.
    pub what: Event,
    /// The decision's name, `d-…`.
    pub decision: String,
    /// Seconds since 1970.
    pub at: f64,
    /// Process id of the caller.
    pub pid: u32,
    /// User id of the caller.
    pub uid: u32,
    /// The kernel level of the proof.
    pub level: String,
    /// `x509`, `jwt` or `bundle`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The SPIFFE ID that was issued or ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<String>,
    /// Serial number of a certificate or `jti` of a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// When it ends, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<f64>,
    /// The entry it rests on, `file:line`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// Why: a stable word, for example `no_entry`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Why, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How many like it, of the same caller, were left out since the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppressed: Option<u64>,
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
    pub(in crate::audit) fn record(what: Event, uid: u32) -> Record {
        Record {
            what,
            decision: "d-000000000001".to_owned(),
            at: 1_700_000_000.0,
            pid: 42,
            uid,
            level: "full".to_owned(),
            kind: None,
            spiffe_id: None,
            serial: None,
            not_after: None,
            entry: None,
            why: None,
            detail: None,
            suppressed: None,
        }
    }
}
