//! Limits the lines about refused callers: a caller can be refused as often as it likes, and the log is for the others.

use std::collections::HashMap;
use std::mem::Discriminant;
use std::mem::discriminant;
use std::time::Duration;

use tokio::time::Instant;

use crate::endpoints::admin::operators::NotAdmitted;

/// How long the next line about the same user and cause waits.
const PAUSE: Duration = Duration::from_secs(10);

/// The most users and causes that are told apart; all others share one line.
const MAX_KEYS: usize = 256;

type Key = Option<(u32, Discriminant<NotAdmitted>)>;

/// When the last line was written, by user and cause.
#[derive(Debug, Default)]
pub(in crate::endpoints::admin) struct RefusalLog(HashMap<Key, LastLine>);

#[derive(Debug)]
struct LastLine {
    at: Instant,
    unwritten: u64,
}

impl RefusalLog {
    /// Whether a line is written now, and how many of its kind were not since the last one.
    pub(in crate::endpoints::admin) fn admit(&mut self, uid: u32, cause: &NotAdmitted, now: Instant) -> Option<u64> {
        let own = Some((uid, discriminant(cause)));
        let is_over = |line: &LastLine| now >= line.at + PAUSE;
        if self.0.len() >= MAX_KEYS && !self.0.contains_key(&own) {
            self.0.retain(|_, line| !is_over(line) || line.unwritten > 0);
        }
        let key = if self.0.len() < MAX_KEYS || self.0.contains_key(&own) { own } else { None };
        match self.0.get_mut(&key) {
            Some(line) if !is_over(line) => {
                line.unwritten += 1;
                None
            }
            last => {
                let unwritten = last.map_or(0, |line| line.unwritten);
                self.0.insert(key, LastLine { at: now, unwritten: 0 });
                Some(unwritten)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::WithheldBecause;

    #[test]
    fn a_thousand_refusals_in_ten_seconds_are_one_line_and_the_next_counts_them() {
        let (mut log, start) = (RefusalLog::default(), Instant::now());
        let at = |millisecond: u64| start + Duration::from_millis(millisecond);
        let written: Vec<_> = (0..1000).filter_map(|n| log.admit(1000, &NotAdmitted::Stranger, at(n * 9))).collect();
        assert_eq!(written, [0]);
        assert_eq!(log.admit(1001, &NotAdmitted::Stranger, at(9)), Some(0), "another user");
        let elsewhere = NotAdmitted::Elsewhere(WithheldBecause::Container);
        assert_eq!(log.admit(1000, &elsewhere, at(9)), Some(0), "another cause");
        assert_eq!(log.admit(1000, &NotAdmitted::Stranger, at(10_000)), Some(999));
    }

    #[test]
    fn users_beyond_the_limit_share_one_line() {
        let (mut log, now) = (RefusalLog::default(), Instant::now());
        let written = (0..5000).filter_map(|uid| log.admit(uid, &NotAdmitted::Stranger, now)).count();
        assert_eq!(written, MAX_KEYS + 1);
        assert_eq!(log.0.len(), MAX_KEYS + 1);
    }
}
