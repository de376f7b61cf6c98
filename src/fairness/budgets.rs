//! The accounts of one door: how many connections, streams and bytes each principal holds, how fast it connects, and
//! whose turn is next.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::evidence::Principal;
use crate::fairness::bytes::ByteBudget;
use crate::fairness::bytes::HeldBytes;
use crate::fairness::bytes::OutOfBytes;
use crate::fairness::connects::KnownPrincipals;
use crate::fairness::limits::CONNECTION_BYTES;
use crate::fairness::limits::Limits;
use crate::fairness::limits::STREAM_BYTES;
use crate::fairness::rate::Rate;
use crate::fairness::turns::TaskHandle;
use crate::fairness::turns::Turns;

/// A principal with less than this part of all connections may have those of the last quarter.
const FEW: usize = 64;

/// Which limit a new connection or stream would go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum OverBudget {
    /// The caller connects faster than it may.
    #[error("the caller connects faster than it may")]
    Rate,
    /// [`Limits::connections`], and nobody holds more than the caller.
    #[error("the daemon has as many connections as it may")]
    Connections,
    /// [`Limits::connections_per_caller`]
    #[error("the caller has as many connections as it may")]
    Caller,
    /// The caller has as many streams as it may.
    #[error("the caller has as many streams as it may")]
    Streams,
    /// [`Limits::memory`]
    #[error(transparent)]
    Bytes(#[from] OutOfBytes),
}

/// What is held now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Open connections.
    pub connections: usize,
    /// Open streams.
    pub streams: usize,
    /// Connections and streams refused since the start.
    pub refused: u64,
}

/// The accounts of one door. Clones share them.
#[derive(Debug, Clone)]
pub struct Budgets {
    limits: Arc<ArcSwap<Limits>>,
    held: Arc<Mutex<Held>>,
    bytes: ByteBudget,
    turns: Turns,
}

#[derive(Debug, Default)]
struct Held {
    usage: Usage,
    /// The tasks of each principal's connections, the newest last.
    connections: HashMap<Principal, BTreeMap<u64, TaskHandle>>,
    /// How many those are: all connections, but for those that were ended for another and are not gone yet.
    charged: usize,
    streams: HashMap<Principal, usize>,
    /// The number of the next connection.
    next: u64,
    known: KnownPrincipals,
}

impl Budgets {
    /// Nothing held.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let bytes = ByteBudget::new(limits.bytes());
        Self { limits: Arc::new(ArcSwap::from_pointee(limits)), held: Arc::default(), bytes, turns: Turns::default() }
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> Arc<Limits> {
        self.limits.load_full()
    }

    /// Changes the limits. What is held stays held, also where that is more than may be held from now on; a connection
    /// keeps the times and the number of streams that it began with.
    pub fn set_limits(&self, limits: Limits) {
        self.bytes.set_limits(limits.bytes());
        self.limits.store(Arc::new(limits));
    }

