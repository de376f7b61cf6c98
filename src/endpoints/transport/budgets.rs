//! How many connections and streams each uid and each principal holds, and the limits of both.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::evidence::Principal;

/// The limits of one door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all. Each takes up to two descriptors, the socket and a handle of the process that all connections of
    /// the process share, and one more while it is attested.
    pub connections: usize,
    /// Connections of one principal.
    pub connections_per_caller: usize,
    /// Streams on one connection.
    pub streams_per_connection: u32,
    /// From the accept to the first request.
    pub first_request: Duration,
    /// How long a connection without a stream stays.
    pub idle: Duration,
    /// How long streams may take to end when the daemon stops.
    pub drain: Duration,
}

/// Descriptors that connections never take: the daemon's own, and some to attest with.
const KEPT_BACK: u64 = 40;

impl Limits {
    /// The defaults under a soft limit of `descriptors`: 27 % of it as connections, and for one principal 1,024, or half
    /// of all where that is less: no principal can take all connections.
    #[must_use]
    pub fn for_descriptors(descriptors: u64) -> Self {
        let share = usize::try_from(descriptors.saturating_mul(27) / 100).unwrap_or(usize::MAX);
        Self::for_connections(share.clamp(2, Self::most_connections(descriptors)))
    }

    /// The most connections that leave the daemon the descriptors it needs itself, and those of processes that were
    /// connected until a moment ago: without a free one it could not attest again who is connected.
    #[must_use]
    pub fn most_connections(descriptors: u64) -> usize {
        usize::try_from((descriptors - descriptors / 20).saturating_sub(KEPT_BACK) / 3).unwrap_or(usize::MAX).max(2)
    }

    /// The defaults of a door with so many connections in all.
    #[must_use]
    pub fn for_connections(connections: usize) -> Self {
        Self {
            connections,
            connections_per_caller: (connections / 2).clamp(1, 1024),
            streams_per_connection: 100,
            first_request: Duration::from_secs(5),
            idle: Duration::from_secs(120),
            drain: Duration::from_secs(3),
        }
    }

    /// A uid may be several principals, and still may not take all connections.
    fn connections_per_uid(&self) -> usize {
        self.connections_per_caller.max(self.connections / 2)
    }

    /// Streams of one principal over all its connections.
    fn streams_per_caller(&self) -> usize {
        self.connections_per_caller.saturating_mul(16)
    }
}

/// Which limit a new connection or stream would go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum OverBudget {
    /// [`Limits::connections`]
    #[error("the daemon has as many connections as it may")]
    Connections,
    /// The uid has as many connections as it may.
    #[error("the user has as many connections as it may")]
    Uid,
    /// [`Limits::connections_per_caller`]
    #[error("the caller has as many connections as it may")]
    Caller,
    /// The caller has as many streams as it may.
    #[error("the caller has as many streams as it may")]
    Streams,
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
}

#[derive(Debug, Default)]
struct Held {
    usage: Usage,
    by_uid: HashMap<u32, usize>,
    by_caller: HashMap<Principal, usize>,
    streams: HashMap<Principal, usize>,
}

impl Budgets {
    /// Nothing held.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits: Arc::new(ArcSwap::from_pointee(limits)), held: Arc::default() }
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> Arc<Limits> {
        self.limits.load_full()
    }

    /// Changes the limits. What is held stays held, also where that is more than may be held from now on; a connection
    /// keeps the times and the number of streams that it began with.
    pub fn set_limits(&self, limits: Limits) {
        self.limits.store(Arc::new(limits));
    }

    /// What is held now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.held().usage
    }

    /// Charges a connection to `uid`, which is known before the process is pinned.
    ///
    /// # Errors
    /// [`OverBudget::Connections`], [`OverBudget::Uid`]
    pub fn connection(&self, uid: u32) -> Result<ConnectionCharge, OverBudget> {
        let (mut held, limits) = (self.held(), self.limits.load());
        if held.usage.connections >= limits.connections {
            return Err(held.refuse(OverBudget::Connections));
        }
        if !add(&mut held.by_uid, uid, limits.connections_per_uid()) {
            return Err(held.refuse(OverBudget::Uid));
        }
        held.usage.connections += 1;
        Ok(ConnectionCharge { budgets: self.clone(), uid, caller: None })
    }

    /// Charges a stream.
    ///
    /// # Errors
    /// [`OverBudget::Streams`]
    pub fn stream(&self, caller: Principal) -> Result<StreamCharge, OverBudget> {
        let mut held = self.held();
        if !add(&mut held.streams, caller, self.limits.load().streams_per_caller()) {
            return Err(held.refuse(OverBudget::Streams));
        }
        held.usage.streams += 1;
        Ok(StreamCharge { budgets: self.clone(), caller })
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
}

