//! A pool of places with one queue per principal in front of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use tokio::sync::Semaphore;

use crate::evidence::Principal;

/// Places that principals share. Each principal has its own queue; at most `per_principal` of its requests hold a place
/// or wait in the pool's queue. Both queues are first in, first out.
///
/// SECURITY: a principal with a thousand requests delays another one by at most `per_principal` requests. If that
/// number is below the number of places, one principal alone delays no other.
#[derive(Debug)]
pub struct FairPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    per_principal: usize,
    places: Semaphore,
    queues: Mutex<HashMap<Principal, Arc<Semaphore>>>,
}

/// A place in the pool, released on drop. It borrows nothing, so a thread can hold it after the caller has stopped
/// waiting.
#[derive(Debug)]
#[must_use]
pub struct Ticket {
    shared: Arc<Shared>,
    principal: Principal,
    queue: Arc<Semaphore>,
    reached: Reached,
}

/// The stage that a request has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    Queue,
    Pool,
    Place,
}

impl FairPool {
    /// A pool of `places`, of which one principal may hold or wait for `per_principal` at once. Zero counts as one.
    #[must_use]
    pub fn new(places: usize, per_principal: usize) -> Self {
        let shared = Shared {
            per_principal: per_principal.max(1),
            places: Semaphore::new(places.max(1)),
            queues: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Waits for a place that is charged to `principal`. Dropping the future leaves both queues.
    pub async fn enter(&self, principal: Principal) -> Ticket {
        let mut ticket = Ticket::queued(&self.shared, principal);
        // INVARIANT: neither semaphore is ever closed, so `acquire` cannot fail. After `forget`, `reached` stands for
        // the permit, and the drop of the ticket releases it.
        if let Ok(admitted) = ticket.queue.acquire().await {
            admitted.forget();
            ticket.reached = Reached::Pool;
        }
        if let Ok(place) = self.shared.places.acquire().await {
            place.forget();
            ticket.reached = Reached::Place;
        }
        ticket
    }
}

impl Shared {
    fn queues(&self) -> MutexGuard<'_, HashMap<Principal, Arc<Semaphore>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    fn queued(shared: &Arc<Shared>, principal: Principal) -> Self {
        let mut queues = shared.queues();
        let queue = queues.entry(principal).or_insert_with(|| Arc::new(Semaphore::new(shared.per_principal)));
        Self { shared: Arc::clone(shared), principal, queue: Arc::clone(queue), reached: Reached::Queue }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.reached == Reached::Place {
            self.shared.places.add_permits(1);
        }
        if self.reached != Reached::Queue {
            self.queue.add_permits(1);
        }
        // RACE: tickets are created and dropped under this lock. Two owners (the map and this ticket) mean that no
        // other ticket uses the queue, and none can start to before the queue is removed.
        let mut queues = self.shared.queues();
        if Arc::strong_count(&self.queue) == 2 {
            queues.remove(&self.principal);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::mpsc;

    use futures_util::future::FutureExt;
    use proptest::prelude::*;

    use super::*;

    fn principal(uid: u32) -> Principal {
        Principal { uid, cgroup: 0 }
    }

    #[tokio::test]
    async fn a_principal_cannot_take_every_place() {
        let pool = FairPool::new(3, 2);
        let (first, _second) = (pool.enter(principal(1)).await, pool.enter(principal(1)).await);
        assert!(pool.enter(principal(1)).now_or_never().is_none());
        assert!(pool.enter(principal(2)).now_or_never().is_some());
        drop(first);
        assert!(pool.enter(principal(1)).now_or_never().is_some());
    }

    #[tokio::test]
    async fn another_principal_gets_the_only_place_before_a_thousand_requests() {
        let pool = FairPool::new(1, 1);
        let busy = pool.enter(principal(1)).await;
        let mut crowd: Vec<_> = (0..1000).map(|_| Box::pin(pool.enter(principal(1)))).collect();
        for one in &mut crowd {
            assert!(one.now_or_never().is_none());
        }
        let mut other = Box::pin(pool.enter(principal(2)));
        assert!((&mut other).now_or_never().is_none());
        drop(busy);
        assert!(other.now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_dropped_request_releases_its_queue_and_its_place() {
        let pool = FairPool::new(1, 1);
        let busy = pool.enter(principal(1)).await;
        let mut own = Box::pin(pool.enter(principal(1)));
        let mut other = Box::pin(pool.enter(principal(2)));
        assert!((&mut own).now_or_never().is_none());
        assert!((&mut other).now_or_never().is_none());
        drop((own, other));
        drop(busy);
        assert!(pool.shared.queues().is_empty());
        assert!(pool.enter(principal(1)).now_or_never().is_some());
        assert_eq!(pool.shared.places.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_thread_keeps_its_place_after_the_caller_stops_waiting() {
        let pool = FairPool::new(2, 1);
        let ticket = pool.enter(principal(1)).await;
        let (release, blocked) = mpsc::channel::<()>();
        let thread = tokio::task::spawn_blocking(move || {
            let _held_until_the_end = ticket;
            blocked.recv()
        });
        assert!(pool.enter(principal(1)).now_or_never().is_none());
        assert!(pool.enter(principal(2)).now_or_never().is_some());
        release.send(()).unwrap();
        thread.await.unwrap().unwrap();
        assert!(pool.enter(principal(1)).now_or_never().is_some());
    }

    proptest! {
        #[test]
        fn no_place_is_lost_and_none_is_idle_while_a_request_may_take_it(
            places in 1_usize..4, per_principal in 1_usize..4, steps in prop::collection::vec((0_u32..3, 0_u8..3), 0..60),
        ) {
            let pool = FairPool::new(places, per_principal);
            let mut waiting: VecDeque<_> = VecDeque::new();
            let mut held: VecDeque<(u32, Ticket)> = VecDeque::new();
            for (uid, step) in steps {
                match step {
                    0 => waiting.push_back((uid, Box::pin(pool.enter(principal(uid))))),
                    1 => drop(held.pop_front()),
                    _ => drop(waiting.pop_back()),
                }
                // Twice: the first pass may admit a request to the pool only after another one was polled.
                for _ in 0..2 {
                    waiting.retain_mut(|(uid, wait)| match wait.as_mut().now_or_never() {
                        Some(ticket) => { held.push_back((*uid, ticket)); false }
                        None => true,
                    });
                }
                let held_by = |uid: u32| held.iter().filter(|(holder, _)| *holder == uid).count();
                prop_assert!(held.len() <= places);
                prop_assert!((0..3).all(|uid| held_by(uid) <= per_principal));
                let starved = waiting.iter().any(|(uid, _)| held_by(*uid) < per_principal);
                prop_assert!(!(starved && held.len() < places));
            }
            drop((waiting, held));
            prop_assert!(pool.shared.queues().is_empty());
            prop_assert_eq!(pool.shared.places.available_permits(), places);
        }
    }
}
