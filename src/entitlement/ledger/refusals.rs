//! The last decisions that gave nothing, by their names, for `explain --denial`. Bounded: the oldest goes first, and one
//! caller cannot push out another's last ones, because each keeps at most its share.

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

/// The last refusals.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_id: HashMap<DecisionId, (Principal, Refusal)>,
    order: VecDeque<DecisionId>,
    per_caller: HashMap<Principal, VecDeque<DecisionId>>,
}

impl Refusals {
    /// Keeps a refusal under its name.
    pub fn keep(&self, id: DecisionId, caller: Principal, refusal: Refusal) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.by_id.insert(id, (caller, refusal));
        kept.order.push_back(id);
        let of_caller = kept.per_caller.entry(caller).or_default();
        of_caller.push_back(id);
        if of_caller.len() > KEPT_PER_CALLER
            && let Some(oldest) = of_caller.pop_front()
        {
            kept.by_id.remove(&oldest);
        }
        kept.drop_oldest();
    }

    /// The refusal of that name, while it is kept.
    #[must_use]
    pub fn find(&self, id: DecisionId) -> Option<Refusal> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.by_id.get(&id).map(|(_, refusal)| refusal.clone())
    }

    /// How many kept refusals were decided at or after `since`, in seconds since 1970.
    #[must_use]
    pub fn denied_since(&self, since: f64) -> usize {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.by_id.values().filter(|(_, r)| r.at >= since && matches!(r.cause, RefusalCause::Denied(_))).count()
    }
}

impl Kept {
    /// INVARIANT: `order` holds every key of `by_id`, and some that are gone already; it is cleaned when it is twice as
    /// long as it may be.
    fn drop_oldest(&mut self) {
        while self.by_id.len() > KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            let Some((caller, _)) = self.by_id.remove(&oldest) else { continue };
            if let Some(of_caller) = self.per_caller.get_mut(&caller) {
                of_caller.retain(|id| *id != oldest);
                if of_caller.is_empty() {
                    self.per_caller.remove(&caller);
                }
            }
        }
        if self.order.len() > 2 * KEPT {
            let by_id = &self.by_id;
            self.order.retain(|id| by_id.contains_key(id));
        }
    }
}
