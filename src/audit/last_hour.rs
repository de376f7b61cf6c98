//! The number of refusals in the last sixty minutes, for `status`.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// The refusals of the last hour.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RefusalCounts {
    /// Denials.
    pub denials: u64,
    /// Checks that could not be completed, by cause.
    pub undecided: BTreeMap<String, u64>,
}

/// One count per minute, the newest last.
#[derive(Debug, Default)]
pub(in crate::audit) struct LastHour {
    minutes: VecDeque<(Instant, RefusalCounts)>,
}

impl LastHour {
    /// Counts a refusal at `now`.
    pub(in crate::audit) fn count(&mut self, now: Instant, count: impl FnOnce(&mut RefusalCounts)) {
        let begun = self.minutes.back().is_some_and(|(begun, _)| now.saturating_duration_since(*begun) < MINUTE);
        if !begun {
            self.expire(now);
            self.minutes.push_back((now, RefusalCounts::default()));
        }
        if let Some((_, newest)) = self.minutes.back_mut() {
            count(newest);
        }
    }

    /// The sum over the last hour.
    pub(in crate::audit) fn sum(&mut self, now: Instant) -> RefusalCounts {
        self.expire(now);
        let mut sum = RefusalCounts::default();
        for (_, minute) in &self.minutes {
            sum.denials += minute.denials;
            for (cause, count) in &minute.undecided {
                *sum.undecided.entry(cause.clone()).or_default() += count;
            }
        }
        sum
    }

    fn expire(&mut self, now: Instant) {
        while self.minutes.front().is_some_and(|(begun, _)| now.saturating_duration_since(*begun) >= HOUR) {
            self.minutes.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_counts_for_an_hour() {
        let (mut hour, start) = (LastHour::default(), Instant::now());
        for minute in 0..120 {
            hour.count(start + MINUTE * minute, |refusals| refusals.denials += 1);
        }
        assert_eq!(hour.sum(start + MINUTE * 119).denials, 60);
        assert_eq!(hour.sum(start + MINUTE * 149).denials, 30);
        assert_eq!(hour.sum(start + MINUTE * 179).denials, 0);
    }
}
