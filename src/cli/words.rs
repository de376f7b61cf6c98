//! Numbers, times and foreign texts as a person reads them on a terminal of 80 columns.

use std::time::Duration;
use std::time::SystemTime;

use serde::Serialize;

use crate::time::Clock;
use crate::time::SystemClock;
use crate::time::duration::rounded;

/// The width that every screen keeps to.
pub(in crate::cli) const COLUMNS: usize = 80;

/// From `now` to `then`, both in seconds since 1970: `in 3m 2s`, `3m 2s ago`.
pub(in crate::cli) fn from_now(then: f64, now: f64) -> String {
    // The difference of two such numbers is off by less than a microsecond: 10 s must not become 9.
    let milliseconds = ((then - now).abs() * 1000.0).round();
    let between = rounded(Duration::try_from_secs_f64(milliseconds / 1000.0).unwrap_or_default());
    if then >= now { format!("in {between}") } else { format!("{between} ago") }
}

/// Seconds since 1970.
pub(in crate::cli) fn now() -> f64 {
    SystemClock.now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// `1 entry`, `2 entries`.
pub(in crate::cli) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// The word that stands for `value` in JSON.
pub(in crate::cli) fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Text from elsewhere, for a terminal.
///
/// SECURITY: a process chooses the name of its file, and could hide in it what rewrites the screen or turns the
/// direction of text. What is neither printable ASCII nor a letter or digit is shown by its number.
pub(in crate::cli) fn printable(text: &str) -> String {
    let shown = |c: char| matches!(c, ' '..='~') || c.is_alphanumeric();
    text.chars().map(|c| if shown(c) { c.to_string() } else { c.escape_unicode().to_string() }).collect()
}

/// `text` in lines of at most [`COLUMNS`], broken at blanks, every line but the first begun with `indent` blanks; the
/// first line already has `used` columns.
pub(in crate::cli) fn wrap(text: &str, used: usize, indent: usize) -> String {
    let (mut wrapped, mut column) = (String::new(), used);
    for word in text.split(' ') {
        let width = word.chars().count();
        let fresh = wrapped.is_empty() || column == indent;
        if !fresh && column + 1 + width > COLUMNS {
            wrapped.push('\n');
            wrapped.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else if !fresh {
            wrapped.push(' ');
            column += 1;
        }
        wrapped.push_str(word);
        column += width;
    }
    wrapped
}

/// A line of a screen: a title in twelve columns or more, and what there is to say, wrapped below itself.
pub(in crate::cli) fn row(title: &str, text: &str) -> String {
    let used = title.chars().count().max(11) + 1;
    format!("{title:<11} {}\n", wrap(text, used, 12))
}

/// A note of a screen: a text from elsewhere, which keeps its lines, below its title.
pub(in crate::cli) fn note(title: &str, text: &str) -> String {
    text.lines().enumerate().map(|(at, line)| row(if at == 0 { title } else { "" }, &printable(line))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_by_its_distance_from_now() {
        assert_eq!([from_now(70.0, 10.0), from_now(10.0, 70.0)], ["in 1m 0s", "1m 0s ago"]);
        let now = 1_795_978_921.902_351_2;
        assert_eq!([10.0 - 2e-7, 10.0 + 2e-7].map(|lead| from_now(now + lead, now)), ["in 10s", "in 10s"]);
    }

    #[test]
    fn no_line_is_wider_than_the_screen_unless_a_word_is() {
        let text = "word ".repeat(100);
        assert!(row("title", &text).lines().all(|line| line.len() <= COLUMNS), "{}", row("title", &text));
        assert!(row("title", &"x".repeat(200)).starts_with("title       xxx"));
    }

    #[test]
    fn a_character_that_could_rewrite_the_screen_is_escaped() {
        assert_eq!(printable("Käse \u{1b}[2J\n\u{202e}"), "Käse \\u{1b}[2J\\u{a}\\u{202e}");
    }
}
