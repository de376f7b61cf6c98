//! Builds one line of text or JSON, field by field. For any value of a field, the result is one line of printable
//! ASCII.

use std::fmt::Display;
use std::fmt::Write;
use std::time::Duration;
use std::time::SystemTime;

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// The most bytes of a free text. SPIFFE IDs and serials are limited by their own grammar.
const MAX_TEXT: usize = 256;

/// The format of the log: `[log] format`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LineFormat {
    /// `time event key=value …`
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// How urgent a line is, in the words of the journal (SPEC: sd-daemon(3)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::audit) enum Priority {
    Error = 3,
    Warning = 4,
    Notice = 5,
    Info = 6,
    Debug = 7,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::audit) struct LineStyle {
    pub(in crate::audit) format: LineFormat,
    /// The journal reads it: the line begins with its priority. A line of text has no time, which the journal knows; a
    /// JSON object keeps all its keys.
    pub(in crate::audit) for_journal: bool,
}

/// A line under construction.
#[derive(Debug)]
pub(in crate::audit) struct Line {
    format: LineFormat,
    text: String,
}

impl Line {
    /// A line with the time `at`, in seconds since 1970, and `word` as the value of `key`. The text format writes
    /// `word` without its key.
    pub(in crate::audit) fn new(style: LineStyle, priority: Priority, at: f64, key: &str, word: &str) -> Self {
        let mut line = Self { format: style.format, text: String::with_capacity(256) };
        if style.for_journal {
            let _infallible = write!(line.text, "<{}>", priority as u8);
        }
        match style.format {
            LineFormat::Text => {
                if !style.for_journal {
                    line.text.push_str(&rfc3339(at));
                    line.text.push(' ');
                }
                push_escaped(&mut line.text, word);
            }
            LineFormat::Json => {
                line.text.push('{');
                line.time("time", at);
                line.whole(key, word);
            }
        }
        line
    }

    /// A field of free text, cut to [`MAX_TEXT`] bytes.
    pub(in crate::audit) fn text(&mut self, key: &str, value: &str) {
        if value.len() <= MAX_TEXT {
            return self.whole(key, value);
        }
        // UTF-8: among any four consecutive positions, at least one is a character boundary.
        let beginning = (MAX_TEXT - 3..=MAX_TEXT).rev().find_map(|cut| value.get(..cut)).unwrap_or_default();
        self.whole(key, &format!("{beginning}..."));
    }

    /// A field of text whose length is bounded by its grammar.
    pub(in crate::audit) fn whole(&mut self, key: &str, value: &str) {
        self.key(key);
        let bare = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'=');
        if self.format == LineFormat::Text && !value.is_empty() && value.bytes().all(bare) {
            self.text.push_str(value);
            return;
        }
        self.text.push('"');
        push_escaped(&mut self.text, value);
        self.text.push('"');
    }

    /// A number.
    pub(in crate::audit) fn number(&mut self, key: &str, value: impl Display) {
        self.key(key);
        let _infallible = write!(self.text, "{value}");
    }

    /// A time in the format of RFC 3339.
    pub(in crate::audit) fn time(&mut self, key: &str, at: f64) {
        self.whole(key, &rfc3339(at));
    }

    /// The finished line, with its newline.
    pub(in crate::audit) fn finish(mut self) -> String {
        self.text.push_str(if self.format == LineFormat::Json { "}\n" } else { "\n" });
        self.text
    }

    fn key(&mut self, key: &str) {
        match self.format {
            LineFormat::Text => {
                self.text.push(' ');
                push_escaped(&mut self.text, key);
                self.text.push('=');
            }
            LineFormat::Json => {
                self.text.push_str(if self.text.ends_with('{') { "\"" } else { ",\"" });
                push_escaped(&mut self.text, key);
                self.text.push_str("\":");
            }
        }
    }
}

/// Seconds since 1970; 0 for an earlier time.
pub(in crate::audit) fn unix_seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// RFC 3339 with three digits after the second, so that all times in a log have one length.
fn rfc3339(at: f64) -> String {
    const FORMAT: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let since = Duration::try_from_secs_f64(at).unwrap_or_default();
    let milliseconds = Duration::from_millis(u64::try_from(since.as_millis()).unwrap_or_default());
    OffsetDateTime::UNIX_EPOCH
        .checked_add(time::Duration::try_from(milliseconds).unwrap_or_default())
        .and_then(|at| at.format(FORMAT).ok())
        .unwrap_or_else(|| format!("{at:.3}"))
}

/// SECURITY: a path or an audience with a newline could forge a line. One with an escape sequence or a bidirectional
/// control character could change what a terminal shows. So all but printable ASCII is written as `\uXXXX` in UTF-16,
/// as in JSON.
fn push_escaped(out: &mut String, text: &str) {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')) {
        return out.push_str(text);
    }
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _infallible = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn style(format: LineFormat) -> LineStyle {
        LineStyle { format, for_journal: false }
    }

    #[test]
    fn a_hostile_text_stays_in_its_field() {
        let hostile = [
            "a\nissued pid=1",
            "\r\u{1b}[2J",
            "\u{9b}31m",
            "\u{202e}txt.exe",
            "\u{2028}",
            "\"} {\"event\":\"issued\"",
            "back\\slash",
            "\0",
            "é😀",
        ];
        for text in hostile {
            for format in [LineFormat::Text, LineFormat::Json] {
                let mut line = Line::new(style(format), Priority::Notice, 1.5, "event", "denied");
                line.text("detail", text);
                let line = line.finish();
                assert!(line.trim_end_matches('\n').bytes().all(|byte| matches!(byte, b' '..=b'~')), "{line:?}");
            }
            let mut line = Line::new(style(LineFormat::Json), Priority::Notice, 1.5, "event", "denied");
            line.text("detail", text);
            let read: serde_json::Value = serde_json::from_str(&line.finish()).unwrap();
            assert_eq!(
                read,
                serde_json::json!({"time": "1970-01-01T00:00:01.500Z", "event": "denied", "detail": text})
            );
        }
    }

    #[test]
    fn a_text_over_256_bytes_is_truncated_and_marked() {
        let mut line = Line::new(style(LineFormat::Text), Priority::Notice, 0.0, "event", "denied");
        line.text("detail", &"ä".repeat(1000));
        assert_eq!(line.finish().matches("\\u00e4").count(), 128);
        let mut line = Line::new(style(LineFormat::Text), Priority::Notice, 0.0, "event", "denied");
        line.text("detail", &"x".repeat(257));
        assert!(line.finish().ends_with("x...\n"));
    }

    #[test]
    fn a_text_line_begins_with_time_and_word() {
        let line = Line::new(style(LineFormat::Text), Priority::Notice, 1_700_000_000.25, "event", "issued").finish();
        assert_eq!(line, "2023-11-14T22:13:20.250Z issued\n");
    }

    #[test]
    fn the_journal_gets_the_priority_and_no_time_in_text() {
        for (format, expected) in [
            (LineFormat::Text, "<4>warn message=\"a b\"\n"),
            (LineFormat::Json, "<4>{\"time\":\"1970-01-01T00:00:01.500Z\",\"level\":\"warn\",\"message\":\"a b\"}\n"),
        ] {
            let mut line = Line::new(LineStyle { format, for_journal: true }, Priority::Warning, 1.5, "level", "warn");
            line.text("message", "a b");
            assert_eq!(line.finish(), expected);
        }
    }
}
