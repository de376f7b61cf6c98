//! Rates by key: a bounded table of token buckets. Knows neither what a token buys nor who the keys are.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// What one bucket admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens of a full bucket.
    pub burst: u32,
    /// The time after which a bucket has one token more.
    pub refill: Duration,
}

/// A table of token buckets, one per key. All keys for which no bucket is left share one more.
///
/// SECURITY: memory is bounded by `most` buckets, whatever number of keys there is. A bucket is forgotten when it is full,
/// which changes no answer.
///
/// INVARIANT: within a time `t`, one bucket gives at most `burst + t / refill` tokens. A key may take from its own bucket
/// and, while the table is full, from the shared one.
#[derive(Debug)]
pub struct TokenBuckets<K> {
    rate: Rate,
    most: usize,
    buckets: HashMap<K, Bucket>,
    shared: Option<Bucket>,
    /// INVARIANT: no bucket of `buckets` is full before.
    none_full_before: Option<Instant>,
}

/// When a bucket is full again: at most `burst` times `refill` from now.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    full_at: Instant,
}

impl<K: Hash + Eq + Clone> TokenBuckets<K> {
    /// At most `most` buckets of their own, and the shared one, all of them full.
    #[must_use]
    pub fn new(rate: Rate, most: usize) -> Self {
        Self { rate, most, buckets: HashMap::new(), shared: None, none_full_before: None }
    }

    /// Takes a token of `key`'s; false when there is none.
    pub fn take(&mut self, key: &K, now: Instant) -> bool {
        if let Some(bucket) = self.buckets.get_mut(key) {
            return bucket.take(self.rate, now);
        }
        if self.buckets.len() >= self.most {
            self.forget_full(now);
        }
        if self.buckets.len() >= self.most {
            return self.take_shared(now);
        }
        let mut bucket = Bucket { full_at: now };
        let taken = bucket.take(self.rate, now);
        self.none_full_before = Some(self.none_full_before.map_or(bucket.full_at, |then| then.min(bucket.full_at)));
        self.buckets.insert(key.clone(), bucket);
        taken
    }

    /// Takes a token of the bucket that keys without one of their own share; false when there is none.
    pub fn take_shared(&mut self, now: Instant) -> bool {
        self.shared.get_or_insert(Bucket { full_at: now }).take(self.rate, now)
    }

    /// The number of buckets, without the shared one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Whether no key has a bucket of its own.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// SECURITY: a caller with many keys reads the whole table only when a bucket may be full, not with each key.
    fn forget_full(&mut self, now: Instant) {
        if self.none_full_before.is_some_and(|then| now < then) {
            return;
        }
        self.buckets.retain(|_, bucket| bucket.full_at > now);
        self.none_full_before = self.buckets.values().map(|bucket| bucket.full_at).min();
    }
}

impl Bucket {
    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let after = self.full_at.max(now) + rate.refill;
        let affordable = after <= now + rate.refill * rate.burst;
        if affordable {
            self.full_at = after;
        }
        affordable
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const CONNECTS: Rate = Rate { burst: 256, refill: MS };

    fn taken(buckets: &mut TokenBuckets<u32>, key: u32, times: usize, now: Instant) -> usize {
        (0..times).filter(|_| buckets.take(&key, now)).count()
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_what_the_time_since_refills() {
        for (rate, waited, given) in [
            (CONNECTS, Duration::ZERO, 0),
            (CONNECTS, Duration::from_micros(999), 0),
            (CONNECTS, MS, 1),
            (CONNECTS, MS * 100, 100),
            (CONNECTS, MS * 256, 256),
            (CONNECTS, MS * 1_000_000, 256),
            (Rate { burst: 20, refill: Duration::from_secs(1) }, Duration::from_millis(2500), 2),
            (Rate { burst: 1, refill: Duration::from_secs(3600) }, Duration::from_secs(3599), 0),
            (Rate { burst: 0, refill: MS }, MS * 1000, 0),
        ] {
            let (mut buckets, start) = (TokenBuckets::new(rate, 8), Instant::now());
            assert_eq!(taken(&mut buckets, 1, 1000, start), rate.burst as usize, "{rate:?}");
            assert_eq!(taken(&mut buckets, 1, 1000, start + waited), given, "{rate:?} after {waited:?}");
        }
    }

    #[test]
    fn a_thousand_a_second_are_all_admitted_and_of_ten_thousand_one_in_ten() {
        for (every, per_second, admitted) in [(1000, 1000, 10_000), (100, 10_000, 10_255)] {
            let (mut buckets, start) = (TokenBuckets::new(CONNECTS, 8), Instant::now());
            let at = |number: u32| start + Duration::from_micros(every) * number;
            let taken = (0..per_second * 10).filter(|number| buckets.take(&1, at(*number))).count();
            assert_eq!(taken, admitted, "{per_second}/s");
        }
    }

    #[test]
    fn a_flood_takes_no_token_of_another_key() {
        let (mut buckets, now) = (TokenBuckets::new(CONNECTS, 8), Instant::now());
        assert_eq!(taken(&mut buckets, 1, 10_000, now), 256);
        assert_eq!(taken(&mut buckets, 2, 10_000, now), 256);
    }

    #[test]
    fn keys_beyond_the_limit_share_one_bucket_and_full_buckets_are_forgotten() {
        let (mut buckets, now) = (TokenBuckets::new(Rate { burst: 2, refill: MS }, 8), Instant::now());
        let taken = |buckets: &mut TokenBuckets<u32>, keys, now| (0..keys).filter(|key| buckets.take(key, now)).count();
        assert_eq!(taken(&mut buckets, 100, now), 8 + 2);
        assert_eq!((buckets.len(), buckets.take_shared(now)), (8, false));
        assert_eq!(taken(&mut buckets, 100, now + MS * 2), 8 + 2);
        assert!(buckets.take(&1000, now + MS * 10) && buckets.len() == 1, "full buckets are never forgotten");
    }

    proptest! {
        #[test]
        fn a_key_gets_what_a_bucket_of_its_own_has_or_takes_from_the_shared_one(
            burst in 1_u32..6, most in 1_usize..4, steps in prop::collection::vec((0_u32..5, 0_u32..4), 0..200),
        ) {
            let (mut buckets, start) = (TokenBuckets::new(Rate { burst, refill: MS }, most), Instant::now());
            let (mut passed, mut admitted) = (0, HashMap::<u32, u32>::new());
            // What buckets would hold that are never forgotten, and when that was.
            let mut own = HashMap::<u32, (u32, u32)>::new();
            for (key, wait) in steps {
                passed += wait;
                let is_own = buckets.buckets.contains_key(&key);
                let taken = buckets.take(&key, start + MS * passed);
                *admitted.entry(key).or_default() += u32::from(taken);
                if is_own || buckets.buckets.contains_key(&key) {
                    let (tokens, at) = own.get(&key).copied().unwrap_or((burst, 0));
                    let tokens = (tokens + passed - at).min(burst);
                    prop_assert_eq!(taken, tokens > 0);
                    own.insert(key, (tokens - u32::from(taken), passed));
                }
                prop_assert!(buckets.len() <= most);
            }
            let bound = burst + passed;
            let keys = u32::try_from(admitted.len()).unwrap();
            let fits = admitted.len() <= most;
            prop_assert!(admitted.values().all(|taken| *taken <= bound * (1 + u32::from(!fits))));
            prop_assert!(admitted.values().sum::<u32>() <= bound * (keys + u32::from(!fits)));
        }
    }
}