    /// What is held now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.held().usage
    }

    /// The bytes that principals have the daemon hold.
    #[must_use]
    pub fn bytes(&self) -> &ByteBudget {
        &self.bytes
    }

    /// The turns of the connections' tasks.
    #[must_use]
    pub fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Charges a connection to `principal`. A full door ends the newest connection of whoever holds most.
    ///
    /// # Errors
    /// [`OverBudget::Caller`], [`OverBudget::Bytes`]; [`OverBudget::Connections`] where nobody holds more than the caller.
    pub fn connection(&self, principal: Principal) -> Result<ConnectionCharge, OverBudget> {
        let account = self.charge(principal, None)?;
        self.held().usage.connections += 1;
        Ok(ConnectionCharge { budgets: self.clone(), account })
    }

    /// Makes room for a connection, which is in another account so far, or in none.
    fn charge(&self, principal: Principal, before: Option<(&Account, &TaskHandle)>) -> Result<Account, OverBudget> {
        let bytes = self.bytes.hold(principal, CONNECTION_BYTES);
        let mut held = self.held();
        let bytes = bytes.map_err(|why| held.refuse(why.into()))?;
        if let Some((account, _)) = before {
            held.leave(account);
        }
        let ends = match held.make_room(principal, &self.limits.load()) {
            Ok(ends) => ends,
            Err(why) => {
                held.refuse(why);
                drop(held);
                return Err(why);
            }
        };
        let number = held.next;
        held.next += 1;
        let task = before.map(|(_, task)| task.clone()).unwrap_or_default();
        held.connections.entry(principal).or_default().insert(number, task);
        held.charged += 1;
        held.usage.refused += u64::from(ends.is_some());
        drop(held);
        if let Some(newest) = ends {
            newest.end();
        }
        Ok(Account { principal, number, _bytes: bytes })
    }

    /// How fast one principal may connect.
    #[must_use]
    pub fn connect_rate(&self) -> Rate {
        self.limits.load().connects()
    }

    /// The principal of a process with this uid in this cgroup, where one like it was pinned before, and whether that was a
    /// moment ago.
    #[must_use]
    pub fn known_principal(&self, uid: u32, cgroup: u64) -> Option<(Principal, bool)> {
        self.held().known.of(uid, cgroup, Instant::now())
    }

    /// Whether one principal alone is known of this uid.
    #[must_use]
    pub fn is_alone(&self, uid: u32) -> bool {
        self.held().known.is_alone(uid)
    }

    /// Remembers the principal of a process that was pinned.
    pub fn remember(&self, uid: u32, cgroup: u64, principal: Principal) {
        self.held().known.remember(uid, cgroup, principal, Instant::now());
    }

    /// Counts a connection that came faster than it may.
    pub fn refuse_rate(&self) -> OverBudget {
        self.held().refuse(OverBudget::Rate)
    }

    /// Charges a stream; `further` where its connection has another one.
    ///
    /// # Errors
    /// [`OverBudget::Streams`], [`OverBudget::Bytes`]
    pub fn stream(&self, caller: Principal, further: bool) -> Result<StreamCharge, OverBudget> {
        let bytes = if further { self.bytes.hold(caller, STREAM_BYTES).map(Some) } else { Ok(None) };
        let mut held = self.held();
        let bytes = bytes.map_err(|why| held.refuse(why.into()))?;
        if !add(&mut held.streams, caller, self.limits.load().streams_per_caller()) {
            let refused = held.refuse(OverBudget::Streams);
            drop(held);
            return Err(refused);
        }
        held.usage.streams += 1;
        Ok(StreamCharge { budgets: self.clone(), caller, _bytes: bytes })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn refuse(&mut self, why: OverBudget) -> OverBudget {
        self.usage.refused += 1;
        why
    }

    /// INVARIANT: an account at zero is not kept, so the accounts are never more than the connections.
    fn leave(&mut self, account: &Account) {
        let Some(connections) = self.connections.get_mut(&account.principal) else { return };
        let was_charged = connections.remove(&account.number).is_some();
        if connections.is_empty() {
            self.connections.remove(&account.principal);
        }
        self.charged -= usize::from(was_charged); // otherwise it was ended for another
    }

    /// Makes room for a connection of `caller`. Returns the task that has to end for it.
    ///
    /// SECURITY: principals that hold many could take every place. A quarter is kept for those that hold few, and a full
    /// door takes from whoever holds most, so that in the end all hold alike.
    fn make_room(&mut self, caller: Principal, limits: &Limits) -> Result<Option<TaskHandle>, OverBudget> {
        let own = self.connections.get(&caller).map_or(0, BTreeMap::len);
        if own >= limits.connections_per_caller {
            return Err(OverBudget::Caller);
        }
        let many = own >= (limits.connections / FEW).max(1);
        let most = if many { limits.connections - limits.connections / 4 } else { limits.connections };
        if self.charged < most {
            return Ok(None);
        }
        let most_held = self.connections.values_mut().max_by_key(|connections| connections.len());
        let of_another = most_held.filter(|connections| connections.len() > own + 1);
        let (_, newest) = of_another.and_then(BTreeMap::pop_last).ok_or(OverBudget::Connections)?;
        self.charged -= 1;
        Ok(Some(newest))
    }
}

