//! A figure and its output: the measured value, the machine's own limit, the promise, and whether it is met.

use std::time::Duration;

/// One measured number. INVARIANT: `ours` and `limit` are in `unit`.
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) ours: f64,
    pub(crate) limit: Option<f64>,
    pub(crate) promise: Promise,
    /// What else was seen, and whether what is promised of that holds.
    note: Option<(String, bool)>,
}

/// The README's promise for a figure.
#[derive(Clone, Copy)]
pub(crate) enum Promise {
    /// No promise; the figure is for information.
    Nothing,
    /// At most this much, in the figure's unit.
    AtMost(f64),
    /// At most this multiple of the machine's own limit.
    AtMostTimesTheLimit(f64),
    /// At least this share of the machine's own limit.
    AtLeastOfTheLimit(f64),
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, ours: f64, promise: Promise) -> Self {
        Self { name: name.into(), unit, ours, limit: None, promise, note: None }
    }

    pub(crate) fn beside(self, limit: f64) -> Self {
        Self { limit: Some(limit), ..self }
    }

    pub(crate) fn noting(self, note: String, holds: bool) -> Self {
        Self { note: Some((note, holds)), ..self }
    }

    fn ratio(&self) -> Option<f64> {
        self.limit.map(|limit| self.ours / limit)
    }

    /// `None` without a promise.
    fn is_met(&self) -> Option<bool> {
        let met = match (self.promise, self.ratio()) {
            (Promise::AtMost(most), _) => self.ours <= most,
            (Promise::AtMostTimesTheLimit(most), Some(ratio)) => ratio <= most,
            (Promise::AtLeastOfTheLimit(least), Some(ratio)) => ratio >= least,
            _ => return None,
        };
        Some(met && self.note.as_ref().is_none_or(|(_, holds)| *holds))
    }

    fn promised(&self) -> String {
        match self.promise {
            Promise::Nothing => "-".to_owned(),
            Promise::AtMost(most) => format!("<= {most:.0} {}", self.unit),
            Promise::AtMostTimesTheLimit(most) => format!("<= {most} x"),
            Promise::AtLeastOfTheLimit(least) => format!(">= {:.0} %", least * 100.0),
        }
    }

    /// Prints one line of text, or one JSON object.
    pub(crate) fn print(&self, as_json: bool) {
        let verdict = self.is_met().map(|met| if met { "met" } else { "missed" });
        if as_json {
            let line = serde_json::json!({
                "name": self.name, "unit": self.unit, "ours": self.ours, "limit": self.limit,
                "ratio": self.ratio(), "promised": self.promised(), "verdict": verdict,
                "note": self.note.as_ref().map(|(note, _)| note),
            });
            println!("{line}");
            return;
        }
        let limit = self.limit.map_or_else(|| "-".to_owned(), |limit| format!("{limit:.1}"));
        let ratio = self.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        println!(
            "{:<72} {:>10.1} {limit:>10} {:<5} {ratio:>7} {:>12} {:<6} {}",
            self.name,
            self.ours,
            self.unit,
            self.promised(),
            verdict.unwrap_or("-"),
            self.note.as_ref().map_or("", |(note, _)| note),
        );
    }
}

pub(crate) fn print_heading() {
    println!("{:<72} {:>10} {:>10} {:<5} {:>7} {:>12}", "figure", "ours", "limit", "unit", "ratio", "promised");
}

/// The value below which `share` of the samples lie.
pub(crate) fn percentile(samples: &mut [f64], share: f64) -> f64 {
    assert!(!samples.is_empty(), "nothing was measured");
    samples.sort_by(f64::total_cmp);
    samples[((samples.len() - 1) as f64 * share).round() as usize]
}

pub(crate) fn median(samples: &mut [f64]) -> f64 {
    percentile(samples, 0.5)
}

/// The median of each column: one row for each round.
pub(crate) fn medians<const COLUMNS: usize>(rounds: &[[f64; COLUMNS]]) -> [f64; COLUMNS] {
    std::array::from_fn(|column| median(&mut rounds.iter().map(|round| round[column]).collect::<Vec<_>>()))
}

pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
