//! Counters of records and lines. SECURITY: a label is always one of the daemon's own words, never text from a caller.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// The counters of the audit module. Clones share their counts.
#[derive(Debug, Clone, Default)]
pub struct AuditMetrics {
    /// Credentials that were issued.
    pub issued: Counter,
    /// Denials by rule.
    pub denied: Family<Rule, Counter>,
    /// Undecided checks by cause.
    pub undecided: Family<UndecidedLabel, Counter>,
    /// Refusals that were counted in another record instead of being written.
    pub suppressed: Counter,
    /// Lines beyond what their cause and caller may have written.
    pub suppressed_lines: Counter,
    /// Lines that standard output did not accept.
    pub dropped: DroppedLines,
}

/// Lines that were lost. Clones share their counts.
#[derive(Debug, Clone, Default)]
pub struct DroppedLines {
    /// All of them.
    pub all: Counter,
    /// The records among them.
    pub records: Counter,
}

impl DroppedLines {
    /// Counts a lost line.
    pub(in crate::audit) fn count(&self, is_record: bool) {
        self.all.inc();
        if is_record {
            self.records.inc();
        }
    }
}

/// The label of a denial: its rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Rule {
    /// Its stable word.
    pub rule: String,
}

/// The label of an undecided check: its cause.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UndecidedLabel {
    /// Its stable word.
    pub cause: String,
}

impl AuditMetrics {
    /// Registers the counters for export.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("bonafide_issued", "Credentials issued", self.issued.clone());
        registry.register("bonafide_denied", "Denials by rule", self.denied.clone());
        registry.register("bonafide_undecided", "Checks that could not be completed, by cause", self.undecided.clone());
        let suppressed = "Refusals that were counted in another record instead of being written";
        registry.register("bonafide_suppressed_records", suppressed, self.suppressed.clone());
        let suppressed = "Lines beyond what their cause and caller may have written";
        registry.register("bonafide_suppressed_log_lines", suppressed, self.suppressed_lines.clone());
        let dropped = "Lines that standard output did not accept, records among them";
        registry.register("bonafide_dropped_log_lines", dropped, self.dropped.all.clone());
        let dropped = "Records that standard output did not accept";
        registry.register("bonafide_dropped_records", dropped, self.dropped.records.clone());
    }
}
