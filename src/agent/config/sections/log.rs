//! `[log]`: how the daemon writes to standard output.

use crate::agent::config::reader::Reader;
use crate::audit::LineFormat;

/// How much is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// How a line looks.
    pub format: LineFormat,
    /// The least important line that is written.
    pub level: tracing::Level,
}

pub(in crate::agent::config) fn read(top: &mut Reader<'_, '_>) -> Log {
    let mut log = top.table("log", "[log]");
    let format = log.word("format", &[("text", LineFormat::Text), ("json", LineFormat::Json)], &[]);
    let levels = [
        ("error", tracing::Level::ERROR),
        ("warn", tracing::Level::WARN),
        ("info", tracing::Level::INFO),
        ("debug", tracing::Level::DEBUG),
        ("trace", tracing::Level::TRACE),
    ];
    let level = log.word("level", &levels, &[]);
    log.finish();
    Log { format: format.unwrap_or(LineFormat::Text), level: level.unwrap_or(tracing::Level::INFO) }
}
