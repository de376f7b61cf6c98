//! Work that waits for a file system, kept away from everyone else: few threads, little time, one at a time per caller.
//! Digests of executables are remembered by what the file looked like.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::Weak;
use std::time::Duration;

use aws_lc_rs::digest;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio::time::timeout;

use crate::attestation::host::facts;
use crate::attestation::kernel::FileIdentity;
use crate::attestation::kernel::ProcDirectory;
use crate::attestation::kernel::Unanswered;
use crate::evidence::CallerKey;
use crate::evidence::Undecided;
use crate::evidence::WithheldBecause;

/// Pieces of work at once that still may be waited for.
const AT_ONCE: usize = 2;
/// Threads that may hang in a file system that does not answer.
const THREADS: usize = 16;
/// How long a caller waits, its turn included.
const LIMIT: Duration = Duration::from_secs(2);
/// What one caller may have read in [`BUDGET_PERIOD`]; what is remembered costs nothing.
const BUDGET: u64 = 1 << 30;
const BUDGET_PERIOD: Duration = Duration::from_secs(60);
/// Digests remembered, and callers whose budget is.
const REMEMBERED: usize = 4096;

/// A digest, or why there is none.
pub type Digest = Result<[u8; 32], WithheldBecause>;

/// The bounded worker, and what it remembers.
#[derive(Debug)]
pub struct Hashing {
    at_once: Semaphore,
    threads: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    digests: BTreeMap<Looks, [u8; 32]>,
    turns: BTreeMap<CallerKey, Weak<Semaphore>>,
    spent: BTreeMap<CallerKey, (Instant, u64)>,
}

/// What a file looked like: device, inode, size, change time, modification time.
type Looks = (u64, u64, u64, i128, i128);

fn looks(file: &FileIdentity) -> Looks {
    (file.device, file.inode, file.size, file.ctime, file.mtime)
}

impl Default for Hashing {
    fn default() -> Self {
        Self { at_once: Semaphore::new(AT_ONCE), threads: Arc::new(Semaphore::new(THREADS)), state: Mutex::default() }
    }
}

impl Hashing {
    /// The digest of the executable that runs in `directory`'s process. `running` is what it was when it was attested.
    ///
    /// # Errors
    /// [`Unanswered`]; [`Unanswered::Gone`] too when another file runs by now.
    pub async fn digest(
        &self,
        caller: CallerKey,
        running: &FileIdentity,
        directory: Arc<dyn ProcDirectory>,
    ) -> Result<Digest, Unanswered> {
        let uid = caller.uid;
        let remembered = |digest: Option<[u8; 32]>| digest.filter(|_| facts::hash_is_stable(uid, running)).map(Ok);
        if let Some(digest) = remembered(self.remembered(running)) {
            return Ok(digest);
        }
        let turn = self.turn(caller);
        let work = async {
            // While it waited its turn, another process of this user may have had the same file hashed.
            let turn = turn.acquire_owned().await.map_err(|_| Undecided::NotReady)?;
            if let Some(digest) = remembered(self.remembered(running)) {
                return Ok(digest);
            }
            self.spend(caller, running.size)?;
            let _waited_for = self.at_once.acquire().await.map_err(|_| Undecided::NotReady)?;
            let wanted = *running;
            let hashed =
                self.on_a_thread(turn, move |still_wanted| hash(uid, &wanted, &*directory, still_wanted)).await?;
            hashed.inspect(|digest| {
                if let (Ok(digest), true) = (digest, facts::hash_is_stable(uid, running)) {
                    self.remember(running, *digest);
                }
            })
        };
        timeout(LIMIT, work).await.unwrap_or(Err(Unanswered::Undecided(Undecided::TimedOut)))
    }

    /// Runs a look-up that may wait for a file system.
    ///
    /// # Errors
    /// [`Undecided::TimedOut`] when it waits too long, [`Undecided::Budget`] when too many do.
    pub async fn look_up<T: Send + 'static>(
        &self,
        caller: CallerKey,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Undecided> {
        let turn = self.turn(caller);
        let work = async {
            let turn = turn.acquire_owned().await.map_err(|_| Undecided::NotReady)?;
            let _waited_for = self.at_once.acquire().await.map_err(|_| Undecided::NotReady)?;
            self.on_a_thread(turn, move |_| work()).await
        };
        timeout(LIMIT, work).await.unwrap_or(Err(Undecided::TimedOut))
    }

