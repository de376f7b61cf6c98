//! What the admin door says, as it stands in the JSON: the daemon fills these types in, the command line prints them.
//! Every time is in seconds since 1970 (`*_at`, `made`, `not_after`); every span is in the unit that its name ends with.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::attestation::host::sighting::Sighting;
use crate::authority::KeyKind;
use crate::authority::Stage;
use crate::evidence::Credentials;
use crate::evidence::EvidenceSet;
use crate::evidence::Level;
use crate::policy::Considered;
use crate::readiness::ActiveReason;
use crate::registration::entry::Origin;

/// The state in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// Serving, and all is as it should be.
    Healthy,
    /// Serving, but not as it should.
    Degraded,
    /// Not serving.
    NotReady,
}

/// Everything that `bonafide status` shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The worst of `reasons`.
    pub state: HealthState,
    /// The daemon's version.
    pub version: String,
    /// Whose identities it gives.
    pub trust_domain: String,
    /// When this was so.
    pub sampled_at: f64,
    /// Since it started.
    pub uptime_seconds: u64,
    /// What this kernel can prove of a caller.
    pub level: Level,
    /// Who signs.
    pub authority: AuthorityStatus,
    /// The own bundle first, then the foreign ones.
    pub bundles: Vec<BundleStatus>,
    /// What is handed out now.
    pub identities: IdentitiesStatus,
    /// How evidence is found.
    pub attestors: Vec<AttestorStatus>,
    /// What was refused.
    pub last_hour: LastHourStatus,
    /// Which configuration is in force.
    pub configuration: ConfigurationStatus,
    /// Where it listens.
    pub sockets: Vec<SocketStatus>,
    /// What did not reach the log.
    pub log: LogStatus,
    /// Who has to be restarted before the daemon is.
    #[serde(default)]
    pub replaced: Vec<ReplacedStatus>,
    /// Why the state is not healthy; empty when it is.
    pub reasons: Vec<ActiveReason>,
    /// What an operator may want to know although nothing is wrong.
    pub notes: Vec<String>,
}

/// Who signs, and until when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuthorityStatus {
    /// `embedded`, `disk` or `spire`.
    pub kind: String,
    /// When the active key, and with it everything it signs, ends; absent before the first key is made.
    pub not_after: Option<f64>,
    /// When the active X.509 key is replaced; absent where the keys are kept elsewhere.
    #[serde(default)]
    pub next_rotation_at: Option<f64>,
}

/// Everything that `bonafide authority show` shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuthorityReport {
    /// `embedded`, `disk` or `spire`.
    pub kind: String,
    /// `spiffe_sequence` of its bundle.
    pub sequence: Option<u64>,
    /// When this was so.
    pub sampled_at: f64,
    /// Its keys, those of X.509 first, and of each kind the oldest first.
    pub keys: Vec<KeyReport>,
    /// X509-SVIDs that a connected workload holds although their key has left the bundle.
    pub orphaned_svids: u64,
    /// Whether its keys are kept here, so that they can be rotated here.
    pub rotations: bool,
    /// Why a rotation is postponed, or why nothing is signed.
    pub reasons: Vec<ActiveReason>,
}

/// One key of the authority.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyReport {
    /// What it signs.
    pub kind: KeyKind,
    /// What names it in certificates, or the `kid` of tokens.
    pub id: String,
    /// Where it stands.
    pub stage: Stage,
    /// Whether an operator has said that it may have leaked.
    pub tainted: bool,
    /// When it was made.
    pub made: f64,
    /// When everything that it signs has ended.
    pub not_after: f64,
    /// When it goes on to the next stage, or out of the bundle.
    pub next_stage_at: f64,
    /// X509-SVIDs signed by it that a connected workload holds; one that several streams serve counts once.
    pub svids: u64,
    /// Tokens that it has signed since the daemon's start and that have not ended.
    pub tokens: u64,
}

/// What a rotation did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RotationReport {
    /// When.
    pub sampled_at: f64,
    /// The new keys, which are in the bundle now.
    pub published: Vec<KeyReport>,
    /// The keys that sign until the new ones are used.
    pub replaced: Vec<KeyReport>,
    /// The keys that are tainted now.
    pub tainted: Vec<KeyReport>,
    /// Live X509-SVIDs of tainted keys.
    pub svids_to_renew: u64,
    /// Tokens of tainted keys that have not ended, as far as they were signed since the daemon's start.
    pub tokens_to_end: u64,
}

/// One trust domain's bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BundleStatus {
    /// Whose.
    pub trust_domain: String,
    /// Root certificates in it.
    pub x509_authorities: usize,
    /// Token keys in it.
    pub jwt_authorities: usize,
    /// `spiffe_sequence`, where it has one.
    pub sequence: Option<u64>,
}

/// What is handed out now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IdentitiesStatus {
    /// Entries in force.
    pub entries: usize,
    /// Connections on the workload socket.
    pub connections: usize,
    /// X509-SVIDs that a connected workload holds.
    pub live: usize,
    /// When the next one is renewed.
    pub next_renewal_at: Option<f64>,
    /// When the first of them ends, were it not renewed.
    pub next_expiry_at: Option<f64>,
    /// Renewals that failed since the start.
    pub renewals_failed: u64,
    /// SVIDs since the start that live shorter than their entry says, because the authority's key ends.
    #[serde(default)]
    pub cut_short: u64,
}

