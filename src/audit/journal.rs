//! The journal: counts records, limits the rate of refusals, and writes each record as one line.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use crate::audit::Event;
use crate::audit::Record;
use crate::audit::Sink;
use crate::audit::Tally;
use crate::audit::last_hour::LastHour;
use crate::audit::line::Line;
use crate::audit::line::LineStyle;
use crate::audit::line::Priority;
use crate::audit::lines::LineKind;
use crate::audit::lines::Lines;
use crate::audit::log_settings::LogSettings;
use crate::audit::metrics::AuditMetrics;
use crate::audit::metrics::Rule;
use crate::audit::metrics::UndecidedLabel;
use crate::audit::rate_limit::RateLimit;

/// How often suppressed records are written that no later record has counted.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);

/// The sink of the daemon: records as lines on standard output.
#[derive(Debug)]
pub struct Journal {
    lines: Arc<Lines>,
    settings: LogSettings,
    metrics: AuditMetrics,
    refusals: Mutex<(RateLimit, LastHour)>,
}

impl Journal {
    /// Writes records to `lines` as `settings` say, and counts them in `metrics`.
    #[must_use]
    pub fn new(lines: Arc<Lines>, settings: LogSettings, metrics: AuditMetrics) -> Self {
        Self { lines, settings, metrics, refusals: Mutex::default() }
    }

    /// Writes suppressed records that no later record has counted, every few seconds. Runs until it is dropped.
    pub async fn flush_suppressed(&self) {
        loop {
            tokio::time::sleep(FLUSH_INTERVAL).await;
            self.release(false);
        }
    }

    /// Writes all suppressed records and waits until the output has accepted every line, at most for `limit`. To be
    /// called last, at the end of the daemon.
    pub fn close(&self, limit: Duration) {
        self.release(true);
        self.lines.drain(limit);
    }

    fn release(&self, even_if_early: bool) {
        let released =
            self.refusals.lock().unwrap_or_else(PoisonError::into_inner).0.release(Instant::now(), even_if_early);
        for record in released {
            self.metrics.suppressed.inc_by(record.suppressed.unwrap_or_default());
            self.write(&record);
        }
    }

    fn write(&self, record: &Record) {
        let kind = match record.event {
            Event::Issued | Event::Delivered | Event::Ended => LineKind::CredentialRecord,
            Event::Denied | Event::Undecided => LineKind::RefusalRecord,
        };
        self.lines.write(kind, format_line(record, self.settings.style()).as_bytes());
    }

    /// Counts a refusal. Returns the record to write now, if any.
    fn admit_refusal(&self, record: Record) -> Option<Record> {
        let now = Instant::now();
        let reason = record.reason.clone().unwrap_or_default();
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if record.event == Event::Denied {
            refusals.1.count(now, |minute| minute.denials += 1);
            self.metrics.denied.get_or_create(&Rule { rule: reason }).inc();
        } else {
            refusals.1.count(now, |minute| *minute.undecided.entry(reason.clone()).or_default() += 1);
            self.metrics.undecided.get_or_create(&UndecidedLabel { cause: reason }).inc();
        }
        let admitted = refusals.0.admit(record, now);
        if let Some(suppressed) = admitted.as_ref().and_then(|record| record.suppressed) {
            self.metrics.suppressed.inc_by(suppressed);
        }
        admitted
    }
}

impl Sink for Journal {
    fn record(&self, record: Record) {
        let to_write = match record.event {
            Event::Denied | Event::Undecided => self.admit_refusal(record),
            Event::Issued => {
                self.metrics.issued.inc();
                Some(record)
            }
            Event::Delivered | Event::Ended => Some(record),
        };
        if let Some(record) = to_write {
            self.write(&record);
        }
    }

    fn tally(&self) -> Tally {
        Tally {
            last_hour: self.refusals.lock().unwrap_or_else(PoisonError::into_inner).1.sum(Instant::now()),
            dropped_lines: self.metrics.dropped.all.get(),
            dropped_records: self.metrics.dropped.records.get(),
            suppressed_records: self.metrics.suppressed.get(),
            suppressed_lines: self.metrics.suppressed_lines.get(),
        }
    }
}

