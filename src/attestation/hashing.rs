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
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio::time::timeout;

use crate::attestation::host::facts;
use crate::attestation::kernel::FileIdentity;
use crate::attestation::kernel::ProcDirectory;
use crate::attestation::kernel::Unanswered;
use crate::evidence::Principal;
use crate::evidence::Undecided;
use crate::evidence::WithheldBecause;

/// Files of local file systems that are read at once.
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
    digests: BTreeMap<FileVersion, [u8; 32]>,
    turns: BTreeMap<Principal, Weak<Semaphore>>,
    spent: BTreeMap<Principal, (Instant, u64)>,
}

/// What a file looked like: device, inode, size, change time, modification time.
type FileVersion = (u64, u64, u64, i128, i128);

fn version_of(file: &FileIdentity) -> FileVersion {
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
        caller: Principal,
        running: &FileIdentity,
        directory: Arc<dyn ProcDirectory>,
    ) -> Result<Digest, Unanswered> {
        let uid = caller.uid;
        if let Some(because) = facts::hash_withheld_by_metadata(uid, running) {
            return Ok(Err(because));
        }
        let remembered = |digest: Option<[u8; 32]>| digest.filter(|_| facts::digest_is_cacheable(uid, running)).map(Ok);
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
            // SECURITY: before it is opened, for opening alone can wait for ever, and before it takes a place among those
            // that are read, for asking can wait for ever, too.
            let asked = Arc::clone(&directory);
            let (file_system, turn) = self.on_a_thread(turn, move |_| asked.executable_file_system()).await?;
            if let Some(because) = facts::hash_withheld(uid, running, file_system?) {
                return Ok(Err(because));
            }
            self.spend(caller, running.size)?;
            let _reading = self.at_once.acquire().await.map_err(|_| Undecided::NotReady)?;
            let wanted = *running;
            let read = move |still_wanted: &dyn Fn() -> bool| hash(&wanted, &*directory, still_wanted);
            let (digest, _turn) = self.on_a_thread(turn, read).await?;
            let digest = match digest {
                // Who runs a file that others may not read has chosen it: that is a "no", and about the caller.
                Err(Unanswered::Undecided(Undecided::NotPermitted)) => return Ok(Err(WithheldBecause::NotReadable)),
                digest => digest?,
            };
            if facts::digest_is_cacheable(uid, running) {
                self.remember(running, digest);
            }
            Ok(Ok(digest))
        };
        timeout(LIMIT, work).await.unwrap_or(Err(Unanswered::Undecided(Undecided::TimedOut)))
    }

    /// Runs a look-up that may wait for a file system.
    ///
    /// # Errors
    /// [`Undecided::TimedOut`] when it waits too long.
    pub async fn look_up<T: Send + 'static>(
        &self,
        caller: Principal,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Undecided> {
        let turn = self.turn(caller);
        let work = async {
            let turn = turn.acquire_owned().await.map_err(|_| Undecided::NotReady)?;
            Ok(self.on_a_thread(turn, move |_| work()).await?.0)
        };
        timeout(LIMIT, work).await.unwrap_or(Err(Undecided::TimedOut))
    }

    /// Works on a thread, and gives the turn back.
    ///
    /// SECURITY: a thread that a file system never lets go keeps its caller's turn and its own place, and nothing else:
    /// the caller can hold up itself, and everyone only from [`THREADS`] different groups of root's making.
    async fn on_a_thread<T: Send + 'static>(
        &self,
        turn: OwnedSemaphorePermit,
        work: impl FnOnce(&dyn Fn() -> bool) -> T + Send + 'static,
    ) -> Result<(T, OwnedSemaphorePermit), Undecided> {
        let place = self.threads.clone().acquire_owned().await.map_err(|_| Undecided::NotReady)?;
        let wanted = Arc::new(());
        let still_wanted = Arc::downgrade(&wanted);
        let result = tokio::task::spawn_blocking(move || {
            let _kept_to_the_end = place;
            (work(&|| still_wanted.strong_count() > 0), turn)
        });
        let result = result.await.map_err(|_| Undecided::Kernel);
        drop(wanted);
        result
    }

    fn turn(&self, caller: Principal) -> Arc<Semaphore> {
        let turns = &mut self.state().turns;
        if let Some(turn) = turns.get(&caller).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Semaphore::new(1));
        turns.insert(caller, Arc::downgrade(&turn));
        turn
    }

    fn spend(&self, caller: Principal, bytes: u64) -> Result<(), Undecided> {
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
        self.state().digests.get(&version_of(file)).copied()
    }

    fn remember(&self, file: &FileIdentity, digest: [u8; 32]) {
        let digests = &mut self.state().digests;
        if digests.len() >= REMEMBERED {
            digests.pop_first();
        }
        digests.insert(version_of(file), digest);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the executable, if it is still the one that was running.
fn hash(
    running: &FileIdentity,
    directory: &dyn ProcDirectory,
    still_wanted: &dyn Fn() -> bool,
) -> Result<[u8; 32], Unanswered> {
    let executable = directory.open_executable()?;
    if !executable.identity.is_same_file(running) {
        return Err(Unanswered::Gone);
    }
    sha256(executable.file, still_wanted)
        .map_err(|error| Unanswered::from_errno(error.raw_os_error().unwrap_or(libc::ETIMEDOUT)))
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::mpsc;

    use futures_util::FutureExt as _;
    use futures_util::future::join_all;
    use tokio::sync::Notify;

    use super::*;
    use crate::attestation::kernel::Executable;
    use crate::attestation::kernel::Namespace;
    use crate::attestation::kernel::ProcFile;

    const ONE: Principal = Principal { uid: 1000, cgroup: 7 };
    const OTHER: Principal = Principal { uid: 1001, cgroup: 7 };
    const EXT4: i64 = 0xEF53;

    /// A program of root's on a local file system, which may hang until it is let go.
    struct Program {
        identity: FileIdentity,
        asked: Arc<Notify>,
        asking: Hangs,
        opening: Hangs,
    }

    type Hangs = Option<Mutex<mpsc::Receiver<()>>>;

    fn hang(here: &Hangs) {
        let _let_go = here.as_ref().map(|hangs| hangs.lock().unwrap().recv());
    }

    impl Program {
        fn new(inode: u64, size: u64) -> Self {
            let device = libc::makedev(8, 1);
            let identity =
                FileIdentity { device, inode, size, ctime: 1, mtime: 1, links: 1, uid: 0, gid: 0, mode: 0o100_755 };
            Self { identity, asked: Arc::default(), asking: None, opening: None }
        }

        /// One whose file system does not answer before the sender is dropped.
        fn hanging(inode: u64) -> (Self, mpsc::Sender<()>) {
            let (let_go, hangs) = mpsc::channel();
            (Self { asking: Some(Mutex::new(hangs)), ..Self::new(inode, 4) }, let_go)
        }

        /// One whose disk does not answer before the sender is dropped.
        fn slow(inode: u64) -> (Self, mpsc::Sender<()>) {
            let (program, let_go) = Self::hanging(inode);
            (Self { asking: None, opening: program.asking, ..Self::new(inode, 4) }, let_go)
        }
    }

    impl ProcDirectory for Program {
        fn read(&self, _: ProcFile) -> Result<Vec<u8>, Unanswered> {
            Err(Unanswered::Absent)
        }

        fn namespace(&self, _: Namespace) -> Result<u64, Unanswered> {
            Err(Unanswered::Absent)
        }

        fn executable(&self) -> Result<FileIdentity, Unanswered> {
            Ok(self.identity)
        }

        fn executable_link(&self) -> Result<PathBuf, Unanswered> {
            Ok(PathBuf::new())
        }

        fn executable_file_system(&self) -> Result<i64, Unanswered> {
            if self.opening.is_none() {
                self.asked.notify_one();
            }
            hang(&self.asking);
            Ok(EXT4)
        }

        fn open_executable(&self) -> Result<Executable, Unanswered> {
            self.asked.notify_one();
            hang(&self.opening);
            Ok(Executable { file: File::open("/dev/null").unwrap(), identity: self.identity })
        }
    }

    async fn digest(hashing: &Hashing, caller: Principal, program: Program) -> Result<Digest, Unanswered> {
        let running = program.identity;
        hashing.digest(caller, &running, Arc::new(program)).await
    }

    /// What comes of this when the time limit passes after something else.
    async fn beyond_the_limit<T>(after: impl Future<Output = ()>, work: impl Future<Output = T>) -> T {
        let pass = async {
            after.await;
            tokio::time::advance(LIMIT + Duration::from_millis(1)).await;
            threads_have_run().await;
        };
        tokio::select! {
            biased;
            result = work => result,
            () = pass => panic!("it goes on waiting"),
        }
    }

    /// Returns when whatever could begin on a thread has had its chance.
    async fn threads_have_run() {
        for _ in 0..20 {
            tokio::task::spawn_blocking(|| ()).await.unwrap();
        }
    }

    fn undecided(why: Undecided) -> Result<Digest, Unanswered> {
        Err(Unanswered::Undecided(why))
    }

    #[test]
    fn bytes_beyond_the_size_limit_are_not_read_however_small_the_file_looked() {
        let reads = std::cell::Cell::new(0_u64);
        let at_most_twice_the_limit = || {
            reads.set(reads.get() + 1);
            reads.get() * 128 * 1024 < 2 * facts::MAX_HASHED
        };
        let endless = File::open("/dev/zero").unwrap();
        let error = sha256(endless, &at_most_twice_the_limit).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_file_that_nobody_waits_for_any_more_is_read_no_further() {
        let endless = File::open("/dev/zero").unwrap();
        assert_eq!(sha256(endless, &|| false).unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn what_would_prove_nothing_costs_no_budget_and_asks_no_file_system() {
        let hashing = Hashing::default();
        for _ in 0..3 {
            let (mut program, _let_go) = Program::hanging(1);
            program.identity.size = facts::MAX_HASHED + 1;
            let at_once = digest(&hashing, ONE, program).now_or_never();
            assert_eq!(at_once, Some(Ok(Err(WithheldBecause::TooLarge))));
        }
        assert!(digest(&hashing, ONE, Program::new(2, 4)).await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_system_that_does_not_answer_in_time_holds_up_its_own_caller_and_nobody_else() {
        let hashing = Hashing::default();
        let (program, let_go) = Program::hanging(1);
        let asked = program.asked.clone();
        let first = beyond_the_limit(asked.notified(), digest(&hashing, ONE, program)).await;
        assert_eq!(first, undecided(Undecided::TimedOut));
        let again = beyond_the_limit(threads_have_run(), digest(&hashing, ONE, Program::new(2, 4))).await;
        assert_eq!(again, undecided(Undecided::TimedOut), "its turn is still taken");
        assert!(digest(&hashing, OTHER, Program::new(3, 4)).await.unwrap().is_ok());
        assert_eq!(hashing.look_up(OTHER, || 5).await, Ok(5));
        drop(let_go);
        assert!(digest(&hashing, ONE, Program::new(2, 4)).await.unwrap().is_ok(), "it has its turn back");
    }

    #[tokio::test(start_paused = true)]
    async fn two_files_are_read_at_once_and_a_third_when_they_are_given_up() {
        let hashing = Hashing::default();
        let (one, lets_one_go) = Program::slow(1);
        let (other, lets_other_go) = Program::slow(2);
        let (third, lets_third_go) = Program::slow(3);
        drop(lets_third_go);
        let asked = [&one, &other, &third].map(|program| program.asked.clone());
        let [first_asked, second_asked, third_asked] = asked;
        let later = async {
            first_asked.notified().await;
            second_asked.notified().await;
            tokio::time::advance(LIMIT / 2).await;
            let give_up = async {
                threads_have_run().await;
                assert!(third_asked.notified().now_or_never().is_none());
                tokio::time::advance(LIMIT / 2).await;
            };
            tokio::join!(digest(&hashing, Principal { uid: 1002, ..ONE }, third), give_up).0
        };
        let (first, second, third) = tokio::join!(digest(&hashing, ONE, one), digest(&hashing, OTHER, other), later);
        assert_eq!([first, second], [undecided(Undecided::TimedOut), undecided(Undecided::TimedOut)]);
        assert!(third.unwrap().is_ok());
        drop((lets_one_go, lets_other_go));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_threads_hang_than_there_are_places_and_then_nobody_waits_beyond_the_limit() {
        let hashing = Hashing::default();
        let mut kept = Vec::new();
        for uid in 0..THREADS as u32 {
            let (program, let_go) = Program::hanging(1);
            let asked = program.asked.clone();
            let hung = beyond_the_limit(asked.notified(), digest(&hashing, Principal { uid, ..ONE }, program)).await;
            assert_eq!(hung, undecided(Undecided::TimedOut), "{uid}");
            kept.push(let_go);
        }
        let late = beyond_the_limit(threads_have_run(), digest(&hashing, ONE, Program::new(2, 4))).await;
        assert_eq!(late, undecided(Undecided::TimedOut));
        kept.clear();
    }

    #[tokio::test(start_paused = true)]
    async fn of_more_callers_at_once_than_there_are_places_each_is_answered() {
        let hashing = Hashing::default();
        let (let_go, hangs) = mpsc::channel();
        let hangs: Arc<Hangs> = Arc::new(Some(Mutex::new(hangs)));
        let look_up = |uid| {
            let hangs = hangs.clone();
            hashing.look_up(Principal { uid, ..ONE }, move || hang(&hangs))
        };
        let all = join_all((0..3 * THREADS as u32).map(look_up));
        let (answers, ()) = tokio::join!(all, async { drop(let_go) });
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_caller_may_have_read_in_a_minute_is_bounded_and_what_is_remembered_costs_nothing() {
        let hashing = Hashing::default();
        let large = |inode| Program::new(inode, 400 << 20);
        for inode in [1, 2, 1, 2, 1, 2] {
            assert!(digest(&hashing, ONE, large(inode)).await.unwrap().is_ok(), "{inode}");
        }
        assert_eq!(digest(&hashing, ONE, large(3)).await, undecided(Undecided::Budget));
        assert!(digest(&hashing, OTHER, large(3)).await.unwrap().is_ok(), "another's budget");
        assert!(digest(&hashing, ONE, large(3)).await.unwrap().is_ok(), "remembered by now");
        tokio::time::advance(BUDGET_PERIOD).await;
        assert!(digest(&hashing, ONE, large(4)).await.unwrap().is_ok(), "the next minute");
    }
}
