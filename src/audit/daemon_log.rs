//! The daemon's log: `tracing` events as lines in the format and on the output of the audit records. The one place where
//! lines are limited by cause and caller.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;
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
use crate::audit::line::Priority;
use crate::audit::line::unix_seconds;
use crate::audit::lines::LineKind;
use crate::audit::lines::Lines;
use crate::audit::log_settings::LogSettings;
use crate::audit::rate_limit::Cause;
use crate::audit::rate_limit::LineLimit;
use crate::time::Clock;

/// The rooms that work for callers. A caller can repeat as often as it likes what makes them write a line.
const OF_CALLERS: [&str; 6] = ["endpoints", "entitlement", "issuance", "policy", "attestation", "fairness"];

/// A `tracing` layer that writes events at or above a level as lines.
///
/// SECURITY: a caller that is refused in a loop writes few lines. The field `uid` of an event names the caller.
#[derive(Debug)]
pub struct DaemonLog {
    lines: Arc<Lines>,
    settings: LogSettings,
    clock: Arc<dyn Clock>,
    limit: Mutex<LineLimit>,
    suppressed: Counter,
}

impl DaemonLog {
    /// Writes events to `lines` as `settings` say; `suppressed` counts those beyond the limit.
    #[must_use]
    pub fn new(lines: Arc<Lines>, settings: LogSettings, clock: Arc<dyn Clock>, suppressed: Counter) -> Self {
        Self { lines, settings, clock, limit: Mutex::default(), suppressed }
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
        let own = room(metadata).is_some();
        *metadata.level() <= if own { self.settings.level() } else { Level::ERROR }
    }

    /// How many lines of the cause were not written since the last one; `None` when this one is not written either. Lines
    /// at level debug are not limited: they are not written unless an operator asks for them.
    fn admit(&self, event: &Event<'_>) -> Option<u64> {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO {
            return Some(0);
        }
        let mut caller = Caller(None);
        event.record(&mut caller);
        let cause = Cause { callsite: metadata.callsite(), uid: caller.0 };
        let of_callers = room(metadata).is_none_or(|room| OF_CALLERS.contains(&room));
        self.limit.lock().unwrap_or_else(PoisonError::into_inner).admit(&cause, of_callers, Instant::now())
    }
}

/// The room that writes; `None` for a library.
fn room<'a>(metadata: &Metadata<'a>) -> Option<&'a str> {
    let mut path = metadata.target().split("::");
    let own = path.next() == Some(env!("CARGO_CRATE_NAME"));
    own.then(|| path.next().unwrap_or_default())
}

impl<S: Subscriber> Layer<S> for DaemonLog {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.lets_through(metadata)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(unwritten) = self.admit(event) else {
            self.suppressed.inc();
            return;
        };
        let at = unix_seconds(self.clock.now());
        let (word, priority) = match *event.metadata().level() {
            Level::ERROR => ("error", Priority::Error),
            Level::WARN => ("warn", Priority::Warning),
            Level::INFO => ("info", Priority::Info),
            Level::DEBUG => ("debug", Priority::Debug),
            Level::TRACE => ("trace", Priority::Debug),
        };
        let mut line = Line::new(self.settings.style(), priority, at, "level", word);
        event.record(&mut Fields(&mut line));
        if unwritten > 0 {
            line.number("unwritten", unwritten);
        }
        line.text("target", event.metadata().target());
        self.lines.write(LineKind::Other, line.finish().as_bytes());
    }
}

/// The uid of an event.
struct Caller(Option<u64>);

impl Visit for Caller {
    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "uid" {
            self.0 = Some(value);
        }
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
    use std::time::Duration;

    use super::*;
    use crate::audit::line::LineFormat;
    use crate::audit::metrics::DroppedLines;
    use crate::time::SystemClock;

    fn logged(format: LineFormat, level: Level, events: impl FnOnce()) -> String {
        logged_as(&LogSettings::new(format, level), events)
    }

    fn logged_as(settings: &LogSettings, events: impl FnOnce()) -> String {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let lines = Arc::new(Lines::to(writer, DroppedLines::default()).unwrap());
        let log = DaemonLog::new(lines, settings.clone(), Arc::new(SystemClock), Counter::default());
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

    fn refused(uid: u32) {
        tracing::warn!(target: "bonafide::endpoints::admin", uid, "refused");
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_is_refused_in_a_loop_writes_few_lines_and_the_next_counts_the_others() {
        let settings = LogSettings::default();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let lines = Arc::new(Lines::to(writer, DroppedLines::default()).unwrap());
        let suppressed = Counter::default();
        let log = DaemonLog::new(lines, settings, Arc::new(SystemClock), suppressed.clone());
        let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(log));
        (0..1000).for_each(|_| refused(1000));
        assert_eq!(suppressed.get(), 990);
        refused(1001);
        tracing::warn!(target: "bonafide::endpoints::admin", uid = 1000_u32, "another cause");
        assert_eq!(suppressed.get(), 990);
        tokio::time::advance(Duration::from_secs(10)).await;
        (0..2).for_each(|_| refused(1000));
        drop(guard);
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).unwrap();
        assert_eq!(text.matches("refused").count(), 12, "{text}");
        assert!(text.contains("another cause") && text.matches("unwritten=990").count() == 1, "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn hundreds_of_warnings_of_a_start_and_all_lines_at_level_debug_are_written() {
        for (target_is_of_callers, level, written) in
            [(false, Level::INFO, 500), (true, Level::INFO, 10), (true, Level::DEBUG, 500)]
        {
            let text = logged(LineFormat::Text, level, || {
                for _ in 0..500 {
                    match (target_is_of_callers, level) {
                        (false, _) => tracing::warn!(target: "bonafide::agent::start", "w"),
                        (true, Level::DEBUG) => tracing::debug!(target: "bonafide::endpoints", "d"),
                        (true, _) => tracing::error!(target: "h2::codec", "e"),
                    }
                }
            });
            assert_eq!(text.lines().count(), written, "{target_is_of_callers} {level}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn causes_and_callers_beyond_the_limit_share_ten_lines() {
        let text = logged(LineFormat::Text, Level::INFO, || (0..5000).for_each(refused));
        assert_eq!(text.lines().count(), 256 + 10);
    }
}
