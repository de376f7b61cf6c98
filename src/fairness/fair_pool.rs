//! A pool of places, with a queue per principal before it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use tokio::sync::Semaphore;

use crate::evidence::Principal;

/// Places that principals share: each principal has a queue of its own, and of each only so many stand in the queue of the
/// pool or hold a place. Both queues are first come, first served.
///
/// SECURITY: a principal with a thousand requests delays another one by at most the requests of its own that may be in the
/// pool at once. Where that number is below the number of places, it delays nobody.
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

/// A place in the pool, given back when this is dropped. It borrows nothing, so that a thread can keep it for longer than
/// the caller waits.
#[derive(Debug)]
#[must_use]
pub struct Ticket {
    shared: Arc<Shared>,
    principal: Principal,
    queue: Arc<Semaphore>,
    reached: Reached,
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    Queue,
    Pool,
    Place,
}

impl FairPool {
    /// A pool of `places`, of which one principal may take or wait for `per_principal` at once. At least one of each.
    #[must_use]
    pub fn new(places: usize, per_principal: usize) -> Self {
        let shared = Shared {
            per_principal: per_principal.max(1),
            places: Semaphore::new(places.max(1)),
            queues: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Waits for a place that is charged to `principal`. Dropping the wait leaves both queues.
    pub async fn enter(&self, principal: Principal) -> Ticket {
        let mut ticket = Ticket::queued(&self.shared, principal);
        // INVARIANT: neither semaphore is ever closed, so that waiting cannot fail. `forget` moves the permit into
        // `reached`, from where the drop gives it back.
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
        // RACE: tickets are made and dropped under this lock. Two owners (the table and this ticket) means that nobody else
        // is in the queue, and nobody can enter it before it is removed.
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
    async fn a_principal_leaves_places_to_others() {
        let pool = FairPool::new(3, 2);
        let (first, _second) = (pool.enter(principal(1)).await, pool.enter(principal(1)).await);
        assert!(pool.enter(principal(1)).now_or_never().is_none());
        assert!(pool.enter(principal(2)).now_or_never().is_some());
        drop(first);
        assert!(pool.enter(principal(1)).now_or_never().is_some());
    }

    #[tokio::test]
    async fn the_only_place_goes_to_a_stranger_before_the_second_of_a_crowd() {
        let pool = FairPool::new(1, 1);
        let busy = pool.enter(principal(1)).await;
        let mut crowd: Vec<_> = (0..1000).map(|_| Box::pin(pool.enter(principal(1)))).collect();
        for one in &mut crowd {
            assert!(one.now_or_never().is_none());
        }
        let mut stranger = Box::pin(pool.enter(principal(2)));
        assert!((&mut stranger).now_or_never().is_none());
        drop(busy);
        assert!(stranger.now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_dropped_wait_blocks_nobody_and_leaves_nothing_behind() {
        let pool = FairPool::new(1, 1);
        let busy = pool.enter(principal(1)).await;
        let mut own = Box::pin(pool.enter(principal(1)));
        let mut stranger = Box::pin(pool.enter(principal(2)));
        assert!((&mut own).now_or_never().is_none());
        assert!((&mut stranger).now_or_never().is_none());
        drop((own, stranger));
        drop(busy);
        assert!(pool.shared.queues().is_empty());
        assert!(pool.enter(principal(1)).now_or_never().is_some());
        assert_eq!(pool.shared.places.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_thread_keeps_its_place_after_the_caller_has_given_up() {
        let pool = FairPool::new(2, 1);
        let ticket = pool.enter(principal(1)).await;
        let (let_go, hangs) = mpsc::channel::<()>();
        let thread = tokio::task::spawn_blocking(move || {
            let _kept_to_the_end = ticket;
            hangs.recv()
        });
        assert!(pool.enter(principal(1)).now_or_never().is_none());
        assert!(pool.enter(principal(2)).now_or_never().is_some());
        let_go.send(()).unwrap();
        thread.await.unwrap().unwrap();
        assert!(pool.enter(principal(1)).now_or_never().is_some());
    }

    proptest! {
        #[test]
        fn no_place_is_lost_and_none_is_idle_while_somebody_may_have_it(
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
                // Twice: the first turn may admit a request to the pool only after another was polled.
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