/// A connection that is held; given back when dropped.
#[derive(Debug)]
#[must_use]
pub struct ConnectionCharge {
    budgets: Budgets,
    account: Account,
}

/// A connection in the account of a principal.
#[derive(Debug)]
struct Account {
    principal: Principal,
    number: u64,
    _bytes: HeldBytes,
}

impl ConnectionCharge {
    /// The task that ends when the connection has to make room.
    pub fn ends(&self, task: &TaskHandle) {
        let mut held = self.budgets.held();
        let connections = held.connections.get_mut(&self.account.principal);
        if let Some(known) = connections.and_then(|connections| connections.get_mut(&self.account.number)) {
            *known = task.clone();
        }
    }

    /// Charges the connection, and its `task`, to the principal that it proves to have.
    ///
    /// # Errors
    /// As [`Budgets::connection`].
    pub fn charge_to(&mut self, principal: Principal, task: &TaskHandle) -> Result<(), OverBudget> {
        if principal != self.account.principal {
            self.account = self.budgets.charge(principal, Some((&self.account, task)))?;
            task.charge_to(principal);
        }
        Ok(())
    }
}

impl Drop for ConnectionCharge {
    fn drop(&mut self) {
        let mut held = self.budgets.held();
        held.usage.connections -= 1;
        held.leave(&self.account);
    }
}

/// A stream that is held; given back when dropped.
#[derive(Debug)]
#[must_use]
pub struct StreamCharge {
    budgets: Budgets,
    caller: Principal,
    _bytes: Option<HeldBytes>,
}

impl Drop for StreamCharge {
    fn drop(&mut self) {
        let mut held = self.budgets.held();
        held.usage.streams -= 1;
        subtract(&mut held.streams, self.caller);
    }
}

fn add<K: Eq + Hash>(accounts: &mut HashMap<K, usize>, key: K, limit: usize) -> bool {
    let account = accounts.entry(key).or_default();
    let fits = *account < limit;
    *account += usize::from(fits);
    fits
}

