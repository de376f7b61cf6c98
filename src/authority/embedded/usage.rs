//! What a key has signed in this process: until when it is needed, and how many of its tokens have not ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::Weak;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::authority::signing::life::Life;
use crate::authority::signing::life::Validity;
use crate::authority::signing::life::seconds;

/// Tokens are counted by the minute in which they end.
const MINUTE: u64 = 60;

/// A key that signs.
#[derive(Debug)]
pub(super) struct ActiveKey<S> {
    pub(super) signer: S,
    pub(super) life: Life,
    made: SystemTime,
    pub(super) usage: Arc<KeyUsage>,
    in_use: Arc<()>,
}

/// What a key has signed.
#[derive(Debug)]
pub(super) struct KeyUsage {
    /// The latest end of anything it signed, in seconds since 1970.
    signed_until: AtomicU64,
    /// The longest life of anything it signed, in seconds.
    longest: AtomicU64,
    /// The earliest issue, in seconds since 1970, of something that the key's own end has cut short.
    first_cut_short: AtomicU64,
    /// How many tokens end in each minute since 1970.
    tokens: Mutex<BTreeMap<u64, u64>>,
}

/// What decides how long a key is needed that signs no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Signed {
    /// The latest end of anything it signed.
    pub(super) until: SystemTime,
    /// The longest life of anything it signed: so long after its last signature everything has ended, whatever the wall
    /// clock says.
    pub(super) longest: Duration,
}

impl Signed {
    pub(super) const NOTHING: Self = Self { until: UNIX_EPOCH, longest: Duration::ZERO };
}

/// A key that signs no more, as soon as every signature is finished that it was used for.
#[derive(Debug)]
pub(super) struct Retiring {
    pub(super) id: String,
    usage: Arc<KeyUsage>,
    in_use: Weak<()>,
}

impl<S> ActiveKey<S> {
    /// A key that may have signed this before the process was started.
    pub(super) fn new(signer: S, (life, made): (Life, SystemTime), before: Signed) -> Self {
        let usage = KeyUsage {
            signed_until: AtomicU64::new(seconds(before.until)),
            longest: AtomicU64::new(before.longest.as_secs()),
            first_cut_short: AtomicU64::new(u64::MAX),
            tokens: Mutex::default(),
        };
        Self { signer, life, made, usage: Arc::new(usage), in_use: Arc::default() }
    }

    /// Where `now` lies in its life. Once it has cut something short its end is near.
    pub(super) fn validity(&self, now: SystemTime) -> Validity {
        match self.life.validity_of_made(self.made, now) {
            Validity::Valid if self.usage.has_cut_short(now) => Validity::Ending { ends: self.life.not_after },
            validity => validity,
        }
    }

    /// Follows the last signatures of a key that is not used for new ones.
    pub(super) fn retiring(&self, id: String) -> Retiring {
        Retiring { id, usage: Arc::clone(&self.usage), in_use: Arc::downgrade(&self.in_use) }
    }
}

impl KeyUsage {
    /// Notes a signature.
    pub(super) fn signed(&self, issued: SystemTime, not_after: SystemTime, cut_short: bool) {
        self.signed_until.fetch_max(seconds(not_after), Ordering::Relaxed);
        self.longest.fetch_max(seconds(not_after).saturating_sub(seconds(issued)) + 1, Ordering::Relaxed);
        if cut_short {
            self.first_cut_short.fetch_min(seconds(issued), Ordering::Relaxed);
        }
    }

    /// Counts a token, and forgets those that had ended when it was issued.
    pub(super) fn signed_token(&self, issued: SystemTime, not_after: SystemTime) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        *tokens.entry(seconds(not_after) / MINUTE).or_default() += 1;
        while tokens.first_key_value().is_some_and(|(minute, _)| *minute < seconds(issued) / MINUTE) {
            tokens.pop_first();
        }
    }

    /// How many of its tokens have not ended, to the minute.
    pub(super) fn tokens_at(&self, now: SystemTime) -> u64 {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.range(seconds(now) / MINUTE..).map(|(_, count)| count).sum()
    }

    /// Whether something was cut short that was issued by then.
    fn has_cut_short(&self, now: SystemTime) -> bool {
        seconds(now) >= self.first_cut_short.load(Ordering::Relaxed)
    }

    fn signed_so_far(&self) -> Signed {
        Signed {
            until: UNIX_EPOCH + Duration::from_secs(self.signed_until.load(Ordering::Relaxed)),
            longest: Duration::from_secs(self.longest.load(Ordering::Relaxed)),
        }
    }
}

impl Retiring {
    /// What it signed; `None` while a signature is unfinished.
    pub(super) fn signed(&self) -> Option<Signed> {
        (self.in_use.strong_count() == 0).then(|| self.usage.signed_so_far())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Life = Life { not_before: UNIX_EPOCH, not_after: UNIX_EPOCH };

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_key_is_needed_until_the_latest_end_of_what_it_signed_once_nobody_signs_with_it() {
        let key = Arc::new(ActiveKey::new((), (LIFE, UNIX_EPOCH), Signed::NOTHING));
        let (retiring, signing) = (key.retiring("k".to_owned()), Arc::clone(&key));
        key.usage.signed(at(10), at(500), false);
        drop(key);
        assert_eq!(retiring.signed(), None);
        signing.usage.signed(at(10), at(900), false);
        signing.usage.signed(at(10), at(700), false);
        drop(signing);
        assert_eq!(retiring.signed(), Some(Signed { until: at(900), longest: Duration::from_secs(891) }));
    }

    #[test]
    fn what_a_key_signed_before_the_start_counts() {
        let key = ActiveKey::new((), (LIFE, UNIX_EPOCH), Signed { until: at(5000), longest: Duration::from_secs(50) });
        let retiring = key.retiring("k".to_owned());
        key.usage.signed(at(10), at(500), false);
        drop(key);
        assert_eq!(retiring.signed(), Some(Signed { until: at(5000), longest: Duration::from_secs(491) }));
    }

    #[test]
    fn tokens_are_counted_until_the_minute_of_their_end_is_over() {
        let ActiveKey { usage, .. } = ActiveKey::new((), (LIFE, UNIX_EPOCH), Signed::NOTHING);
        for issued in [0, 30, 60] {
            usage.signed_token(at(issued), at(issued + 300));
        }
        assert_eq!([0, 300, 359, 360, 419, 420].map(|now| usage.tokens_at(at(now))), [3, 3, 3, 1, 1, 0]);
        usage.signed_token(at(1000), at(1300));
        assert_eq!(usage.tokens.lock().unwrap().len(), 1, "what has ended is forgotten");
    }

    #[test]
    fn a_key_is_known_to_cut_short_from_the_first_time_on() {
        let ActiveKey { usage, .. } = ActiveKey::new((), (LIFE, UNIX_EPOCH), Signed::NOTHING);
        usage.signed(at(100), at(200), false);
        assert!(!usage.has_cut_short(at(1000)));
        usage.signed(at(150), at(200), true);
        assert!(usage.has_cut_short(at(150)) && !usage.has_cut_short(at(149)));
    }
}
