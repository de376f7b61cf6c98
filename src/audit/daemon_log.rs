//! The daemon's log: `tracing` events as lines in the format and on the output of the audit records.

use std::fmt;
use std::sync::Arc;

use tracing::Event;
use tracing::Level;
use tracing::Metadata;
use tracing::Subscriber;
use tracing::field::Field;
use tracing::field::Visit;
use tracing::subscriber::SetGlobalDefaultError;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::layer::SubscriberExt;

use crate::audit::line::Line;
use crate::audit::line::unix_seconds;
use crate::audit::lines::Lines;
use crate::audit::log_settings::LogSettings;
use crate::time::Clock;

/// A `tracing` layer that writes events at or above a level as lines.
#[derive(Debug)]
pub struct DaemonLog {
    lines: Arc<Lines>,
    settings: LogSettings,
    clock: Arc<dyn Clock>,
}

impl DaemonLog {
    /// Writes events to `lines` as `settings` say.
    #[must_use]
    pub fn new(lines: Arc<Lines>, settings: LogSettings, clock: Arc<dyn Clock>) -> Self {
        Self { lines, settings, clock }
    }

    /// Makes this the global `tracing` subscriber.
    ///
    /// # Errors
    /// When the process already has one.
    pub fn install(self) -> Result<(), SetGlobalDefaultError> {
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(self))
    }

    /// SECURITY: libraries log headers and frames of peers at low levels. They log as a warning what any peer can
    /// repeat hundreds of times a second, for example an unsolicited PING ACK with its bytes. So only their errors are
    /// logged.
    fn lets_through(&self, metadata: &Metadata<'_>) -> bool {
        let own = metadata.target().split("::").next() == Some(env!("CARGO_CRATE_NAME"));
        *metadata.level() <= if own { self.settings.level() } else { Level::ERROR }
    }
}

impl<S: Subscriber> Layer<S> for DaemonLog {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.lets_through(metadata)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let at = unix_seconds(self.clock.now());
        let word = event.metadata().level().as_str().to_ascii_lowercase();
        let mut line = Line::new(self.settings.format(), at, "level", &word);
        event.record(&mut Fields(&mut line));
        line.text("target", event.metadata().target());
        self.lines.write(line.finish().as_bytes());
    }
}

struct Fields<'a>(&'a mut Line);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.text(field.name(), &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.text(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.number(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.number(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.number(field.name(), value);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use prometheus_client::metrics::counter::Counter;

    use super::*;
    use crate::audit::line::LineFormat;
    use crate::time::SystemClock;

    fn logged(format: LineFormat, level: Level, events: impl FnOnce()) -> String {
        logged_as(&LogSettings::new(format, level), events)
    }

    fn logged_as(settings: &LogSettings, events: impl FnOnce()) -> String {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let lines = Arc::new(Lines::to(writer, Counter::default()).unwrap());
        let log = DaemonLog::new(lines, settings.clone(), Arc::new(SystemClock));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log), events);
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn an_event_with_control_characters_is_one_line_of_json() {
        let text = logged(LineFormat::Json, Level::INFO, || {
            tracing::info!(path = "/a\nb", count = 3_u64, "said \u{1b}[31m {}", "red");
        });
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        assert_eq!((&line["path"], &line["count"]), (&"/a\nb".into(), &3.into()));
        assert_eq!((&line["level"], &line["message"]), (&"info".into(), &"said \u{1b}[31m red".into()));
    }

    #[test]
    fn libraries_log_only_errors_even_at_level_trace() {
        let text = logged(LineFormat::Text, Level::TRACE, || {
            tracing::trace!("own");
            tracing::warn!(target: "h2::codec", "headers of a peer");
            tracing::error!(target: "h2::codec", "trouble");
        });
        assert!(text.contains("own") && text.contains("trouble") && !text.contains("headers"), "{text}");
    }

    #[test]
    fn a_changed_level_and_format_count_from_the_next_line_on() {
        let settings = LogSettings::default();
        let text = logged_as(&settings, || {
            for at in 0..3 {
                tracing::debug!("hidden or seen {at}");
                match at {
                    0 => settings.set(LineFormat::Json, Level::DEBUG),
                    _ => settings.set(LineFormat::Text, Level::INFO),
                }
            }
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.starts_with('{') && text.contains("hidden or seen 1"), "{text}");
    }
}
