//! How many bytes each principal has the daemon hold: what it sent and is not answered yet, what it has not read, and what
//! is remembered of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::evidence::Principal;

/// A principal above this part of all bytes gets none of the last quarter.
const FEW: usize = 64;

/// The limits of one budget, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteLimits {
    /// Of all principals together.
    pub total: usize,
    /// Of one principal.
    pub each: usize,
}

impl ByteLimits {
    /// An eighth of the whole for one principal (SPEC: product contract §7).
    #[must_use]
    pub fn of(total: usize) -> Self {
        Self { total, each: total / 8 }
    }

    /// How many bytes a principal may hold while others hold `others`.
    ///
    /// SECURITY: eight principals could hold everything. The last quarter is kept for those that hold few.
    fn most(&self, others: usize) -> usize {
        let free = (self.total - self.total / 4).saturating_sub(others).max(self.total / FEW);
        self.each.min(free).min(self.total.saturating_sub(others))
    }
}

/// The principal, or all together, hold as much as they may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("the caller has the daemon hold as much as it may")]
pub struct OutOfBytes;

/// Bytes that principals share. Clones are the same budget.
#[derive(Debug, Clone)]
pub struct ByteBudget(Arc<Mutex<Held>>);

#[derive(Debug)]
struct Held {
    limits: ByteLimits,
    total: usize,
    by_principal: HashMap<Principal, usize>,
}

/// Bytes that are held; given back when dropped.
#[derive(Debug)]
#[must_use]
pub struct HeldBytes {
    budget: ByteBudget,
    principal: Principal,
    bytes: usize,
}

impl ByteBudget {
    /// Nothing held.
    #[must_use]
    pub fn new(limits: ByteLimits) -> Self {
        Self(Arc::new(Mutex::new(Held { limits, total: 0, by_principal: HashMap::new() })))
    }

    /// Changes the limits. What is held stays held.
    pub fn set_limits(&self, limits: ByteLimits) {
        self.held().limits = limits;
    }

    /// How many bytes are held.
    #[must_use]
    pub fn used(&self) -> usize {
        self.held().total
    }

    /// Charges `bytes` to `principal`.
    ///
    /// # Errors
    /// [`OutOfBytes`]
    pub fn hold(&self, principal: Principal, bytes: usize) -> Result<HeldBytes, OutOfBytes> {
        let mut held = HeldBytes { budget: self.clone(), principal, bytes: 0 };
        held.resize(bytes)?;
        Ok(held)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeldBytes {
    /// Charges so many bytes in all from now on. Fewer than before always succeeds.
    ///
    /// # Errors
    /// [`OutOfBytes`]; then it holds what it held.
    pub fn resize(&mut self, bytes: usize) -> Result<(), OutOfBytes> {
        if bytes == self.bytes {
            return Ok(());
        }
        self.budget.held().replace(self.principal, self.bytes, bytes)?;
        self.bytes = bytes;
        Ok(())
    }

    /// How many bytes these are.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        let released = self.resize(0);
        debug_assert!(released.is_ok(), "fewer bytes always fit");
    }
}

impl Held {
    /// INVARIANT: an account at zero is not kept, so there are never more accounts than there are holders.
    fn replace(&mut self, principal: Principal, before: usize, after: usize) -> Result<(), OutOfBytes> {
        let account = self.by_principal.get(&principal).copied().unwrap_or_default();
        let rest = account.saturating_sub(before);
        let next = rest.saturating_add(after);
        if after > before && next > self.limits.most(self.total.saturating_sub(account)) {
            return Err(OutOfBytes);
        }
        self.total = self.total.saturating_sub(before).saturating_add(after);
        match next {
            0 => drop(self.by_principal.remove(&principal)),
            _ => drop(self.by_principal.insert(principal, next)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn principal(uid: u32) -> Principal {
        Principal { uid, cgroup: 0 }
    }

    fn budget() -> ByteBudget {
        ByteBudget::new(ByteLimits::of(6400))
    }

    #[test]
    fn one_principal_holds_an_eighth() {
        let budget = budget();
        let held = budget.hold(principal(1), 800).unwrap();
        assert_eq!(budget.hold(principal(1), 1).err(), Some(OutOfBytes));
        drop(budget.hold(principal(2), 800).unwrap());
        drop(held);
        assert_eq!(budget.used(), 0);
        assert!(budget.held().by_principal.is_empty(), "no account outlives what is held");
    }

    #[test]
    fn the_last_quarter_is_for_principals_that_hold_few() {
        let budget = budget();
        let greedy: Vec<_> = (0..8).map(|uid| budget.hold(principal(uid), 600).unwrap()).collect();
        assert_eq!(budget.used(), 4800);
        assert_eq!(budget.hold(principal(0), 1).err(), Some(OutOfBytes));
        let few: Vec<_> = (100..116).map(|uid| budget.hold(principal(uid), 100).unwrap()).collect();
        assert_eq!(budget.hold(principal(100), 1).err(), Some(OutOfBytes));
        assert_eq!(budget.hold(principal(200), 1).err(), Some(OutOfBytes), "more than there are in all");
        drop((greedy, few));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_refused_growth_keeps_what_was_held_and_fewer_always_fit() {
        let budget = budget();
        let mut held = budget.hold(principal(1), 700).unwrap();
        assert_eq!(held.resize(900), Err(OutOfBytes));
        assert_eq!((held.bytes(), budget.used()), (700, 700));
        budget.set_limits(ByteLimits::of(80));
        assert_eq!(held.resize(600), Ok(()));
        assert_eq!(held.resize(601), Err(OutOfBytes));
        drop(held);
        assert_eq!(budget.used(), 0);
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_the_parts_and_within_the_limits(
            steps in prop::collection::vec((0_u32..12, 0_usize..900, any::<bool>()), 0..200),
        ) {
            let (budget, mut held) = (budget(), Vec::<HeldBytes>::new());
            for (uid, bytes, holds) in steps {
                match held.len().checked_sub(1) {
                    Some(last) if !holds => {
                        let index = bytes % (last + 1);
                        if held[index].resize(bytes).is_err() {
                            drop(held.swap_remove(index));
                        }
                    }
                    _ => held.extend(budget.hold(principal(uid), bytes)),
                }
                let of = |uid| held.iter().filter(|held| held.principal == principal(uid)).map(HeldBytes::bytes).sum::<usize>();
                prop_assert_eq!(budget.used(), (0..12).map(of).sum::<usize>());
                prop_assert!(budget.used() <= 6400);
                prop_assert!((0..12).all(|uid| of(uid) <= 800));
                prop_assert!(budget.hold(principal(99), 100).is_ok() || budget.used() > 4800);
            }
        }
    }
}
