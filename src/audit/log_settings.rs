//! How lines are written. Everybody who writes lines shares it, and a reload changes it while they do.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tracing::Level;

use crate::audit::line::LineFormat;

/// The format of lines, and the least important event that is written. Clones are the same settings.
#[derive(Debug, Clone)]
pub struct LogSettings(Arc<ArcSwap<(LineFormat, Level)>>);

impl LogSettings {
    /// Lines in `format`, of events at `level` and above.
    #[must_use]
    pub fn new(format: LineFormat, level: Level) -> Self {
        Self(Arc::new(ArcSwap::from_pointee((format, level))))
    }

    /// How a line looks.
    #[must_use]
    pub fn format(&self) -> LineFormat {
        self.0.load().0
    }

    /// The least important event that is written.
    #[must_use]
    pub fn level(&self) -> Level {
        self.0.load().1
    }

    /// Changes both from the next line on.
    pub fn set(&self, format: LineFormat, level: Level) {
        self.0.store(Arc::new((format, level)));
        // RACE: every callsite remembers whether it is enabled. One that asks after the store gets the new answer, and one
        // that asked before forgets the old one here.
        tracing::callsite::rebuild_interest_cache();
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self::new(LineFormat::Text, Level::INFO)
    }
}
