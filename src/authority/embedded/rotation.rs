//! When a key goes from one stage to the next. Pure: a key's life, both clocks and what is served are arguments.
//!
//! | stage | ends | may be delayed by |
//! |---|---|---|
//! | prepared | a refresh hint before the lead begins | a disk that takes no writes |
//! | published | at half of the active key's life, after a lead of four refresh hints (10 s where an operator asked); after a start a minute again | bundles that are not served yet |
//! | active | when the next key is used | as the stages before |
//! | retired | when the last thing it signed has ended, by the wall clock and by the one that nobody can set | a disk that takes no writes |
//!
//! A next key whose life does not hold when it is due is of no use: a machine slept, a disk was full, or a clock was wrong
//! when it was made. Another one is prepared in its place.
//!
//! SECURITY: outside the life of its active key an authority does none of this by itself, for the wall clock is the only
//! witness that the life is over, and may be wrong. Two exceptions: where the clock that nobody can set, too, has passed
//! the end since the authority was opened within the life (a machine that slept), and where an operator asks.

use std::time::Duration;
use std::time::SystemTime;

use crate::authority::signing::life::Life;
use crate::authority::signing::life::Validity;
use crate::time::Moment;

/// How often others should fetch the bundle, at the most seldom.
const LONGEST_HINT: Duration = Duration::from_secs(300);
const SHORTEST_HINT: Duration = Duration::from_secs(1);
/// A key is published so many refresh hints before its use (SPEC: SPIFFE Federation §4.1 asks for three to five).
const LEAD_IN_HINTS: u32 = 4;
/// The lead where an operator asked for the rotation (SPEC: product contract §6).
pub(super) const ASKED_LEAD: Duration = Duration::from_secs(10);
/// The lead where the key before may have leaked: every stream that reads has the new bundle by then.
pub(super) const TAINTED_LEAD: Duration = Duration::from_secs(2);
/// The longest time that a client waits before it connects again (java-spiffe).
const CLIENTS_COME_BACK: Duration = Duration::from_secs(60);
/// How long a tainted key stays in the bundle at the most (SPEC: product contract §3).
pub(super) const TAINTED_STAY: Duration = Duration::from_secs(60);
/// How long a retired key stays after a start at the least, where it may be needed that long: the wall clock of a start has
/// no witness.
pub(super) const STAY_AFTER_START: Duration = Duration::from_secs(3600);

/// The times in the life of an active key at which the one after it is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RotationPlan {
    pub(super) prepare_at: SystemTime,
    pub(super) publish_at: SystemTime,
    pub(super) use_at: SystemTime,
    pub(super) lead: Duration,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RotationStep {
    /// Make the next key.
    Prepare,
    /// Put the next key into the bundle.
    Publish,
    /// Sign with the next key, and retire the one before.
    Activate,
    /// Take a retired key out of the bundle.
    Withdraw,
}

/// What the next step of one kind of key depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeysOfKind {
    /// The life of the active key, and when it was made.
    pub(super) active: (Life, SystemTime),
    /// The key that is to follow.
    pub(super) next: Option<NextKey>,
    /// Whether a retired key is not needed any more.
    pub(super) retired_is_over: bool,
    /// When the authority was opened, or the active key was first used.
    pub(super) witnessed: Moment,
}

/// The key that is to follow the active one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextKey {
    Prepared {
        life: Life,
    },
    Published {
        life: Life,
        lead_is_over: bool,
        /// Whether those who are served have the bundle with it.
        is_served: bool,
    },
}

/// How often others should fetch the bundle of an authority whose keys live so long.
pub(super) fn refresh_hint(life: Duration) -> Duration {
    (life / 40).clamp(SHORTEST_HINT, LONGEST_HINT)
}

/// The plan for a key that was made then. It is replaced a refresh hint before its half, so that the longest SVID it may sign
/// ends before the key does.
pub(super) fn plan(made: SystemTime, not_after: SystemTime) -> RotationPlan {
    let life = not_after.duration_since(made).unwrap_or_default();
    let hint = refresh_hint(life);
    let lead = hint * LEAD_IN_HINTS;
    let use_at = made + (life / 2).saturating_sub(hint);
    let publish_at = use_at.checked_sub(lead).unwrap_or(made);
    RotationPlan { prepare_at: publish_at.checked_sub(hint).unwrap_or(made), publish_at, use_at, lead }
}

/// The lead of a key that is published now: shorter where the active key ends before it would be over, or where the next one
/// is short-lived.
pub(super) fn lead_before(plan: &RotationPlan, active: &Life, next: &Life, now: SystemTime) -> Duration {
    let left = |life: &Life| life.not_after.duration_since(now).unwrap_or_default();
    plan.lead.min(left(active) / 2).min(left(next) / 4)
}

