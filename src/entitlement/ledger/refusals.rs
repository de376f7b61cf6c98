//! The last decisions that gave nothing, by their names, for `explain --denial`. Bounded in number and in bytes: the oldest
//! goes first, and one caller cannot push out another's last ones, because each keeps at most its share.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::PoisonError;

use serde::Deserialize;
use serde::Serialize;

use crate::attestation::NotAttested;
use crate::attestation::host::sighting::Sighting;
use crate::evidence::Credentials;
use crate::evidence::Level;
use crate::evidence::Principal;
use crate::evidence::Providers;
use crate::evidence::Undecided;
use crate::policy::DecisionId;
use crate::policy::Denial;
use crate::policy::Trace;

/// How many records are kept in all.
pub const KEPT: usize = 4096;

/// How many records of one caller are kept.
pub const KEPT_PER_CALLER: usize = 64;

/// How many bytes the records take in all.
const BYTES: usize = 16 << 20;

/// How many bytes the records of one caller take.
const BYTES_PER_CALLER: usize = BYTES / 8;

/// Why a caller got nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCause {
    /// A completed "no".
    Denied(Denial),
    /// A check could not be completed.
    Undecided(Undecided),
    /// These providers have not answered, and nothing is permitted without them.
    Awaiting(Providers),
}

impl From<NotAttested> for RefusalCause {
    fn from(why: NotAttested) -> Self {
        match why {
            NotAttested::No(contradiction) => Self::Denied(Denial::NotAttested(contradiction)),
            NotAttested::Undecided(undecided) => Self::Undecided(undecided),
        }
    }
}

/// One decision that gave nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why.
    pub cause: RefusalCause,
    /// What it rested on; `None` when attestation itself came to no end.
    pub trace: Option<Trace>,
    /// What `/proc` showed of the caller right after it was refused.
    pub seen: Sighting,
    /// The caller.
    pub peer: Credentials,
    /// How it was pinned.
    pub level: Level,
    /// Seconds since 1970.
    pub at: f64,
}

impl Refusal {
    /// How many bytes of the heap it takes while it is kept.
    fn bytes(&self) -> usize {
        let cause = match &self.cause {
            RefusalCause::Denied(Denial::Audience { audience: text } | Denial::Withdrawn { id: text }) => {
                text.capacity()
            }
            RefusalCause::Awaiting(providers) => providers.len() * PROVIDER,
            RefusalCause::Denied(_) | RefusalCause::Undecided(_) => 0,
        };
        let trace = self.trace.as_ref().map_or(0, Trace::heap_bytes);
        size_of::<Self>() + cause + trace + self.seen.heap_bytes() + ACCOUNTS
    }
}

/// What a provider takes in a set, about.
const PROVIDER: usize = 64;
/// What the names of a refusal take in the maps and queues, about.
const ACCOUNTS: usize = 128;

/// The last refusals.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_id: HashMap<DecisionId, (Principal, usize, Refusal)>,
    per_caller: HashMap<Principal, OfCaller>,
    bytes: usize,
    /// How many were ever kept.
    numbered: u64,
}

/// What is kept of one caller.
#[derive(Debug, Default)]
struct OfCaller {
    /// Oldest first, each with its number.
    order: VecDeque<(u64, DecisionId)>,
    bytes: usize,
}

impl Refusals {
    /// Keeps a refusal under its name. The oldest of the same caller make room for it, and then those of whoever has most.
    /// One that is larger than the share of a caller is not kept.
    pub fn keep(&self, id: DecisionId, caller: Principal, refusal: Refusal) {
        let bytes = refusal.bytes();
        if bytes > BYTES_PER_CALLER {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.remove(id);
        let of_caller = |kept: &Kept| kept.per_caller.get(&caller).map_or((0, 0), |of| (of.order.len(), of.bytes));
        while let (count, held) = of_caller(&kept)
            && (count >= KEPT_PER_CALLER || held + bytes > BYTES_PER_CALLER)
        {
            kept.remove_oldest_of(caller);
        }
        while kept.by_id.len() >= KEPT || kept.bytes + bytes > BYTES {
            let Some(caller) = kept.largest() else { return };
            kept.remove_oldest_of(caller);
        }
        kept.add(id, caller, bytes, refusal);
    }

    /// The refusal of that name, while it is kept.
    #[must_use]
    pub fn find(&self, id: DecisionId) -> Option<Refusal> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.by_id.get(&id).map(|(_, _, refusal)| refusal.clone())
    }

    /// How many kept refusals were decided at or after `since`, in seconds since 1970.
    #[must_use]
    pub fn denied_since(&self, since: f64) -> usize {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.by_id.values().filter(|(_, _, r)| r.at >= since && matches!(r.cause, RefusalCause::Denied(_))).count()
    }
}

impl Kept {
    fn add(&mut self, id: DecisionId, caller: Principal, bytes: usize, refusal: Refusal) {
        self.by_id.insert(id, (caller, bytes, refusal));
        self.numbered += 1;
        let of_caller = self.per_caller.entry(caller).or_default();
        of_caller.order.push_back((self.numbered, id));
        of_caller.bytes += bytes;
        self.bytes += bytes;
    }

    /// Whoever has most; of those that have as much, the one with the oldest refusal.
    ///
    /// SECURITY: were it the oldest of all, a few callers could push out what others want explained.
    fn largest(&self) -> Option<Principal> {
        let key = |of: &OfCaller| (of.bytes, Reverse(of.order.front().map(|(number, _)| *number)));
        self.per_caller.iter().max_by_key(|(_, of)| key(of)).map(|(caller, _)| *caller)
    }

