//! The rate limit for records of refusals: a token bucket per user and event, with an exact count of suppressed
//! records.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::audit::Event;
use crate::audit::Record;

/// Records that one bucket admits at once.
const BURST: u32 = 20;
/// The time after which a bucket admits one record more.
const REFILL: Duration = Duration::from_secs(1);
/// The most buckets of their own; all other keys share one more.
const MAX_BUCKETS: usize = 1024;

/// A uid and an event; `None` for all for which there was no bucket left.
type Key = Option<(u32, Event)>;

/// Decides which records are written.
///
/// INVARIANT: each record is written once, is counted in `suppressed` of a written one, or is counted in a [`Bucket`].
/// So no flood falsifies the count.
#[derive(Debug, Default)]
pub(in crate::audit) struct RateLimit {
    buckets: HashMap<Key, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// When the bucket is full again: at most `BURST` times `REFILL` from now.
    full_at: Instant,
    /// The latest suppressed record.
    latest: Option<Record>,
    /// The number of suppressed records before it.
    suppressed: u64,
}

impl RateLimit {
    /// The record to write now, with the number of suppressed ones before it; `None` when this one is suppressed.
    pub(in crate::audit) fn admit(&mut self, mut record: Record, now: Instant) -> Option<Record> {
        let own = Some((record.uid, record.event));
        if self.buckets.len() >= MAX_BUCKETS && !self.buckets.contains_key(&own) {
            self.buckets.retain(|_, bucket| bucket.latest.is_some() || bucket.full_at > now);
        }
        let key = if self.buckets.len() < MAX_BUCKETS || self.buckets.contains_key(&own) { own } else { None };
        let bucket = self.buckets.entry(key).or_insert(Bucket { full_at: now, latest: None, suppressed: 0 });
        if bucket.take_token(now) {
            let suppressed = bucket.suppressed + u64::from(bucket.latest.take().is_some());
            bucket.suppressed = 0;
            record.suppressed = (suppressed > 0).then_some(suppressed);
            return Some(record);
        }
        bucket.suppressed += u64::from(bucket.latest.replace(record).is_some());
        None
    }

    /// The latest suppressed record of each bucket that admits one by now; of every bucket with `even_if_early`.
    pub(in crate::audit) fn release(&mut self, now: Instant, even_if_early: bool) -> Vec<Record> {
        let mut released = Vec::new();
        for bucket in self.buckets.values_mut().filter(|bucket| bucket.latest.is_some()) {
            if bucket.take_token(now) || even_if_early {
                let suppressed = (bucket.suppressed > 0).then_some(bucket.suppressed);
                bucket.suppressed = 0;
                released.extend(bucket.latest.take().map(|record| Record { suppressed, ..record }));
            }
        }
        released
    }
}

impl Bucket {
    fn take_token(&mut self, now: Instant) -> bool {
        let after = self.full_at.max(now) + REFILL;
        let affordable = after <= now + REFILL * BURST;
        if affordable {
            self.full_at = after;
        }
        affordable
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
        let released_later = limit.release(now + REFILL, false);
        assert_eq!(counted(&released_later), 2);
        assert_eq!(limit.release(now + REFILL * 2, false), []);
    }

    #[test]
    fn users_beyond_the_limit_share_one_bucket() {
        let (mut limit, now) = (RateLimit::default(), Instant::now());
        let written: Vec<_> = (0..5000).filter_map(|uid| limit.admit(record(Event::Denied, uid), now)).collect();
        assert_eq!(limit.buckets.len(), MAX_BUCKETS + 1);
        assert_eq!(written.len(), MAX_BUCKETS + BURST as usize);
        assert_eq!(counted(&written) + counted(&limit.release(now, true)), 5000);
        limit.admit(record(Event::Denied, 9999), now + REFILL * (BURST + 1));
        assert!(limit.buckets.len() < 3, "idle buckets are never removed");
    }
}
