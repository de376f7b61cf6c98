//! In which order the ready work of principals has its turn: of the principal that has used the least time, whatever number
//! it has waiting. Pure: knows neither tasks nor a clock.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::time::Duration;

use crate::evidence::Principal;

/// What one turn is charged at least and at most. The clock goes on while the kernel runs another thread, so a turn that
/// took longer says little about its principal.
const LEAST: Duration = Duration::from_micros(1);
const MOST: Duration = Duration::from_millis(2);

/// Accounts without a member that are kept for what they have used.
const PAST_ACCOUNTS: usize = 1024;

/// Ready work of principals, in the order of its turns.
#[derive(Debug)]
pub(super) struct FairQueue<T> {
    accounts: HashMap<Principal, Account<T>>,
    /// The principals that have ready work, the one that has used the least first.
    ready: BTreeSet<(Duration, Principal)>,
    /// What the principal of the latest turn had used before it. Who comes back after a pause begins here: time that was
    /// not used is not saved.
    level: Duration,
    /// The members of all accounts.
    members: usize,
}

#[derive(Debug)]
struct Account<T> {
    used: Duration,
    members: usize,
    ready: VecDeque<T>,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { accounts: HashMap::new(), ready: BTreeSet::new(), level: Duration::ZERO, members: 0 }
    }
}

impl<T> FairQueue<T> {
    fn account(&mut self, principal: Principal) -> &mut Account<T> {
        let used = self.level;
        self.accounts.entry(principal).or_insert_with(|| Account { used, members: 0, ready: VecDeque::new() })
    }

    /// Counts a member more, whose work will be ready at times.
    pub(super) fn join(&mut self, principal: Principal) {
        self.account(principal).members += 1;
        self.members += 1;
    }

    /// Counts a member less. What an account without one has used is kept for a while: a principal with a new connection for
    /// each request pays, too.
    pub(super) fn leave(&mut self, principal: Principal) {
        if let Some(account) = self.accounts.get_mut(&principal) {
            account.members = account.members.saturating_sub(1);
            self.members = self.members.saturating_sub(1);
        }
        if self.accounts.len() > PAST_ACCOUNTS + self.members {
            self.accounts.retain(|_, account| account.members > 0);
        }
    }

    /// Adds ready work, behind the principal's own.
    pub(super) fn push(&mut self, principal: Principal, work: T) {
        let level = self.level;
        let account = self.account(principal);
        account.ready.push_back(work);
        if account.ready.len() == 1 {
            account.used = account.used.max(level);
            let key = (account.used, principal);
            self.ready.insert(key);
        }
    }

    /// Takes out the ready work of a principal that `is_it`.
    pub(super) fn remove(&mut self, principal: Principal, is_it: impl Fn(&T) -> bool) {
        let Some(account) = self.accounts.get_mut(&principal) else { return };
        account.ready.retain(|work| !is_it(work));
        if account.ready.is_empty() {
            self.ready.remove(&(account.used, principal));
        }
    }

    /// The work whose turn is next.
    pub(super) fn next(&mut self) -> Option<(Principal, T)> {
        let (used, principal) = self.ready.pop_first()?;
        self.level = self.level.max(used);
        let account = self.accounts.get_mut(&principal)?;
        let work = account.ready.pop_front()?;
        if !account.ready.is_empty() {
            self.ready.insert((used, principal));
        }
        Some((principal, work))
    }

    /// Charges a turn.
    pub(super) fn charge(&mut self, principal: Principal, time: Duration) {
        let Some(account) = self.accounts.get_mut(&principal) else { return };
        let before = (account.used, principal);
        account.used += time.clamp(LEAST, MOST);
        if self.ready.remove(&before) {
            self.ready.insert((account.used, principal));
        }
    }

    /// How much work of a principal is ready.
    #[cfg(test)]
    pub(super) fn ready_of(&self, principal: Principal) -> usize {
        self.accounts.get(&principal).map_or(0, |account| account.ready.len())
    }

    /// Whether no work is ready.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// How many members a principal has.
    #[cfg(test)]
    pub(super) fn members_of(&self, principal: Principal) -> usize {
        self.accounts.get(&principal).map_or(0, |account| account.members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(uid: u32) -> Principal {
        Principal::of_uid(uid)
    }

    #[test]
    fn time_is_what_is_shared_and_none_is_saved_in_a_pause() {
        let mut queue = FairQueue::default();
        let cost = |principal: Principal| Duration::from_micros(if principal.uid == 1 { 500 } else { 100 });
        (0..100).for_each(|number| queue.push(principal(1), number));
        (0..100).for_each(|number| queue.push(principal(2), number));
        let mut turns = [0; 4];
        let mut take = |queue: &mut FairQueue<u32>, count| {
            for _ in 0..count {
                let (principal, _) = queue.next().unwrap();
                turns[principal.uid as usize] += 1;
                queue.charge(principal, cost(principal));
            }
            turns
        };
        assert_eq!(take(&mut queue, 60), [0, 10, 50, 0]);
        (0..100).for_each(|number| queue.push(principal(3), number));
        let turns = take(&mut queue, 11);
        assert!((4..=6).contains(&turns[3]), "a newcomer has its share, and nothing of the past: {turns:?}");
    }

    #[test]
    fn accounts_without_members_are_forgotten_once_there_are_many() {
        let mut queue = FairQueue::<()>::default();
        queue.join(principal(0));
        for uid in 1..10_000 {
            queue.join(principal(uid));
            queue.leave(principal(uid));
        }
        assert!(queue.accounts.len() <= PAST_ACCOUNTS + 2);
        assert_eq!(queue.members_of(principal(0)), 1);
    }
}
