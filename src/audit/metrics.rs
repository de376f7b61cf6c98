//! What is counted of records and lines. Labels are words of ours, never of a caller's.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Counters of this room. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct AuditMetrics {
    /// Credentials that were handed over.
    pub issued: Counter,
    /// Denials by rule.
    pub denied: Family<Rule, Counter>,
    /// Undecided checks by cause.
    pub undecided: Family<UndecidedLabel, Counter>,
    /// Refusals that were counted in another record instead of written.
    pub suppressed: Counter,
    /// Lines that standard output did not take.
    pub dropped: Counter,
}

/// The rule that said no.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Rule {
    /// Its stable word.
    pub rule: String,
}

/// Why a check could not be completed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UndecidedLabel {
    /// Its stable word.
    pub cause: String,
}

impl AuditMetrics {
    /// Puts the counters up for export.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("bonafide_issued", "Credentials handed over", self.issued.clone());
        registry.register("bonafide_denied", "Denials by rule", self.denied.clone());
        registry.register("bonafide_undecided", "Checks that could not be completed, by cause", self.undecided.clone());
        let suppressed = "Refusals that were counted in another record instead of written";
        registry.register("bonafide_suppressed_records", suppressed, self.suppressed.clone());
        registry.register(
            "bonafide_dropped_log_lines",
            "Lines that standard output did not take",
            self.dropped.clone(),
        );
    }
}