/// A connection that is held; given back when dropped.
#[derive(Debug)]
#[must_use]
pub struct ConnectionCharge {
    budgets: Budgets,
    uid: u32,
    caller: Option<Principal>,
}

impl ConnectionCharge {
    /// Charges it to the caller, too, once that is known.
    ///
    /// # Errors
    /// [`OverBudget::Caller`]
    pub fn charge_to(&mut self, caller: Principal) -> Result<(), OverBudget> {
        let mut held = self.budgets.held();
        if !add(&mut held.by_caller, caller, self.budgets.limits.load().connections_per_caller) {
            return Err(held.refuse(OverBudget::Caller));
        }
        self.caller = Some(caller);
        Ok(())
    }
}

impl Drop for ConnectionCharge {
    fn drop(&mut self) {
        let mut held = self.budgets.held();
        held.usage.connections -= 1;
        subtract(&mut held.by_uid, self.uid);
        if let Some(caller) = self.caller {
            subtract(&mut held.by_caller, caller);
        }
    }
}

/// A stream that is held; given back when dropped.
#[derive(Debug)]
#[must_use]
pub struct StreamCharge {
    budgets: Budgets,
    caller: Principal,
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

/// INVARIANT: an account at zero is not kept, so the accounts are never more than the connections.
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
    use super::*;

    const A: Principal = Principal { uid: 1, cgroup: 7 };
    const B: Principal = Principal { uid: 1, cgroup: 8 };

    fn budgets(connections: usize, connections_per_caller: usize) -> Budgets {
        Budgets::new(Limits { connections, connections_per_caller, ..Limits::for_descriptors(1024) })
    }

    #[test]
    fn no_caller_can_take_the_whole_door_by_default() {
        for descriptors in [0, 64, 1024, 30_000, u64::MAX] {
            let limits = Limits::for_descriptors(descriptors);
            assert!(limits.connections_per_uid() < limits.connections, "{descriptors}: {limits:?}");
        }
        assert_eq!(Limits::for_connections(100).connections_per_caller, 50);
        assert_eq!(Limits::for_descriptors(30_000).connections, 8100);
        assert_eq!(Limits::for_descriptors(64).connections, 7);
        assert_eq!(Limits::for_descriptors(30_000).connections_per_caller, 1024);
    }

    #[test]
    fn a_user_at_its_limit_leaves_room_for_another() {
        let budgets = budgets(4, 2);
        let held: Vec<_> = (0..2).map(|_| budgets.connection(1).unwrap()).collect();
        assert_eq!(budgets.connection(1).unwrap_err(), OverBudget::Uid);
        drop(budgets.connection(2).unwrap());
        drop(held);
        assert_eq!(budgets.usage(), Usage { connections: 0, streams: 0, refused: 1 });
        assert!(budgets.held().by_uid.is_empty(), "no account outlives its connections");
    }

    #[test]
    fn one_cgroup_of_a_user_at_its_limit_leaves_room_for_the_next() {
        let budgets = budgets(8, 1);
        let mut first = budgets.connection(1).unwrap();
        first.charge_to(A).unwrap();
        let mut second = budgets.connection(1).unwrap();
        assert_eq!(second.charge_to(A).unwrap_err(), OverBudget::Caller);
        second.charge_to(B).unwrap();
        drop(first);
        budgets.connection(1).unwrap().charge_to(A).unwrap();
    }

    #[test]
    fn changed_limits_count_for_the_next_connection_and_end_none() {
        let budgets = budgets(8, 4);
        let held: Vec<_> = (0..4).map(|_| budgets.connection(A.uid).unwrap()).collect();
        budgets.set_limits(Limits { connections: 2, ..Limits::clone(&budgets.limits()) });
        assert_eq!(budgets.connection(B.uid).unwrap_err(), OverBudget::Connections);
        assert_eq!(budgets.usage().connections, 4);
        drop(held);
        drop(budgets.connection(B.uid).unwrap());
    }

    #[test]
    fn streams_are_charged_over_all_connections_of_a_caller() {
        let budgets = budgets(8, 1);
        let held: Vec<_> = (0..16).map(|_| budgets.stream(A).unwrap()).collect();
        assert_eq!(budgets.stream(A).unwrap_err(), OverBudget::Streams);
        drop(budgets.stream(B).unwrap());
        drop(held);
        assert_eq!(budgets.usage().streams, 0);
    }
}