    /// SECURITY: a thread that a file system never lets go keeps its caller's turn and its own place, and nothing else:
    /// the caller can hold up itself, and everyone only from [`THREADS`] different groups of root's making.
    async fn on_a_thread<T: Send + 'static>(
        &self,
        turn: tokio::sync::OwnedSemaphorePermit,
        work: impl FnOnce(&dyn Fn() -> bool) -> T + Send + 'static,
    ) -> Result<T, Undecided> {
        let place = self.threads.clone().try_acquire_owned().map_err(|_| Undecided::Budget)?;
        let wanted = Arc::new(());
        let still_wanted = Arc::downgrade(&wanted);
        let result = tokio::task::spawn_blocking(move || {
            let _kept_to_the_end = (turn, place);
            work(&|| still_wanted.strong_count() > 0)
        });
        let result = result.await.map_err(|_| Undecided::Kernel);
        drop(wanted);
        result
    }

    fn turn(&self, caller: CallerKey) -> Arc<Semaphore> {
        let turns = &mut self.state().turns;
        if let Some(turn) = turns.get(&caller).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Semaphore::new(1));
        turns.insert(caller, Arc::downgrade(&turn));
        turn
    }

    fn spend(&self, caller: CallerKey, bytes: u64) -> Result<(), Undecided> {
        let now = Instant::now();
        let mut state = self.state();
        if state.spent.len() >= REMEMBERED {
            state.spent.retain(|_, (since, _)| now.duration_since(*since) < BUDGET_PERIOD);
        }
        let (since, spent) = state.spent.entry(caller).or_insert((now, 0));
        if now.duration_since(*since) >= BUDGET_PERIOD {
            (*since, *spent) = (now, 0);
        }
        *spent = spent.saturating_add(bytes);
        if *spent > BUDGET { Err(Undecided::Budget) } else { Ok(()) }
    }

    fn remembered(&self, file: &FileIdentity) -> Option<[u8; 32]> {
        self.state().digests.get(&looks(file)).copied()
    }

    fn remember(&self, file: &FileIdentity, digest: [u8; 32]) {
        let digests = &mut self.state().digests;
        if digests.len() >= REMEMBERED {
            digests.pop_first();
        }
        digests.insert(looks(file), digest);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the executable if its digest would count.
fn hash(
    uid: u32,
    running: &FileIdentity,
    directory: &dyn ProcDirectory,
    still_wanted: &dyn Fn() -> bool,
) -> Result<Digest, Unanswered> {
    // SECURITY: before it is opened, for opening alone can wait for ever.
    let file_system = directory.executable_file_system()?;
    if let Some(because) = facts::hash_withheld(uid, running, file_system) {
        return Ok(Err(because));
    }
    let executable = match directory.open_executable() {
        // Who runs a file that others may not read has chosen it: that is a "no", and about the caller.
        Err(Unanswered::Undecided(Undecided::NotPermitted)) => return Ok(Err(WithheldBecause::NotReadable)),
        opened => opened?,
    };
    if !executable.identity.is_same_file(running) {
        return Err(Unanswered::Gone);
    }
    match sha256(executable.file, still_wanted) {
        Ok(digest) => Ok(Ok(digest)),
        Err(error) => Err(Unanswered::from_errno(error.raw_os_error().unwrap_or(libc::ETIMEDOUT))),
    }
}

fn sha256(mut file: File, still_wanted: &dyn Fn() -> bool) -> std::io::Result<[u8; 32]> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 128 * 1024];
    let mut left = facts::MAX_HASHED;
    while still_wanted() {
        let read = file.read(&mut buffer)?;
        left = left.checked_sub(read as u64).ok_or(std::io::ErrorKind::FileTooLarge)?;
        if read == 0 {
            let digest = context.finish();
            return digest.as_ref().try_into().map_err(std::io::Error::other);
        }
        context.update(buffer.get(..read).unwrap_or_default());
    }
    Err(std::io::ErrorKind::TimedOut.into())
}