/// The lead of a key that was published before a start, at the least. RACE: the process before may have ended between the disk
/// and the streams, so that nobody has heard of the key, and whoever connects first must not get what the others cannot
/// verify yet.
pub(super) fn lead_after_start(not_after: SystemTime, now: SystemTime) -> Duration {
    CLIENTS_COME_BACK.min(not_after.duration_since(now).unwrap_or_default() / 2)
}

/// The step that is due now.
pub(super) fn due(keys: &KeysOfKind, now: Moment) -> Option<RotationStep> {
    let KeysOfKind { active: (life, made), next, retired_is_over, witnessed } = keys;
    let signs = signs(life, now.wall);
    if let Some(NextKey::Published { life, lead_is_over, is_served }) = next
        && *is_served
        && (*lead_is_over || !signs)
        && self::signs(life, now.wall)
    {
        return Some(RotationStep::Activate);
    }
    if !signs && !has_passed(life.not_after, *witnessed, now) {
        return None;
    }
    if signs && *retired_is_over {
        return Some(RotationStep::Withdraw);
    }
    let plan = plan(*made, life.not_after);
    match next.as_ref().filter(|next| self::signs(next.life(), now.wall)) {
        None if !signs || now.wall >= plan.prepare_at => Some(RotationStep::Prepare),
        Some(NextKey::Prepared { .. }) if !signs || now.wall >= plan.publish_at => Some(RotationStep::Publish),
        _ => None,
    }
}

impl NextKey {
    fn life(&self) -> &Life {
        let (Self::Prepared { life } | Self::Published { life, .. }) = self;
        life
    }
}

/// Whether a key signs now.
pub(super) fn signs(life: &Life, now: SystemTime) -> bool {
    matches!(life.validity(now), Validity::Valid | Validity::Ending { .. })
}

