//! Who may use the processor next: as many keys in the making as there are cores, and one core less than that for any one
//! caller.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use tokio::sync::Semaphore;
use tokio::sync::SemaphorePermit;

use crate::evidence::Principal;

/// Turns, first come first served twice over: a caller's own requests wait for each other, and of each caller only so many
/// work, or wait for a core, that one core is left. So a stranger of a caller with a thousand streams finds a core free, or
/// is the next to have one; where there is one core only, the two alternate.
#[derive(Debug)]
pub(super) struct Turns {
    of_one_caller: usize,
    cores: Semaphore,
    lines: Mutex<HashMap<Principal, Arc<Semaphore>>>,
}

/// The right to work now; it ends when this is dropped.
#[must_use]
pub(super) struct Turn<'a> {
    _core: Option<SemaphorePermit<'a>>,
    _place: Place<'a>,
}

/// A place in a caller's own line, at its head once `head` is set. The line goes when the last place in it does.
struct Place<'a> {
    turns: &'a Turns,
    caller: Principal,
    line: Arc<Semaphore>,
    head: bool,
}

impl Turns {
    pub(super) fn new(cores: usize) -> Self {
        Self {
            of_one_caller: cores.saturating_sub(1).max(1),
            cores: Semaphore::new(cores.max(1)),
            lines: Mutex::default(),
        }
    }

    /// Waits for this caller's turn. Dropping the wait gives the place up.
    pub(super) async fn take(&self, caller: Principal) -> Turn<'_> {
        let line =
            Arc::clone(self.lines().entry(caller).or_insert_with(|| Arc::new(Semaphore::new(self.of_one_caller))));
        let mut place = Place { turns: self, caller, line, head: false };
        // INVARIANT: neither semaphore is ever closed, so that waiting cannot fail.
        if let Ok(head) = place.line.acquire().await {
            head.forget();
        }
        place.head = true;
        Turn { _core: self.cores.acquire().await.ok(), _place: place }
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<Principal, Arc<Semaphore>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.head {
            self.line.add_permits(1);
        }
        // RACE: places are made and dropped under this lock, so two owners (the table and this place) means that nobody
        // else stands here, and nobody can come before the line has gone.
        let mut lines = self.turns.lines();
        if Arc::strong_count(&self.line) == 2 {
            lines.remove(&self.caller);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::FutureExt;

    use super::*;

    fn caller(uid: u32) -> Principal {
        Principal { uid, cgroup: 0 }
    }

    #[tokio::test]
    async fn a_caller_leaves_one_core_to_others() {
        let turns = Turns::new(3);
        let (first, _second) = (turns.take(caller(1)).await, turns.take(caller(1)).await);
        assert!(turns.take(caller(1)).now_or_never().is_none());
        assert!(turns.take(caller(2)).now_or_never().is_some());
        drop(first);
        assert!(turns.take(caller(1)).now_or_never().is_some());
    }

    #[tokio::test]
    async fn on_one_core_a_stranger_comes_next_although_a_thousand_of_another_wait() {
        let turns = Turns::new(1);
        let busy = turns.take(caller(1)).await;
        let mut crowd: Vec<_> = (0..1000).map(|_| Box::pin(turns.take(caller(1)))).collect();
        for one in &mut crowd {
            assert!(one.now_or_never().is_none());
        }
        let mut stranger = Box::pin(turns.take(caller(2)));
        assert!((&mut stranger).now_or_never().is_none());
        drop(busy);
        assert!(stranger.now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_blocks_nobody_and_leaves_nothing_behind() {
        let turns = Turns::new(1);
        let busy = turns.take(caller(1)).await;
        let mut given_up = Box::pin(turns.take(caller(1)));
        assert!((&mut given_up).now_or_never().is_none());
        drop(given_up);
        drop(busy);
        assert!(turns.lines().is_empty());
        assert!(turns.take(caller(1)).now_or_never().is_some());
        assert_eq!(turns.cores.available_permits(), 1);
    }
}
