//! How fast a door is connected to: each user, and beyond its rate each principal, has so many connects in a second.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::evidence::Principal;
use crate::fairness::rate::Rate;
use crate::fairness::rate::TokenBuckets;

/// Buckets, and principals that are remembered, of each kind.
const MOST: usize = 1024;
/// A door may be connected to as fast as so many uids may connect; beyond, a principal may connect so many times slower.
const UIDS: u32 = 4;
/// Of the connects beyond the rate of uids with one principal, so many times fewer are looked at.
const FURTHER: u32 = 16;
/// How long a principal is believed to be that of another process like the one that was pinned.
const KNOWN_FOR: Duration = Duration::from_secs(1);

/// The connects of one door.
///
/// SECURITY: pinning a process costs ten times what it costs the process to connect. So a connect beyond the rate is
/// closed before that, and the rate is the uid's, which costs one system call. Root of a container has the uid of root:
/// beyond the rate of a uid, or of the whole door, the principal's own rate counts, so that neither starves the other.
#[derive(Debug)]
pub struct Connects {
    rate: Rate,
    uids: TokenBuckets<u32>,
    principals: TokenBuckets<Option<Principal>>,
    strangers: TokenBuckets<()>,
    further: TokenBuckets<()>,
    door: TokenBuckets<()>,
}

/// The principals of processes that were pinned, by what is known of a process before: its uid and its cgroup's id.
#[derive(Debug, Default)]
pub struct KnownPrincipals {
    by_cgroup: HashMap<(u32, u64), (Principal, Instant)>,
    /// The first principal of each uid; `None` where it has another one.
    only: HashMap<u32, Option<Principal>>,
}

impl Connects {
    /// One principal may connect at this rate.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        let times = |count: u32| Rate { burst: rate.burst.saturating_mul(count), refill: rate.refill / count };
        let part = |count: u32| Rate { burst: (rate.burst / count).max(1), refill: rate.refill * count };
        Self {
            rate,
            uids: TokenBuckets::new(rate, MOST),
            principals: TokenBuckets::new(part(UIDS), MOST),
            strangers: TokenBuckets::new(part(UIDS), 1),
            further: TokenBuckets::new(part(FURTHER), 1),
            door: TokenBuckets::new(times(UIDS), 1),
        }
    }

    /// The rate that it goes by.
    #[must_use]
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Whether a connect of `uid` is within its rate and the door's.
    pub fn admits(&mut self, uid: u32, now: Instant) -> bool {
        self.uids.take(&uid, now) && self.door.take(&(), now)
    }

    /// Whether a connect beyond the rate of a uid that has one principal alone is looked at: another one may have come.
    pub fn looks_at_one_more(&mut self, now: Instant) -> bool {
        self.further.take(&(), now)
    }

    /// Whether a connect beyond that rate is within its principal's; all whose principal is not known have one together.
    pub fn admits_principal(&mut self, principal: Option<Principal>, now: Instant) -> bool {
        match principal {
            Some(_) => self.principals.take(&principal, now),
            None => self.strangers.take(&(), now),
        }
    }
}

impl KnownPrincipals {
    /// The principal of a process with this uid in this cgroup, as of the last one that was pinned, and whether that was a
    /// moment ago: whose a uid is, and whose a cgroup, can change.
    #[must_use]
    pub fn of(&self, uid: u32, cgroup: u64, now: Instant) -> Option<(Principal, bool)> {
        let (principal, at) = self.by_cgroup.get(&(uid, cgroup))?;
        Some((*principal, now.saturating_duration_since(*at) < KNOWN_FOR))
    }

    /// Whether one principal alone is known of this uid: then its rate is the uid's.
    #[must_use]
    pub fn is_alone(&self, uid: u32) -> bool {
        matches!(self.only.get(&uid), Some(Some(_)))
    }

    /// Remembers the principal of a process that was pinned.
    pub fn remember(&mut self, uid: u32, cgroup: u64, principal: Principal, now: Instant) {
        if self.by_cgroup.len() >= MOST && !self.by_cgroup.contains_key(&(uid, cgroup)) {
            *self = Self::default(); // the strangers' rate is enough to learn them anew
        }
        self.by_cgroup.insert((uid, cgroup), (principal, now));
        let only = self.only.entry(uid).or_insert(Some(principal));
        *only = only.filter(|known| *known == principal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 100, refill: Duration::from_millis(10) };

    #[test]
    fn root_of_a_container_takes_nothing_of_the_rate_of_root() {
        let (mut connects, now) = (Connects::new(RATE), Instant::now());
        let (root, container) = (Principal { uid: 0, cgroup: 1 }, Principal { uid: 0, cgroup: 2 });
        while connects.admits(0, now) {}
        let flooded = (0..1000).filter(|_| connects.admits_principal(Some(container), now)).count();
        assert_eq!(flooded, 25);
        assert!(connects.admits_principal(Some(root), now));
        assert!(connects.admits(1, now), "another uid has a rate of its own");
    }

    #[test]
    fn many_uids_of_one_principal_are_held_to_its_rate_once_the_door_is_above_its_own() {
        let (mut connects, now) = (Connects::new(RATE), Instant::now());
        let owner = Principal { uid: 1000, cgroup: 1 };
        let mut admitted = 0;
        for uid in 100_000..100_064 {
            admitted +=
                (0..100).filter(|_| connects.admits(uid, now) || connects.admits_principal(Some(owner), now)).count();
        }
        assert_eq!(admitted, 4 * 100 + 25);
        assert!(connects.admits_principal(Some(Principal { uid: 1001, cgroup: 1 }), now));
    }

    #[test]
    fn strangers_beyond_the_rate_share_a_part_of_it() {
        let (mut connects, now) = (Connects::new(RATE), Instant::now());
        while connects.looks_at_one_more(now) {}
        assert_eq!((0..1000).filter(|_| connects.admits_principal(None, now)).count(), 25);
    }

    #[test]
    fn a_uid_is_alone_until_a_second_principal_of_it_is_known() {
        let (mut known, now) = (KnownPrincipals::default(), Instant::now());
        let [first, second] = [1, 2].map(|cgroup| Principal { uid: 0, cgroup });
        assert!(!known.is_alone(0));
        known.remember(0, 10, first, now);
        known.remember(0, 11, first, now);
        assert!(known.is_alone(0));
        known.remember(0, 20, second, now);
        known.remember(0, 10, first, now);
        assert!(!known.is_alone(0));
    }

    #[test]
    fn no_more_principals_are_remembered_than_there_is_room_for() {
        let (mut known, now) = (KnownPrincipals::default(), Instant::now());
        let principal = Principal { uid: 1, cgroup: 0 };
        (0..10_000).for_each(|cgroup| known.remember(1, cgroup, principal, now));
        assert!(known.by_cgroup.len() <= MOST && known.only.len() == 1);
        assert_eq!((known.of(1, 9999, now), known.of(2, 9999, now)), (Some((principal, true)), None));
        assert_eq!(known.of(1, 9999, now + KNOWN_FOR), Some((principal, false)), "whose it is can have changed");
    }
}
