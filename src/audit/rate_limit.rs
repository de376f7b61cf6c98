//! How many refusals of one caller are written down, and exactly how many are not.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::audit::Event;
use crate::audit::Record;

/// Records of one caller and kind that may follow each other at once.
const BURST: u32 = 20;
/// How long it takes to earn one more.
const EARN: Duration = Duration::from_secs(1);
/// Callers that are counted apart; all others together are one.
const MAX_CALLERS: usize = 1024;

/// What is counted together. `None`: everyone for whom there was no room.
type Key = Option<(u32, Event)>;

/// Decides which records are written.
///
/// INVARIANT: each record handed in is written once, is in `suppressed` of one that was written, or is in a `Caller`
/// here; so no flood loses count.
#[derive(Debug, Default)]
pub(in crate::audit) struct RateLimit {
    callers: HashMap<Key, Caller>,
}

#[derive(Debug)]
struct Caller {
    /// When the budget will be whole again. Never more than `BURST` times `EARN` away.
    whole_at: Instant,
    /// The latest record that was not written.
    latest: Option<Record>,
    /// Those before it.
    suppressed: u64,
}

impl RateLimit {
    /// The record to write now, which may tell of others that were not; `None` when this one is to wait.
    pub(in crate::audit) fn admit(&mut self, mut record: Record, now: Instant) -> Option<Record> {
        let own = Some((record.uid, record.event));
        if self.callers.len() >= MAX_CALLERS && !self.callers.contains_key(&own) {
            self.callers.retain(|_, caller| caller.latest.is_some() || caller.whole_at > now);
        }
        let key = if self.callers.len() < MAX_CALLERS || self.callers.contains_key(&own) { own } else { None };
        let caller = self.callers.entry(key).or_insert(Caller { whole_at: now, latest: None, suppressed: 0 });
        if caller.pays(now) {
            let left_out = caller.suppressed + u64::from(caller.latest.take().is_some());
            caller.suppressed = 0;
            record.suppressed = (left_out > 0).then_some(left_out);
            return Some(record);
        }
        caller.suppressed += u64::from(caller.latest.replace(record).is_some());
        None
    }

    /// The records that stand for what was suppressed, of callers who fell silent; all of them with `even_if_early`.
    pub(in crate::audit) fn release(&mut self, now: Instant, even_if_early: bool) -> Vec<Record> {
        let mut released = Vec::new();
        for caller in self.callers.values_mut().filter(|caller| caller.latest.is_some()) {
            if caller.pays(now) || even_if_early {
                let suppressed = (caller.suppressed > 0).then_some(caller.suppressed);
                caller.suppressed = 0;
                released.extend(caller.latest.take().map(|record| Record { suppressed, ..record }));
            }
        }
        released
    }
}

impl Caller {
    fn pays(&mut self, now: Instant) -> bool {
        let after = self.whole_at.max(now) + EARN;
        let affordable = after <= now + EARN * BURST;
        if affordable {
            self.whole_at = after;
        }
        affordable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::tests::record;

    fn told(records: &[Record]) -> u64 {
        records.iter().map(|record| 1 + record.suppressed.unwrap_or_default()).sum()
    }

    #[test]
    fn a_million_denials_leave_few_records_that_count_them_all() {
        let (mut limit, start) = (RateLimit::default(), Instant::now());
        let at = |number: u32| start + Duration::from_micros(10) * number;
        let mut written: Vec<_> =
            (0..1_000_000).filter_map(|number| limit.admit(record(Event::Denied, 1000), at(number))).collect();
        assert!((20..=31).contains(&written.len()), "{}", written.len());
        written.extend(limit.release(at(1_000_000), true));
        assert_eq!(told(&written), 1_000_000);
    }

    #[test]
    fn one_callers_flood_hides_neither_another_caller_nor_another_kind() {
        let (mut limit, now) = (RateLimit::default(), Instant::now());
        while limit.admit(record(Event::Denied, 1000), now).is_some() {}
        assert!(limit.admit(record(Event::Undecided, 1000), now).is_some());
        assert!(limit.admit(record(Event::Denied, 1001), now).is_some());
    }

    #[test]
    fn a_caller_that_falls_silent_is_told_of_within_the_time_one_record_is_earned() {
        let (mut limit, now) = (RateLimit::default(), Instant::now());
        while limit.admit(record(Event::Denied, 1000), now).is_some() {}
        limit.admit(record(Event::Denied, 1000), now);
        assert_eq!(limit.release(now, false), []);
        let told_later = limit.release(now + EARN, false);
        assert_eq!(told(&told_later), 2);
        assert_eq!(limit.release(now + EARN * 2, false), []);
    }

    #[test]
    fn more_callers_than_there_is_room_for_are_counted_together() {
        let (mut limit, now) = (RateLimit::default(), Instant::now());
        let written: Vec<_> = (0..5000).filter_map(|uid| limit.admit(record(Event::Denied, uid), now)).collect();
        assert_eq!(limit.callers.len(), MAX_CALLERS + 1);
        assert_eq!(written.len(), MAX_CALLERS + BURST as usize);
        assert_eq!(told(&written) + told(&limit.release(now, true)), 5000);
        limit.admit(record(Event::Denied, 9999), now + EARN * (BURST + 1));
        assert!(limit.callers.len() < 3, "idle callers stay for ever");
    }
}
