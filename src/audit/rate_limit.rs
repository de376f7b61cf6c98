//! What is written of all that a caller can cause: of refusals, records by user and event, with an exact count of the
//! suppressed ones; of everything else, lines by cause and caller.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use tracing::callsite::Identifier;

use crate::audit::Event;
use crate::audit::Record;
use crate::fairness::Rate;
use crate::fairness::TokenBuckets;

/// What one user may have written of one event.
const RATE: Rate = Rate { burst: 20, refill: Duration::from_secs(1) };
/// The most users and events with a bucket of their own, and with a suppressed record of their own.
const MOST: usize = 1024;

/// What one caller may have logged of one cause.
const CALLERS_RATE: Rate = Rate { burst: 10, refill: Duration::from_secs(10) };
/// What the daemon logs of one cause of its own. Enough for every warning of a start or a reload.
const OWN_RATE: Rate = Rate { burst: 1000, refill: Duration::from_millis(100) };
/// The most causes and callers that are told apart.
const MOST_CAUSES: usize = 256;

/// A uid and an event.
type Key = (u32, Event);

/// Decides which records are written.
///
/// INVARIANT: each record is written once, is counted in `suppressed` of a written one, or is counted in a [`Suppressed`].
/// So no flood falsifies the count.
#[derive(Debug)]
pub(in crate::audit) struct RateLimit {
    buckets: TokenBuckets<Key>,
    /// By key; `None` for all for which there was no place left.
    suppressed: HashMap<Option<Key>, Suppressed>,
}

#[derive(Debug)]
struct Suppressed {
    latest: Record,
    /// The number of suppressed records before it.
    before: u64,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self { buckets: TokenBuckets::new(RATE, MOST), suppressed: HashMap::new() }
    }
}

impl RateLimit {
    /// The record to write now, with the number of suppressed ones before it; `None` when this one is suppressed.
    pub(in crate::audit) fn admit(&mut self, mut record: Record, now: Instant) -> Option<Record> {
        let own = (record.uid, record.event);
        if self.buckets.take(&own, now) {
            record.suppressed = self.suppressed.remove(&Some(own)).map(|suppressed| suppressed.before + 1);
            return Some(record);
        }
        let has_place = self.suppressed.len() < MOST || self.suppressed.contains_key(&Some(own));
        match self.suppressed.get_mut(&has_place.then_some(own)) {
            Some(suppressed) => {
                suppressed.latest = record;
                suppressed.before += 1;
            }
            None => drop(self.suppressed.insert(has_place.then_some(own), Suppressed { latest: record, before: 0 })),
        }
        None
    }

    /// The latest suppressed record of each key that has a token by now; of every key with `even_if_early`.
    pub(in crate::audit) fn release(&mut self, now: Instant, even_if_early: bool) -> Vec<Record> {
        let Self { buckets, suppressed } = self;
        let mut has_token = |key: &Option<Key>| match key {
            Some(own) => buckets.take(own, now),
            None => buckets.take_shared(now),
        };
        let released = suppressed.extract_if(|key, _| has_token(key) || even_if_early);
        released
            .map(|(_, Suppressed { latest, before })| Record { suppressed: (before > 0).then_some(before), ..latest })
            .collect()
    }
}

/// Why a line is written: the place in the code, and the caller, if one is to blame.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::audit) struct Cause {
    pub(in crate::audit) callsite: Identifier,
    pub(in crate::audit) uid: Option<u64>,
}

/// Decides which lines beside the records are written.
#[derive(Debug)]
pub(in crate::audit) struct LineLimit {
    callers: TokenBuckets<Cause>,
    own: TokenBuckets<Cause>,
    /// How many lines were not written since the last one, for at most `MOST_CAUSES`.
    unwritten: HashMap<Cause, u64>,
}

impl Default for LineLimit {
    fn default() -> Self {
        let buckets = |rate| TokenBuckets::new(rate, MOST_CAUSES);
        Self { callers: buckets(CALLERS_RATE), own: buckets(OWN_RATE), unwritten: HashMap::new() }
    }
}

impl LineLimit {
    /// Whether a line is written now, and how many of its cause were not since the last one. `of_callers`: a caller can
    /// cause it as often as it likes.
    pub(in crate::audit) fn admit(&mut self, cause: &Cause, of_callers: bool, now: Instant) -> Option<u64> {
        let buckets = if of_callers { &mut self.callers } else { &mut self.own };
        if buckets.take(cause, now) {
            return Some(self.unwritten.remove(cause).unwrap_or_default());
        }
        if let Some(unwritten) = self.unwritten.get_mut(cause) {
            *unwritten += 1;
        } else if self.unwritten.len() < MOST_CAUSES {
            self.unwritten.insert(cause.clone(), 1);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::tests::record;

    fn counted(records: &[Record]) -> u64 {
        records.iter().map(|record| 1 + record.suppressed.unwrap_or_default()).sum()
    }

    #[test]
    fn a_million_denials_are_few_records_that_count_them_all() {
        let (mut limit, start) = (RateLimit::default(), Instant::now());
        let at = |number: u32| start + Duration::from_micros(10) * number;
        let mut written: Vec<_> =
            (0..1_000_000).filter_map(|number| limit.admit(record(Event::Denied, 1000), at(number))).collect();
        assert!((20..=31).contains(&written.len()), "{}", written.len());
        written.extend(limit.release(at(1_000_000), true));
        assert_eq!(counted(&written), 1_000_000);
    }

    #[test]
    fn a_flood_suppresses_no_record_of_another_user_or_event() {
        let (mut limit, now) = (RateLimit::default(), Instant::now());
        while limit.admit(record(Event::Denied, 1000), now).is_some() {}
        assert!(limit.admit(record(Event::Undecided, 1000), now).is_some());
        assert!(limit.admit(record(Event::Denied, 1001), now).is_some());
    }

    #[test]
    fn a_suppressed_record_is_released_after_one_refill() {
        let (mut limit, now) = (RateLimit::default(), Instant::now());
        while limit.admit(record(Event::Denied, 1000), now).is_some() {}
        limit.admit(record(Event::Denied, 1000), now);
        assert_eq!(limit.release(now, false), []);
        let released_later = limit.release(now + RATE.refill, false);
        assert_eq!(counted(&released_later), 2);
        assert_eq!(limit.release(now + RATE.refill * 2, false), []);
    }

    #[test]
    fn users_beyond_the_limit_share_one_bucket() {
        let (mut limit, now) = (RateLimit::default(), Instant::now());
        let written: Vec<_> = (0..5000).filter_map(|uid| limit.admit(record(Event::Denied, uid), now)).collect();
        assert_eq!((limit.buckets.len(), limit.suppressed.len()), (MOST, MOST + 1));
        assert_eq!(written.len(), MOST + RATE.burst as usize);
        assert_eq!(counted(&written) + counted(&limit.release(now, true)), 5000);
        limit.admit(record(Event::Denied, 9999), now + RATE.refill * (RATE.burst + 1));
        assert!(limit.buckets.len() < 3, "idle buckets are never removed");
    }
}