fn subtract<K: Eq + Hash>(accounts: &mut HashMap<K, usize>, key: K) {
    if let Some(account) = accounts.get_mut(&key) {
        *account -= 1;
        if *account == 0 {
            accounts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const A: Principal = Principal { uid: 1, cgroup: 7 };
    const B: Principal = Principal { uid: 1, cgroup: 8 };
    const C: Principal = Principal { uid: 2, cgroup: 7 };

    fn budgets(connections: usize, connections_per_caller: usize) -> Budgets {
        Budgets::new(Limits { connections, connections_per_caller, ..Limits::for_descriptors(1024) })
    }

    /// A connection as a task, which has its charge.
    fn connect(budgets: &Budgets, principal: Principal) -> Result<TaskHandle, OverBudget> {
        let charge = budgets.connection(principal)?;
        let mut handle = TaskHandle::default();
        budgets.turns().add(principal, |task| {
            charge.ends(&task);
            handle = task;
            async move {
                let _held = charge;
                pending::<()>().await;
            }
        });
        Ok(handle)
    }

    fn held_by(budgets: &Budgets, principal: Principal) -> usize {
        budgets.held().connections.get(&principal).map_or(0, BTreeMap::len)
    }

    #[test]
    fn one_cgroup_of_a_user_at_its_limit_leaves_room_for_the_next() {
        let budgets = budgets(8, 1);
        let first = connect(&budgets, A).unwrap();
        assert_eq!(connect(&budgets, A).err(), Some(OverBudget::Caller));
        connect(&budgets, B).unwrap();
        first.end();
        connect(&budgets, A).unwrap();
        assert_eq!(budgets.usage().refused, 1);
    }

    #[test]
    fn a_full_door_ends_the_newest_connection_of_whoever_holds_most() {
        let budgets = budgets(4, 4);
        for _ in 0..3 {
            connect(&budgets, A).unwrap();
        }
        assert_eq!(connect(&budgets, A).err(), Some(OverBudget::Connections), "the last quarter is for others");
        let oldest = *budgets.held().connections[&A].first_key_value().unwrap().0;
        connect(&budgets, B).unwrap();
        assert_eq!((held_by(&budgets, A), held_by(&budgets, B)), (3, 1));
        connect(&budgets, C).unwrap();
        assert_eq!((held_by(&budgets, A), held_by(&budgets, C)), (2, 1));
        assert_eq!(*budgets.held().connections[&A].first_key_value().unwrap().0, oldest);
        assert_eq!(connect(&budgets, C).err(), Some(OverBudget::Connections), "all hold alike, but for one");
        assert_eq!(budgets.usage().connections, 4);
    }

    #[test]
    fn a_connection_moves_to_the_principal_that_it_proves_to_have() {
        let budgets = budgets(8, 2);
        let unknown = Principal { uid: 1, cgroup: 0 };
        let (mut first, task) = (budgets.connection(unknown).unwrap(), TaskHandle::default());
        first.charge_to(A, &task).unwrap();
        assert_eq!((held_by(&budgets, unknown), held_by(&budgets, A), budgets.usage().connections), (0, 1, 1));
        let _second = budgets.connection(A).unwrap();
        let mut third = budgets.connection(unknown).unwrap();
        assert_eq!(third.charge_to(A, &task), Err(OverBudget::Caller));
        drop(third);
        assert_eq!((held_by(&budgets, unknown), budgets.usage().connections, budgets.held().charged), (0, 2, 2));
        assert_eq!(budgets.bytes().used(), 2 * CONNECTION_BYTES);
    }

    #[test]
    fn whatever_order_they_come_in_eight_floods_leave_a_place_to_everyone_who_holds_few() {
        let budgets = budgets(400, 50);
        for round in 0..100 {
            for uid in 0..8 {
                let _ = connect(&budgets, Principal { uid, cgroup: 1 });
            }
            connect(&budgets, Principal { uid: 1000 + round, cgroup: 1 }).unwrap();
        }
        assert!(budgets.usage().connections <= 400);
        assert!((0..100).all(|round| held_by(&budgets, Principal { uid: 1000 + round, cgroup: 1 }) == 1));
    }

    #[test]
    fn changed_limits_count_for_the_next_connection_and_end_none() {
        let budgets = budgets(8, 4);
        let held: Vec<_> = (0..4).map(|_| connect(&budgets, A).unwrap()).collect();
        budgets.set_limits(Limits { connections: 2, connections_per_caller: 8, ..Limits::clone(&budgets.limits()) });
        assert_eq!(connect(&budgets, A).err(), Some(OverBudget::Connections));
        assert_eq!(budgets.usage().connections, 4);
        held.iter().for_each(TaskHandle::end);
        connect(&budgets, C).unwrap();
        assert_eq!(budgets.usage().connections, 1);
    }

    #[test]
    fn streams_are_charged_over_all_connections_of_a_caller() {
        let budgets = budgets(8, 1);
        let held: Vec<_> = (0..16).map(|_| budgets.stream(A, false).unwrap()).collect();
        assert_eq!(budgets.stream(A, false).unwrap_err(), OverBudget::Streams);
        drop(budgets.stream(B, false).unwrap());
        drop(held);
        assert_eq!(budgets.usage().streams, 0);
    }

    #[test]
    fn a_connection_and_each_further_stream_are_charged_their_bytes() {
        let budgets = budgets(8, 4);
        let connection = connect(&budgets, A).unwrap();
        drop(budgets.stream(A, false).unwrap());
        assert_eq!(budgets.bytes().used(), CONNECTION_BYTES);
        let further = budgets.stream(A, true).unwrap();
        assert_eq!(budgets.bytes().used(), CONNECTION_BYTES + STREAM_BYTES);
        budgets.set_limits(Limits { memory: 0, connections_per_caller: 1, ..Limits::clone(&budgets.limits()) });
        assert_eq!(budgets.stream(A, true).unwrap_err(), OverBudget::Bytes(OutOfBytes));
        assert_eq!(connect(&budgets, B).err(), Some(OverBudget::Bytes(OutOfBytes)));
        drop(further);
        connection.end();
        assert_eq!((budgets.bytes().used(), budgets.usage().connections), (0, 0));
    }
}