/// One way of finding evidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttestorStatus {
    /// Its name, for example `host`.
    pub name: String,
    /// Half of the recent attestations took less.
    pub median_microseconds: Option<u64>,
    /// The slowest of the recent attestations.
    pub worst_microseconds: Option<u64>,
}

/// What was refused in the last hour.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastHourStatus {
    /// Completed "no"s.
    pub denials: u64,
    /// Checks that could not be completed, by cause.
    pub undecided: BTreeMap<String, u64>,
}

/// Which configuration is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadState {
    /// What the files say.
    Current,
    /// The last accepted one: the files are bad.
    LastGood,
    /// The one before a change that was seen on disk and waits for `bonafide reload`.
    HeldBack,
    /// The one before a change that only a restart can put in force.
    AwaitsRestart,
}

/// Which configuration is in force, and since when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigurationStatus {
    /// The file.
    pub file: String,
    /// How it relates to the files.
    pub state: ReloadState,
    /// When it was accepted.
    pub accepted_at: f64,
}

/// One door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketStatus {
    /// `workload`, `admin`, `health` or `metrics`.
    pub door: String,
    /// `unix:/path` or `address:port`.
    pub address: String,
    /// The mode of a Unix socket, for example `0666`.
    pub mode: Option<String>,
}

/// What did not reach the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatus {
    /// Lines that standard output did not take.
    pub dropped_lines: u64,
    /// The records among them.
    #[serde(default)]
    pub dropped_records: u64,
    /// Denials and undecided checks that were counted instead of written.
    pub suppressed_records: u64,
    /// Other lines that callers caused again and again.
    #[serde(default)]
    pub suppressed_lines: u64,
}

/// A process that holds identities by the path of a file that is not there any more: a package upgrade replaced it. They
/// last until the process or the daemon is restarted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplacedStatus {
    /// The process.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Its unit.
    pub unit: Option<String>,
    /// The path that its file had.
    pub program: String,
    /// The SPIFFE IDs that the daemon would not give it after a restart.
    pub loses: Vec<String>,
    /// The SPIFFE IDs that it would have all the same.
    pub keeps: Vec<String>,
}

/// Everything that `bonafide explain` shows of one process or one decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExplainReport {
    /// The decision's name, `d-…`; absent when the process was looked at for the operator.
    pub decision: Option<String>,
    /// When it was decided.
    pub decided_at: f64,
    /// Whom it is about.
    pub peer: Credentials,
    /// How it was pinned.
    pub level: Level,
    /// What was proven, and what was withheld and why.
    pub evidence: EvidenceSet,
    /// What `/proc` showed of a process right after it was refused. It proves nothing.
    #[serde(default, skip_serializing_if = "Sighting::is_empty")]
    pub seen: Sighting,
    /// How many entries there are.
    pub entries: usize,
    /// Whether the entries have changed since the decision; they are compared as they are now.
    #[serde(default)]
    pub entries_changed: bool,
    /// Each with what it lacks, nearest first; the first 200. None where the process was refused before there was evidence
    /// to compare.
    pub considered: Vec<Considered>,
    /// What came out.
    pub result: ExplainOutcome,
    /// The entry that lacked least, when none matched.
    pub nearest_miss: Option<Considered>,
    /// An entry, in TOML, that would match this process and as few others as the evidence allows.
    pub suggestion: Option<String>,
}

/// What came out of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum ExplainOutcome {
    /// It gets these SPIFFE IDs, the default one first.
    Permitted {
        /// The SPIFFE IDs.
        ids: Vec<String>,
    },
    /// A completed "no".
    Denied {
        /// A stable word, for example `no_entry`.
        why: String,
        /// A sentence.
        detail: String,
    },
    /// The check could not be completed.
    Undecided {
        /// A stable word, for example `timed_out`.
        cause: String,
        /// A sentence.
        detail: String,
    },
}

/// What came of a reload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// Whether the configuration that was read is the one in force now.
    pub swapped: bool,
    /// Entries that are new.
    pub added: Vec<EntryName>,
    /// Entries that are gone.
    pub removed: Vec<EntryName>,
    /// Entries with other selectors or terms than before.
    pub changed: Vec<EntryName>,
    /// Why nothing was swapped, one line each: `file:line:column: what; what to do`.
    pub problems: Vec<String>,
    /// Entries whose live identities would end: a change merely seen on disk waits for `reload` because of them.
    pub held_back: Vec<EntryName>,
    /// What was swapped in although it looks like a mistake, one line each.
    pub warnings: Vec<String>,
    /// What is in force later, and when, one line each.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// An entry, by name and place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryName {
    /// Its SPIFFE ID.
    pub id: String,
    /// Where it is written.
    pub origin: Origin,
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// A stable word, for example `no_such_process`.
    pub error: String,
    /// A sentence.
    pub detail: String,
}
