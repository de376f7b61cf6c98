//! Look-ups that may block for ever, kept away from everyone else: on few threads, one at a time for each principal, with
//! a time limit. Whoever asks gets what is known at once, and hears when there is more.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio::time::timeout;

use crate::attestation::source::Change;
use crate::attestation::source::Changes;
use crate::evidence::Principal;
use crate::evidence::Undecided;
use crate::fairness::FairPool;

/// Threads that may hang in a file system that does not answer.
const THREADS: usize = 16;
/// How long a look-up may take, its wait for a thread included.
pub(super) const LIMIT: Duration = Duration::from_secs(2);
/// How long a result is handed out to those who ask for the same.
const RESULT_TTL: Duration = Duration::from_secs(1);

/// Look-ups of values `V` by what is looked up.
#[derive(Debug)]
pub(super) struct Lookups<K, V>(Arc<Shared<K, V>>);

#[derive(Debug)]
struct Shared<K, V> {
    pool: FairPool,
    state: Mutex<State<K, V>>,
}

#[derive(Debug)]
struct State<K, V> {
    lookups: BTreeMap<K, Lookup<V>>,
    /// For each principal the look-up that did not come back in time, and has not yet.
    late: BTreeMap<Principal, K>,
}

#[derive(Debug)]
enum Lookup<V> {
    Running { principal: Principal, changes: Changes },
    Done { result: Result<V, Undecided>, at: Instant },
}

/// What is known of a look-up.
#[derive(Debug)]
pub(super) enum Progress<V> {
    /// Its result.
    Done(Result<V, Undecided>),
    /// It runs; the change is its end.
    Running(Change),
    /// One of the same principal has not come back in time. The change is its end.
    Late(Change),
}

/// Tells a look-up on its thread whether somebody still waits for it.
#[derive(Debug)]
pub(super) struct StillWanted(std::sync::Weak<()>);

impl StillWanted {
    pub(super) fn is_wanted(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl<K, V> Default for Lookups<K, V> {
    fn default() -> Self {
        let state = State { lookups: BTreeMap::new(), late: BTreeMap::new() };
        Self(Arc::new(Shared { pool: FairPool::new(THREADS, 1), state: Mutex::new(state) }))
    }
}

impl<K, V> Lookups<K, V>
where
    K: Ord + Clone + fmt::Debug + Send + Sync + 'static,
    V: Clone + fmt::Debug + Send + Sync + 'static,
{
    /// The result for `key`, or its progress. Begins the look-up where none runs and no result is left.
    pub(super) fn look_up(
        &self,
        key: K,
        principal: Principal,
        work: impl FnOnce(&StillWanted) -> Result<V, Undecided> + Send + 'static,
    ) -> Progress<V> {
        let mut state = self.0.state();
        state.lookups.retain(|_, lookup| !matches!(lookup, Lookup::Done { at, .. } if at.elapsed() >= RESULT_TTL));
        match state.lookups.get(&key) {
            Some(Lookup::Done { result, .. }) => return Progress::Done(result.clone()),
            Some(Lookup::Running { changes, .. }) if !state.late.contains_key(&principal) => {
                return Progress::Running(changes.next());
            }
            _ => {}
        }
        if let Some(end) = state.late.get(&principal).and_then(|late| state.end_of(late)) {
            return Progress::Late(end);
        }
        let Ok(runtime) = Handle::try_current() else { return Progress::Done(Err(Undecided::Kernel)) };
        let changes = Changes::default();
        let end = changes.next();
        state.lookups.insert(key.clone(), Lookup::Running { principal, changes });
        drop(state);
        runtime.spawn(run(Arc::clone(&self.0), key, principal, work));
        Progress::Running(end)
    }

    /// Says that somebody has waited for the look-ups of this principal as long as it may.
    pub(super) fn gave_up(&self, principal: Principal) {
        let mut state = self.0.state();
        let running = state.lookups.iter().find_map(|(key, lookup)| match lookup {
            Lookup::Running { principal: whose, .. } if *whose == principal => Some(key.clone()),
            _ => None,
        });
        if let Some(key) = running {
            state.late.entry(principal).or_insert(key);
        }
    }
}

/// Looks up on a thread, and notes the result; at [`LIMIT`] that there is none, and the result when it comes after all.
///
/// SECURITY: a thread that a file system never lets go keeps its place and its principal's, and nothing else: a principal
/// holds up itself, and everyone only from [`THREADS`] different groups of root's making.
async fn run<K, V>(
    shared: Arc<Shared<K, V>>,
    key: K,
    principal: Principal,
    work: impl FnOnce(&StillWanted) -> Result<V, Undecided> + Send + 'static,
) where
    K: Ord + Clone + fmt::Debug + Send + Sync + 'static,
    V: Clone + fmt::Debug + Send + Sync + 'static,
{
    let begun = Instant::now();
    let Ok(ticket) = timeout(LIMIT, shared.pool.enter(principal)).await else {
        return shared.state().end(&key, principal, Err(Undecided::TimedOut));
    };
    let wanted = Arc::new(());
    let still_wanted = StillWanted(Arc::downgrade(&wanted));
    let mut thread = tokio::task::spawn_blocking(move || {
        let _kept_to_the_end = ticket;
        work(&still_wanted)
    });
    let result = match timeout(LIMIT.saturating_sub(begun.elapsed()), &mut thread).await {
        Ok(result) => result,
        Err(_) => {
            drop(wanted);
            shared.state().is_late(&key, principal);
            thread.await
        }
    };
    shared.state().end(&key, principal, result.unwrap_or(Err(Undecided::Kernel)));
}

impl<K, V> Shared<K, V> {
    fn state(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord + Clone, V> State<K, V> {
    /// Notes that a look-up has not come back in time, and wakes those who wait for it.
    fn is_late(&mut self, key: &K, principal: Principal) {
        self.late.insert(principal, key.clone());
        if let Some(Lookup::Running { changes, .. }) = self.lookups.get(key) {
            changes.happened();
        }
    }

    fn end(&mut self, key: &K, principal: Principal, result: Result<V, Undecided>) {
        if self.late.get(&principal) == Some(key) {
            self.late.remove(&principal);
        }
        if let Some(lookup) = self.lookups.get_mut(key)
            && let Lookup::Running { changes, .. } =
                std::mem::replace(lookup, Lookup::Done { result, at: Instant::now() })
        {
            changes.happened();
        }
    }

    /// The end of a look-up that runs.
    fn end_of(&self, key: &K) -> Option<Change> {
        match self.lookups.get(key) {
            Some(Lookup::Running { changes, .. }) => Some(changes.next()),
            _ => None,
        }
    }
}