/// Whether a time that lay ahead at a moment has come since, by both clocks.
fn has_passed(time: SystemTime, witnessed: Moment, now: Moment) -> bool {
    let Ok(ahead) = time.duration_since(witnessed.wall) else { return false };
    !ahead.is_zero() && time <= now.wall && now.since_boot.saturating_sub(witnessed.since_boot) >= ahead
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::authority::RELEASE_DATE;
    use crate::authority::signing::life::AUTHORITY_BACKDATE;

    const HOUR: Duration = Duration::from_secs(3600);
    const WEEK: Duration = Duration::from_secs(168 * 3600);

    fn made() -> SystemTime {
        SystemTime::UNIX_EPOCH + RELEASE_DATE + 1000 * HOUR
    }

    fn life(made: SystemTime, ca_ttl: Duration) -> Life {
        Life { not_before: made - AUTHORITY_BACKDATE, not_after: made + ca_ttl }
    }

    /// So long after the key was made, by both clocks.
    fn after(time: Duration) -> Moment {
        Moment { wall: made() + time, since_boot: time }
    }

    fn keys(ca_ttl: Duration, next: Option<NextKey>) -> KeysOfKind {
        let active = (life(made(), ca_ttl), made());
        KeysOfKind { active, next, retired_is_over: false, witnessed: after(Duration::ZERO) }
    }

    fn prepared() -> Option<NextKey> {
        Some(NextKey::Prepared { life: life(made() + HOUR, 2 * WEEK) })
    }

    fn published(lead_is_over: bool, is_served: bool) -> Option<NextKey> {
        Some(NextKey::Published { life: life(made() + HOUR, WEEK), lead_is_over, is_served })
    }

    #[test]
    fn a_key_of_a_week_is_published_twenty_minutes_before_it_is_used_at_half_of_the_life_of_the_one_before() {
        let plan = plan(made(), made() + WEEK);
        let minute = Duration::from_secs(60);
        assert_eq!(plan.use_at, made() + WEEK / 2 - 5 * minute);
        assert_eq!(plan.publish_at, plan.use_at - 20 * minute);
        assert_eq!(plan.prepare_at, plan.publish_at - 5 * minute);
    }

    #[test]
    fn the_longest_svid_of_a_key_ends_before_the_key() {
        for ca_ttl in [Duration::from_secs(40), HOUR, WEEK, 1000 * WEEK] {
            let plan = plan(made(), made() + ca_ttl);
            assert!(plan.use_at + ca_ttl / 2 + SHORTEST_HINT <= made() + ca_ttl, "{ca_ttl:?}");
            assert!(plan.prepare_at > made(), "{ca_ttl:?}");
        }
    }

    #[test]
    fn each_step_follows_the_one_before_in_its_time() {
        let plan = plan(made(), made() + WEEK);
        let at = |time: SystemTime| after(time.duration_since(made()).unwrap());
        let second = Duration::from_secs(1);
        let unpublished =
            [(None, plan.prepare_at, RotationStep::Prepare), (prepared(), plan.publish_at, RotationStep::Publish)];
        for (next, time, step) in unpublished {
            assert_eq!(due(&keys(WEEK, next), at(time - second)), None);
            assert_eq!(due(&keys(WEEK, next), at(time)), Some(step));
        }
        for (lead_is_over, is_served) in [(false, false), (false, true), (true, false), (true, true)] {
            let step = (lead_is_over && is_served).then_some(RotationStep::Activate);
            assert_eq!(due(&keys(WEEK, published(lead_is_over, is_served)), at(plan.use_at)), step);
        }
        let over = KeysOfKind { retired_is_over: true, ..keys(WEEK, None) };
        assert_eq!(due(&over, at(plan.prepare_at - second)), Some(RotationStep::Withdraw));
    }

    #[test]
    fn a_clock_that_was_set_outside_the_life_moves_nothing() {
        for wall in [made() + 2 * WEEK, made() + WEEK, made() - WEEK, SystemTime::UNIX_EPOCH] {
            for next in [None, prepared(), published(true, false)] {
                let keys = KeysOfKind { retired_is_over: true, ..keys(WEEK, next) };
                assert_eq!(due(&keys, Moment { wall, since_boot: HOUR }), None, "{wall:?} {next:?}");
            }
        }
    }

    #[test]
    fn a_machine_that_slept_past_the_end_goes_on_without_a_lead() {
        let end = after(2 * WEEK);
        assert_eq!(due(&keys(WEEK, None), end), Some(RotationStep::Prepare));
        assert_eq!(
            due(&keys(WEEK, Some(NextKey::Prepared { life: life(end.wall, WEEK) })), end),
            Some(RotationStep::Publish)
        );
        let late = Some(NextKey::Published { life: life(end.wall, WEEK), lead_is_over: false, is_served: true });
        assert_eq!(due(&keys(WEEK, late), end), Some(RotationStep::Activate));
        let opened_too_late = KeysOfKind { witnessed: after(WEEK), ..keys(WEEK, None) };
        assert_eq!(due(&opened_too_late, end), None, "there is no witness that the clock is right");
    }

    #[test]
    fn a_next_key_whose_life_does_not_hold_now_is_not_used_and_is_replaced_when_one_is_due() {
        for (begins, is_used) in [(made() + 3 * WEEK, false), (made() - 3 * WEEK, false), (made(), true)] {
            let life = life(begins, 2 * WEEK + HOUR);
            for next in [NextKey::Prepared { life }, NextKey::Published { life, lead_is_over: false, is_served: true }]
            {
                assert_eq!(due(&keys(4 * WEEK, Some(next)), after(HOUR)), None);
                let step = due(&keys(4 * WEEK, Some(next)), after(2 * WEEK));
                assert_eq!(step == Some(RotationStep::Prepare), !is_used, "{next:?} {step:?}");
            }
            let next = Some(NextKey::Published { life, lead_is_over: true, is_served: true });
            assert_eq!(due(&keys(4 * WEEK, next), after(HOUR)), is_used.then_some(RotationStep::Activate));
        }
    }

    proptest! {
        #[test]
        fn the_times_of_a_plan_follow_each_other(ca_ttl in 40_u64..1_000_000_000) {
            let ca_ttl = Duration::from_secs(ca_ttl);
            let plan = plan(made(), made() + ca_ttl);
            prop_assert!(made() < plan.prepare_at && plan.prepare_at < plan.publish_at);
            prop_assert_eq!(plan.publish_at + plan.lead, plan.use_at);
            prop_assert!(plan.use_at < made() + ca_ttl / 2);
            prop_assert!(plan.lead >= refresh_hint(ca_ttl));
        }

        #[test]
        fn a_lead_leaves_half_of_what_is_left_of_the_active_key_and_most_of_the_next_one(
            late in 0_u64..604_800, ca_ttl in 40_u64..604_800,
        ) {
            let now = made() + Duration::from_secs(late);
            let (active, next) = (life(made(), WEEK), life(now, Duration::from_secs(ca_ttl)));
            let lead = lead_before(&plan(made(), made() + WEEK), &active, &next, now);
            prop_assert!(now + lead * 2 <= active.not_after && now + lead * 4 <= next.not_after);
        }
    }
}