/// The record as one line.
fn format_line(record: &Record, style: LineStyle) -> String {
    let priority = match record.event {
        Event::Issued | Event::Delivered | Event::Ended => Priority::Info,
        Event::Denied => Priority::Notice,
        Event::Undecided => Priority::Warning,
    };
    let mut line = Line::new(style, priority, record.time, "event", record.event.as_str());
    if let Some(issuance) = &record.issuance {
        line.whole("issuance", issuance);
    }
    line.whole("decision", &record.decision);
    line.number("pid", record.pid);
    line.number("uid", record.uid);
    line.text("level", &record.level);
    let whole = [("kind", &record.kind), ("spiffe_id", &record.spiffe_id), ("serial", &record.serial)];
    for (key, value) in whole {
        if let Some(value) = value {
            line.whole(key, value);
        }
    }
    if let Some(not_after) = record.not_after {
        line.time("not_after", not_after);
    }
    let texts = [
        ("entry", &record.entry),
        ("unit", &record.unit),
        ("program", &record.program),
        ("cgroup", &record.cgroup),
        ("reason", &record.reason),
        ("detail", &record.detail),
    ];
    for (key, value) in texts {
        if let Some(value) = value {
            line.text(key, value);
        }
    }
    if let Some(suppressed) = record.suppressed {
        line.number("suppressed", suppressed);
    }
    line.finish()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use super::*;
    use crate::audit::LineFormat;
    use crate::audit::tests::record;

    fn journal(format: LineFormat) -> (Journal, AuditMetrics, File) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let metrics = AuditMetrics::default();
        let lines = Arc::new(Lines::to(writer, metrics.dropped.clone()).unwrap());
        let settings = LogSettings::new(format, tracing::Level::INFO);
        (Journal::new(lines, settings, metrics.clone()), metrics, reader.into())
    }

    fn read_all(journal: Journal, mut reader: File) -> String {
        drop(journal);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    }

    fn full(event: Event) -> Record {
        Record {
            kind: Some("x509".to_owned()),
            spiffe_id: Some("spiffe://example.org/web".to_owned()),
            serial: Some("0a1b".to_owned()),
            not_after: Some(1_700_003_600.0),
            entry: Some("/etc/bonafide/bonafide.toml:9".to_owned()),
            issuance: Some("i-000000000002".to_owned()),
            unit: Some("web.service".to_owned()),
            program: Some("/usr/bin/web".to_owned()),
            cgroup: Some("/system.slice/web.service".to_owned()),
            reason: Some("renewed".to_owned()),
            ..record(event, 1000)
        }
    }

    #[test]
    fn a_record_is_one_json_object_of_stable_keys() {
        let (journal, _, reader) = journal(LineFormat::Json);
        journal.record(full(Event::Issued));
        let text = read_all(journal, reader);
        assert_eq!(text.matches('\n').count(), 1);
        let expected = serde_json::json!({
            "time": "2023-11-14T22:13:20.000Z", "event": "issued", "issuance": "i-000000000002",
            "decision": "d-000000000001", "pid": 42, "uid": 1000, "level": "full", "kind": "x509",
            "spiffe_id": "spiffe://example.org/web", "serial": "0a1b", "not_after": "2023-11-14T23:13:20.000Z",
            "entry": "/etc/bonafide/bonafide.toml:9", "unit": "web.service", "program": "/usr/bin/web",
            "cgroup": "/system.slice/web.service", "reason": "renewed",
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), expected);
    }

    #[test]
    fn a_text_line_has_every_field_of_its_record() {
        let (journal, _, reader) = journal(LineFormat::Text);
        journal.record(full(Event::Issued));
        assert_eq!(
            read_all(journal, reader),
            "2023-11-14T22:13:20.000Z issued issuance=i-000000000002 decision=d-000000000001 pid=42 uid=1000 level=full \
             kind=x509 spiffe_id=spiffe://example.org/web serial=0a1b not_after=2023-11-14T23:13:20.000Z \
             entry=/etc/bonafide/bonafide.toml:9 unit=web.service program=/usr/bin/web \
             cgroup=/system.slice/web.service reason=renewed\n"
        );
    }

    #[test]
    fn the_record_of_a_credential_is_written_when_record_returns() {
        let (journal, metrics, mut reader) = journal(LineFormat::Text);
        for _ in 0..100 {
            journal.record(full(Event::Issued));
            let mut line = [0; 4096];
            let read = reader.read(&mut line).unwrap();
            assert!(line[..read].ends_with(b"\n"));
        }
        assert_eq!((metrics.issued.get(), metrics.suppressed.get(), metrics.dropped.all.get()), (100, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_counted_exactly_by_their_reason() {
        let (journal, metrics, reader) = journal(LineFormat::Json);
        for _ in 0..500 {
            journal.record(Record { reason: Some("no_entry".to_owned()), ..record(Event::Denied, 1000) });
            journal.record(Record { reason: Some("timed_out".to_owned()), ..record(Event::Undecided, 1000) });
        }
        let hour = journal.tally().last_hour;
        assert_eq!((hour.denials, hour.undecided["timed_out"]), (500, 500));
        assert_eq!(metrics.denied.get_or_create(&Rule { rule: "no_entry".to_owned() }).get(), 500);
        assert_eq!(metrics.undecided.get_or_create(&UndecidedLabel { cause: "timed_out".to_owned() }).get(), 500);
        journal.close(Duration::from_secs(5));
        let records: Vec<serde_json::Value> =
            read_all(journal, reader).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let suppressed = |record: &serde_json::Value| record["suppressed"].as_u64().unwrap_or_default();
        assert_eq!(records.iter().map(|record| 1 + suppressed(record)).sum::<u64>(), 1000);
        assert_eq!(records.iter().map(suppressed).sum::<u64>(), metrics.suppressed.get());
        assert!(records.len() < 50);
    }
}
