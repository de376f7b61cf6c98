//! How lines are written. Everybody who writes lines shares it, and a reload changes it while they do.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tracing::Level;

use crate::audit::line::LineFormat;
use crate::audit::line::LineStyle;

/// The format of lines, and the least important event that is written. Clones are the same settings.
#[derive(Debug, Clone)]
pub struct LogSettings {
    settings: Arc<ArcSwap<(LineFormat, Level)>>,
    for_journal: bool,
}

impl LogSettings {
    /// Lines in `format`, of events at `level` and above.
    #[must_use]
    pub fn new(format: LineFormat, level: Level) -> Self {
        Self { settings: Arc::new(ArcSwap::from_pointee((format, level))), for_journal: false }
    }

    /// The same, as the journal takes lines.
    #[must_use]
    pub fn for_journal(self, for_journal: bool) -> Self {
        Self { for_journal, ..self }
    }

    /// How a line looks.
    pub(in crate::audit) fn style(&self) -> LineStyle {
        LineStyle { format: self.settings.load().0, for_journal: self.for_journal }
    }

    /// The least important event that is written.
    #[must_use]
    pub fn level(&self) -> Level {
        self.settings.load().1
    }

    /// Changes both from the next line on.
    pub fn set(&self, format: LineFormat, level: Level) {
        self.settings.store(Arc::new((format, level)));
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
