//! Look-ups that may block for ever: on a bounded number of threads, one at a time per principal, with a time limit. A
//! caller gets the current progress at once, and a notification for its next change.

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

/// The most threads that may block in a file system.
const THREADS: usize = 16;
/// The time limit of a look-up, including its wait for a thread.
pub(super) const LIMIT: Duration = Duration::from_secs(2);
/// How long a result is reused for the same key.
const RESULT_TTL: Duration = Duration::from_secs(1);

/// Look-ups of values `V` by key `K`.
#[derive(Debug)]
pub(super) struct Lookups<K, V>(Arc<Shared<K, V>>);

#[derive(Debug)]
struct Shared<K, V> {
    pool: FairPool,
    table: Mutex<LookupTable<K, V>>,
}

#[derive(Debug)]
struct LookupTable<K, V> {
    lookups: BTreeMap<K, Lookup<V>>,
    /// By principal, a running look-up that is late: beyond [`LIMIT`], or a caller gave up waiting for it.
    late: BTreeMap<Principal, K>,
}

#[derive(Debug)]
enum Lookup<V> {
    Running { principal: Principal, changes: Changes },
    Done { result: Result<V, Undecided>, at: Instant },
}

/// The progress of a look-up.
#[derive(Debug)]
pub(super) enum Progress<V> {
    /// It has ended, with this result.
    Done(Result<V, Undecided>),
    /// It is running; the change is its end, or that it is late.
    Running(Change),
    /// Not started, because a look-up of the same principal is late. The change is that of the late one.
    Late(Change),
}

/// Tells a look-up on its thread whether it is still within [`LIMIT`].
#[derive(Debug)]
pub(super) struct StillWanted(std::sync::Weak<()>);

impl StillWanted {
    pub(super) fn is_wanted(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl<K, V> Default for Lookups<K, V> {
    fn default() -> Self {
        let table = LookupTable { lookups: BTreeMap::new(), late: BTreeMap::new() };
        Self(Arc::new(Shared { pool: FairPool::new(THREADS, 1), table: Mutex::new(table) }))
    }
}

impl<K, V> Lookups<K, V>
where
    K: Ord + Clone + fmt::Debug + Send + Sync + 'static,
    V: Clone + fmt::Debug + Send + Sync + 'static,
{
    /// The progress for `key`. Starts a look-up where none is running and no result can be reused.
    pub(super) fn look_up(
        &self,
        key: K,
        principal: Principal,
        work: impl FnOnce(&StillWanted) -> Result<V, Undecided> + Send + 'static,
    ) -> Progress<V> {
        let mut table = self.0.table();
        table.lookups.retain(|_, lookup| !matches!(lookup, Lookup::Done { at, .. } if at.elapsed() >= RESULT_TTL));
        match table.lookups.get(&key) {
            Some(Lookup::Done { result, .. }) => return Progress::Done(result.clone()),
            Some(Lookup::Running { changes, .. }) if !table.late.contains_key(&principal) => {
                return Progress::Running(changes.next());
            }
            _ => {}
        }
        if let Some(end) = table.late.get(&principal).and_then(|late| table.change_of(late)) {
            return Progress::Late(end);
        }
        let Ok(runtime) = Handle::try_current() else { return Progress::Done(Err(Undecided::Kernel)) };
        let changes = Changes::default();
        let end = changes.next();
        table.lookups.insert(key.clone(), Lookup::Running { principal, changes });
        drop(table);
        runtime.spawn(run(Arc::clone(&self.0), key, principal, work));
        Progress::Running(end)
    }

    /// Marks a running look-up of this principal as late: a caller waited the longest allowed time for it.
    pub(super) fn gave_up(&self, principal: Principal) {
        let mut table = self.0.table();
        let running = table.lookups.iter().find_map(|(key, lookup)| match lookup {
            Lookup::Running { principal: whose, .. } if *whose == principal => Some(key.clone()),
            _ => None,
        });
        if let Some(key) = running {
            table.late.entry(principal).or_insert(key);
        }
    }
}

/// Runs a look-up on a thread and records its result. At [`LIMIT`] it marks the look-up as late, and still records a
/// result that comes afterwards.
///
/// SECURITY: a thread that a file system blocks for ever keeps one place of the pool, and the only one of its
/// principal. So a principal delays only itself. To delay others takes [`THREADS`] principals: different users, or
/// cgroups that root made.
async fn run<K, V>(
    shared: Arc<Shared<K, V>>,
    key: K,
    principal: Principal,
    work: impl FnOnce(&StillWanted) -> Result<V, Undecided> + Send + 'static,
) where
    K: Ord + Clone + fmt::Debug + Send + Sync + 'static,
    V: Clone + fmt::Debug + Send + Sync + 'static,
{
    let started = Instant::now();
    let Ok(ticket) = timeout(LIMIT, shared.pool.enter(principal)).await else {
        return shared.table().finish(&key, principal, Err(Undecided::TimedOut));
    };
    let wanted = Arc::new(());
    let still_wanted = StillWanted(Arc::downgrade(&wanted));
    let mut thread = tokio::task::spawn_blocking(move || {
        let _held_until_the_end = ticket;
        work(&still_wanted)
    });
    let result = match timeout(LIMIT.saturating_sub(started.elapsed()), &mut thread).await {
        Ok(result) => result,
        Err(_) => {
            drop(wanted);
            shared.table().mark_late(&key, principal);
            thread.await
        }
    };
    shared.table().finish(&key, principal, result.unwrap_or(Err(Undecided::Kernel)));
}

impl<K, V> Shared<K, V> {
    fn table(&self) -> MutexGuard<'_, LookupTable<K, V>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord + Clone, V> LookupTable<K, V> {
    /// Marks a look-up as late, and notifies its waiters.
    fn mark_late(&mut self, key: &K, principal: Principal) {
        self.late.insert(principal, key.clone());
        if let Some(Lookup::Running { changes, .. }) = self.lookups.get(key) {
            changes.happened();
        }
    }

    /// Records the result of a look-up, and notifies its waiters.
    fn finish(&mut self, key: &K, principal: Principal, result: Result<V, Undecided>) {
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

    /// The next change of a running look-up: late, or ended.
    fn change_of(&self, key: &K) -> Option<Change> {
        match self.lookups.get(key) {
            Some(Lookup::Running { changes, .. }) => Some(changes.next()),
            _ => None,
        }
    }
}
