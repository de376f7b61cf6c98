//! When an SVID is renewed, and when a renewal that failed is tried again.

use std::time::Duration;
use std::time::SystemTime;

/// Never sooner than this after the issue, or after a failure.
const SOONEST: Duration = Duration::from_secs(1);
/// How far the beginning of an SVID lies before its issue.
const BACKDATE: Duration = Duration::from_secs(60);
/// Never later than this after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Half of the way from issue to end, pulled apart by ±10 % so that a rack that reboots together does not renew
/// together. From the *issue*: `not_before` is backdated, and a short SVID would renew for ever.
///
/// `spread` is a number in `0.0 ..= 1.0`, drawn once per SVID.
#[must_use]
pub fn renew_at(issued: SystemTime, not_after: SystemTime, spread: f64) -> SystemTime {
    let half = remaining(issued, not_after) / 2;
    after(issued, scattered(half, spread).max(SOONEST))
}

/// When to try again after `failures` renewals in a row have failed, the last one `now`: after one second, then two,
/// four and so on, but at least four times in what is left of the SVID's life.
///
/// `spread` is a number in `0.0 ..= 1.0`, drawn anew for each try.
#[must_use]
pub fn retry_at(now: SystemTime, not_after: SystemTime, failures: u32, spread: f64) -> SystemTime {
    let doubled = SOONEST.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    let pause = doubled.min(LONGEST_PAUSE).min(remaining(now, not_after) / 4);
    after(now, scattered(pause, spread).max(SOONEST))
}

/// When to ask again for an SVID that is due at `due`: never sooner than 1 s after `now`.
#[must_use]
pub fn ask_again_at(due: SystemTime, now: SystemTime) -> SystemTime {
    due.max(after(now, SOONEST))
}

/// Whether an SVID that was issued then is valid by a clock that was set back since: it is dated back by a minute, and
/// half of that is left to those it is shown to.
#[must_use]
pub fn has_begun(issued: SystemTime, now: SystemTime) -> bool {
    remaining(now, issued) < BACKDATE / 2
}

/// Whether an SVID may still be served: nothing past its end ever is (SPEC: product contract §6).
#[must_use]
pub fn is_servable(not_after: SystemTime, now: SystemTime) -> bool {
    now < not_after
}

fn remaining(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}

fn scattered(pause: Duration, spread: f64) -> Duration {
    pause.mul_f64(0.9 + 0.2 * spread.clamp(0.0, 1.0))
}

/// On overflow returns `from`, which is safe: the SVID is asked for again.
fn after(from: SystemTime, pause: Duration) -> SystemTime {
    from.checked_add(pause).unwrap_or(from)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn an_svid_of_an_hour_renews_after_27_to_33_minutes() {
        assert_eq!(renew_at(at(0), at(3600), 0.0), at(27 * 60));
        assert_eq!(renew_at(at(0), at(3600), 0.5), at(30 * 60));
        assert_eq!(renew_at(at(0), at(3600), 1.0), at(33 * 60));
    }

    #[test]
    fn an_svid_that_was_clamped_to_nothing_does_not_renew_at_once() {
        assert_eq!(renew_at(at(100), at(101), 0.0), at(101));
        assert_eq!(renew_at(at(100), at(90), 0.0), at(101));
    }

    #[test]
    fn whoever_is_due_already_asks_again_in_a_second() {
        assert_eq!(ask_again_at(at(100), at(10)), at(100));
        assert_eq!(ask_again_at(at(100), at(100)), at(101));
        assert_eq!(ask_again_at(at(100), at(300)), at(301));
    }

    #[test]
    fn failures_double_the_pause_up_to_a_minute() {
        let pauses: Vec<_> =
            (1..=8).map(|failures| remaining(at(0), retry_at(at(0), at(86_400), failures, 0.5))).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60].map(Duration::from_secs));
    }

    proptest! {
        #[test]
        fn a_renewal_leaves_at_least_two_fifths_of_a_life_for_trying_again(
            ttl in 10_u64..10_000_000, spread in 0.0..=1.0_f64,
        ) {
            let renewal = remaining(at(0), renew_at(at(0), at(ttl), spread));
            prop_assert!(renewal >= SOONEST);
            prop_assert!(renewal <= Duration::from_secs(ttl).mul_f64(0.551));
        }

        #[test]
        fn a_failed_renewal_is_retried_before_the_end_after_at_least_a_second(
            left in 2_u64..10_000_000, failures in 0_u32.., spread in 0.0..=1.0_f64,
        ) {
            let pause = remaining(at(0), retry_at(at(0), at(left), failures, spread));
            prop_assert!(pause >= SOONEST);
            prop_assert!(pause < Duration::from_secs(left));
            prop_assert!(pause <= LONGEST_PAUSE.mul_f64(1.11));
        }
    }
}