    /// INVARIANT: an account without a refusal is not kept.
    fn remove(&mut self, id: DecisionId) {
        let Some((caller, bytes, _)) = self.by_id.remove(&id) else { return };
        self.bytes -= bytes;
        let Some(of_caller) = self.per_caller.get_mut(&caller) else { return };
        of_caller.bytes -= bytes;
        of_caller.order.retain(|(_, other)| *other != id);
        if of_caller.order.is_empty() {
            self.per_caller.remove(&caller);
        }
    }

    fn remove_oldest_of(&mut self, caller: Principal) {
        let oldest = self.per_caller.get(&caller).and_then(|of| of.order.front().copied());
        if let Some((_, id)) = oldest {
            self.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::EvidenceSet;
    use crate::evidence::Grade;
    use crate::evidence::Selector;
    use crate::evidence::Source;

    /// A refusal with evidence of so many groups, all of them kept.
    fn refusal(groups: u32, at: f64) -> Refusal {
        let mut evidence = EvidenceSet::example(&["unix:uid:1000", "unix:path:/usr/bin/web"]);
        for gid in 0..groups {
            evidence.prove(Selector::UnixSupplementaryGid(gid), Grade::Kernel, Source::Status);
        }
        let peer = Credentials { pid: 1, uid: 1000, gid: 1000 };
        let (level, epoch) = (Level::Full, std::time::SystemTime::UNIX_EPOCH);
        let trace = Trace { peer, level, evidence, at: epoch, rulebook_epoch: 1, looked_at: 0, considered: Vec::new() };
        let (cause, seen) = (RefusalCause::Denied(Denial::NoEntry), Sighting::default());
        Refusal { cause, trace: Some(trace), seen, peer, level, at }
    }

    fn id(number: u64) -> DecisionId {
        let [.., a, b, c, d, e, f] = number.to_be_bytes();
        DecisionId([a, b, c, d, e, f])
    }

    fn kept_bytes(refusals: &Refusals) -> usize {
        let kept = refusals.0.lock().unwrap();
        let sum: usize = kept.by_id.values().map(|(_, _, refusal)| refusal.bytes()).sum();
        let of_callers: usize = kept.per_caller.values().map(|of| of.bytes).sum();
        assert_eq!((kept.bytes, of_callers), (sum, sum), "what is counted is what is kept");
        sum
    }

    #[test]
    fn attack_153_refusals_of_sixty_four_users_with_nine_thousand_groups_stay_within_their_bytes() {
        let refusals = Refusals::default();
        let victim = Principal::of_uid(7);
        refusals.keep(id(0), victim, refusal(0, 0.0));
        let large = refusal(9000, 1.0);
        for number in 1..=64 * 64_u64 {
            let caller = Principal::of_uid(1000 + u32::try_from(number / 64).unwrap());
            refusals.keep(id(number), caller, large.clone());
        }
        let kept = kept_bytes(&refusals);
        assert!(kept <= BYTES, "{kept} bytes");
        assert!(refusals.find(id(64 * 64)).is_some(), "the latest is kept");
        assert!(refusals.find(id(0)).is_some(), "and the only one of somebody else");
        assert!(large.bytes() > 9000 * size_of::<u32>(), "the size is an honest one");
    }

    #[test]
    fn the_refusals_of_one_caller_make_room_for_each_other_and_not_those_of_another() {
        let refusals = Refusals::default();
        let (victim, flood) = (Principal::of_uid(7), Principal::of_uid(8));
        refusals.keep(id(0), victim, refusal(0, 0.0));
        let large = refusal(9000, 1.0);
        for number in 1..=500 {
            refusals.keep(id(number), flood, large.clone());
        }
        assert!(refusals.find(id(0)).is_some(), "the other's is kept");
        assert!(refusals.find(id(1)).is_none() && refusals.find(id(500)).is_some());
        assert!(kept_bytes(&refusals) <= BYTES_PER_CALLER + refusal(0, 0.0).bytes());
        for number in 501..=1000 {
            refusals.keep(id(number), flood, refusal(0, 1.0));
        }
        assert_eq!(refusals.denied_since(1.0), KEPT_PER_CALLER);
        refusals.keep(id(1000), victim, refusal(0, 2.0));
        assert_eq!(refusals.denied_since(0.0), KEPT_PER_CALLER + 1, "one name is kept once");
        kept_bytes(&refusals);
    }

    #[test]
    fn of_many_callers_with_one_refusal_each_the_oldest_goes_first() {
        let refusals = Refusals::default();
        let one = refusal(0, 0.0);
        for number in 0..=u64::try_from(KEPT).unwrap() {
            refusals.keep(id(number), Principal::of_uid(u32::try_from(number).unwrap()), one.clone());
        }
        assert!(refusals.find(id(0)).is_none() && refusals.find(id(1)).is_some());
        assert_eq!(refusals.denied_since(0.0), KEPT);
    }

    #[test]
    fn a_refusal_above_the_share_of_a_caller_takes_nothing_away() {
        let refusals = Refusals::default();
        refusals.keep(id(0), Principal::of_uid(7), refusal(0, 0.0));
        refusals.keep(id(1), Principal::of_uid(7), refusal(200_000, 0.0));
        assert!(refusals.find(id(0)).is_some() && refusals.find(id(1)).is_none());
    }
}
