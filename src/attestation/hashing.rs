//! The digest of a running executable: the first source of evidence that may take long. Digests are remembered by what
//! the file's metadata was; what one principal may have read in a minute is bounded.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use aws_lc_rs::digest;
use tokio::time::Instant;

use crate::attestation::host::facts;
use crate::attestation::kernel::FileIdentity;
use crate::attestation::kernel::ProcDirectory;
use crate::attestation::kernel::Unanswered;
use crate::attestation::lookups::LIMIT;
use crate::attestation::lookups::Lookups;
use crate::attestation::lookups::Progress;
use crate::attestation::lookups::StillWanted;
use crate::attestation::pinned::PinId;
use crate::attestation::pinned::PinnedProcess;
use crate::attestation::source::Asked;
use crate::attestation::source::EvidenceSource;
use crate::attestation::source::Known;
use crate::evidence::Fact;
use crate::evidence::Grade;
use crate::evidence::Principal;
use crate::evidence::Provider;
use crate::evidence::Selector;
use crate::evidence::SelectorKind;
use crate::evidence::Source;
use crate::evidence::Undecided;
use crate::evidence::Withheld;
use crate::evidence::WithheldBecause;

/// Files of local file systems that are read at once.
const READERS: usize = 2;
/// What one principal may have read in [`BUDGET_PERIOD`]; what is remembered costs nothing.
const BUDGET: u64 = 1 << 30;
const BUDGET_PERIOD: Duration = Duration::from_secs(60);
/// Digests remembered, and principals whose budget is.
const REMEMBERED: usize = 4096;

/// `unix:sha256`.
#[derive(Debug, Default)]
pub(super) struct HashSource {
    lookups: Lookups<(PinId, FileVersion), HashOutcome>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    readers: Readers,
}

#[derive(Debug, Default)]
struct State {
    digests: BTreeMap<FileVersion, [u8; 32]>,
    spent: BTreeMap<Principal, (Instant, u64)>,
}

/// What became of hashing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HashOutcome {
    Proven([u8; 32]),
    Withheld(WithheldBecause),
    /// The process runs another file by now, or none.
    Gone,
}

/// One version of a file's content: device, inode, size, change time, modification time.
type FileVersion = (u64, u64, u64, i128, i128);

fn version_of(file: &FileIdentity) -> FileVersion {
    (file.device, file.inode, file.size, file.ctime, file.mtime)
}

impl EvidenceSource for HashSource {
    fn provider(&self) -> Provider {
        Provider::SHA256
    }

    fn ask(&self, asked: &Asked<'_>) -> Known {
        let (principal, running) = (asked.principal(), *asked.executable());
        let version = version_of(&running);
        if let Some(because) = facts::hash_withheld_by_metadata(principal.uid, &running) {
            return known(HashOutcome::Withheld(because));
        }
        let cacheable = facts::digest_is_cacheable(principal.uid, &running);
        if let Some(digest) = self.shared.state().digests.get(&version).filter(|_| cacheable) {
            return known(HashOutcome::Proven(*digest));
        }
        let (shared, directory) = (Arc::clone(&self.shared), Arc::clone(asked.directory()));
        let work = move |wanted: &StillWanted| shared.hash(principal, &running, &*directory, wanted);
        match self.lookups.look_up((asked.id(), version), principal, work) {
            Progress::Done(Ok(outcome)) => known(outcome),
            Progress::Done(Err(why)) => Known::undecided(why),
            Progress::Running(end) => Known::pending(end),
            Progress::Late(end) => Known::undecided(Undecided::TimedOut).until(end),
        }
    }

    fn gave_up(&self, process: &PinnedProcess) {
        self.lookups.gave_up(process.principal());
    }
}

fn known(outcome: HashOutcome) -> Known {
    match outcome {
        HashOutcome::Proven(digest) => {
            let selector = Selector::UnixSha256(digest);
            Known::settled(vec![Fact { selector, grade: Grade::Kernel, source: Source::ExecutableBytes }], Vec::new())
        }
        HashOutcome::Withheld(because) => {
            Known::settled(Vec::new(), vec![Withheld { kind: SelectorKind::UnixSha256, seen: None, because }])
        }
        HashOutcome::Gone => Known::settled(Vec::new(), Vec::new()),
    }
}

impl Shared {
    /// Hashes on a thread that may hang.
    ///
    /// SECURITY: the file system is asked what it is before the file is opened, for opening alone can wait for ever, and
    /// before it takes a place among the readers, for asking can wait for ever, too.
    fn hash(
        &self,
        principal: Principal,
        running: &FileIdentity,
        directory: &dyn ProcDirectory,
        wanted: &StillWanted,
    ) -> Result<HashOutcome, Undecided> {
        let Some(file_system) = answered(directory.executable_file_system())? else { return Ok(HashOutcome::Gone) };
        if let Some(because) = facts::hash_withheld(principal.uid, running, file_system) {
            return Ok(HashOutcome::Withheld(because));
        }
        // While it waited its turn, another process may have had the same file hashed.
        let cacheable = facts::digest_is_cacheable(principal.uid, running);
        if let Some(digest) = self.state().digests.get(&version_of(running)).filter(|_| cacheable) {
            return Ok(HashOutcome::Proven(*digest));
        }
        self.spend(principal, running.size)?;
        let _reading = self.readers.enter()?;
        let digest = match digest_of(running, directory, wanted) {
            // Who runs a file that others may not read has chosen it: that is a "no", and about the caller.
            Err(Unanswered::Undecided(Undecided::NotPermitted)) => {
                return Ok(HashOutcome::Withheld(WithheldBecause::NotReadable));
            }
            read => answered(read)?,
        };
        let Some(digest) = digest else { return Ok(HashOutcome::Gone) };
        if cacheable {
            self.remember(running, digest);
        }
        Ok(HashOutcome::Proven(digest))
    }

    fn spend(&self, principal: Principal, bytes: u64) -> Result<(), Undecided> {
        let now = Instant::now();
        let mut state = self.state();
        if state.spent.len() >= REMEMBERED {
            state.spent.retain(|_, (since, _)| now.duration_since(*since) < BUDGET_PERIOD);
        }
        let (since, spent) = state.spent.entry(principal).or_insert((now, 0));
        if now.duration_since(*since) >= BUDGET_PERIOD {
            (*since, *spent) = (now, 0);
        }
        *spent = spent.saturating_add(bytes);
        if *spent > BUDGET { Err(Undecided::Budget) } else { Ok(()) }
    }

    fn remember(&self, file: &FileIdentity, digest: [u8; 32]) {
        let digests = &mut self.state().digests;
        if digests.len() >= REMEMBERED {
            digests.pop_first();
        }
        digests.insert(version_of(file), digest);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What there is to know; `None` where the process has gone.
fn answered<T>(answer: Result<T, Unanswered>) -> Result<Option<T>, Undecided> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Unanswered::Gone | Unanswered::Absent) => Ok(None),
        Err(Unanswered::Undecided(why)) => Err(why),
    }
}

/// Threads that read files now, at most [`READERS`].
#[derive(Debug, Default)]
struct Readers {
    reading: Mutex<usize>,
    left: Condvar,
}

struct Reading<'a>(&'a Readers);

impl Readers {
    /// Waits for a place, on a thread that serves nobody. Readers read local files alone, so places come free.
    fn enter(&self) -> Result<Reading<'_>, Undecided> {
        let reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |reading: &mut usize| *reading >= READERS;
        let (mut reading, waited) =
            self.left.wait_timeout_while(reading, LIMIT, full).unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(Undecided::TimedOut);
        }
        *reading += 1;
        Ok(Reading(self))
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        *self.0.reading.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.left.notify_one();
    }
}

/// Reads the executable, if it is still the one that was running.
fn digest_of(
    running: &FileIdentity,
    directory: &dyn ProcDirectory,
    wanted: &StillWanted,
) -> Result<[u8; 32], Unanswered> {
    let executable = directory.open_executable()?;
    if !executable.identity.is_same_file(running) {
        return Err(Unanswered::Gone);
    }
    sha256(executable.file, &|| wanted.is_wanted())
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

    use futures_util::future::join_all;
    use tokio::sync::Notify;

    use super::*;
    use crate::attestation::kernel::Executable;
    use crate::attestation::kernel::Namespace;
    use crate::attestation::kernel::ProcFile;
    use crate::evidence::Answer;

    const ONE: Principal = Principal { uid: 1000, cgroup: 7 };
    const OTHER: Principal = Principal { uid: 1001, cgroup: 7 };
    const EXT4: i64 = 0xEF53;
    const THREADS: u32 = 16;

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

    /// One question.
    fn ask(hashes: &HashSource, principal: Principal, program: Program) -> Known {
        let (executable, directory): (_, Arc<dyn ProcDirectory>) = (program.identity, Arc::new(program));
        let pinned = PinnedProcess::example(principal);
        hashes.ask(&Asked { pinned: &pinned, directory: &directory, executable: &executable })
    }

    /// Asks, and asks again at each change, until it is not pending any more.
    async fn outcome(hashes: &HashSource, principal: Principal, program: Program) -> Known {
        let (executable, directory): (_, Arc<dyn ProcDirectory>) = (program.identity, Arc::new(program));
        let pinned = PinnedProcess::example(principal);
        loop {
            let known = hashes.ask(&Asked { pinned: &pinned, directory: &directory, executable: &executable });
            match known.change {
                Some(change) if known.answer == Answer::Pending => change.await,
                _ => return known,
            }
        }
    }

    fn is_proven(known: &Known) -> bool {
        known.answer == Answer::Settled && known.facts.len() == 1
    }

    fn undecided(known: &Known) -> Option<Undecided> {
        match known.answer {
            Answer::Undecided(why) => Some(why),
            _ => None,
        }
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
    async fn what_would_prove_nothing_asks_no_file_system_and_costs_no_budget() {
        let hashes = HashSource::default();
        for _ in 0..3 {
            let (mut program, _let_go) = Program::hanging(1);
            program.identity.size = facts::MAX_HASHED + 1;
            let at_once = ask(&hashes, ONE, program);
            assert_eq!(at_once.withheld[0].because, WithheldBecause::TooLarge);
        }
        assert!(is_proven(&outcome(&hashes, ONE, Program::new(2, 4)).await));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_system_that_hangs_holds_up_its_own_caller_and_nobody_else() {
        let hashes = HashSource::default();
        let (program, let_go) = Program::hanging(1);
        let asked = program.asked.clone();
        let first = beyond_the_limit(asked.notified(), outcome(&hashes, ONE, program)).await;
        assert_eq!(undecided(&first), Some(Undecided::TimedOut));
        let again = ask(&hashes, ONE, Program::new(2, 4));
        assert_eq!(undecided(&again), Some(Undecided::TimedOut), "at once, for its place is still taken");
        assert!(is_proven(&outcome(&hashes, OTHER, Program::new(3, 4)).await));
        drop(let_go);
        again.change.expect("it says when the file system answers").await;
        assert!(is_proven(&outcome(&hashes, ONE, Program::new(2, 4)).await), "it has its place back");
    }

    #[tokio::test(start_paused = true)]
    async fn the_digest_of_an_unnamed_device_is_of_one_process_and_one_version_alone() {
        let hashes = HashSource::default();
        let device = libc::makedev(0, 40);
        let program = |mtime| {
            let mut program = Program::new(1, 4);
            (program.identity.device, program.identity.mtime) = (device, mtime);
            program
        };
        let pinned = PinnedProcess::example(ONE);
        let ask_of = |pinned: &PinnedProcess, mtime| {
            let program = program(mtime);
            let (executable, directory): (_, Arc<dyn ProcDirectory>) = (program.identity, Arc::new(program));
            hashes.ask(&Asked { pinned, directory: &directory, executable: &executable })
        };
        ask_of(&pinned, 1).change.expect("it is being read").await;
        assert!(is_proven(&ask_of(&pinned, 1)));
        assert_eq!(ask_of(&pinned, 2).answer, Answer::Pending, "another version");
        assert_eq!(ask_of(&PinnedProcess::example(ONE), 1).answer, Answer::Pending, "another process");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(ask_of(&pinned, 1).answer, Answer::Pending, "a second later");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gave_up_waiting_makes_the_next_callers_undecided_at_once() {
        let hashes = HashSource::default();
        let (program, let_go) = Program::hanging(1);
        let asked = program.asked.clone();
        assert_eq!(ask(&hashes, ONE, program).answer, Answer::Pending);
        asked.notified().await;
        hashes.gave_up(&PinnedProcess::example(ONE));
        assert_eq!(undecided(&ask(&hashes, ONE, Program::new(2, 4))), Some(Undecided::TimedOut));
        assert_eq!(ask(&hashes, OTHER, Program::new(3, 4)).answer, Answer::Pending);
        drop(let_go);
    }

    #[tokio::test(start_paused = true)]
    async fn a_third_file_is_read_once_one_of_two_has_been() {
        let hashes = HashSource::default();
        let (one, lets_one_go) = Program::slow(1);
        let (other, lets_other_go) = Program::slow(2);
        let (third, lets_third_go) = Program::slow(3);
        let asked = [&one, &other, &third].map(|program| program.asked.clone());
        let [first_asked, second_asked, third_asked] = asked;
        let two = async { tokio::join!(outcome(&hashes, ONE, one), outcome(&hashes, OTHER, other)) };
        let late = async {
            first_asked.notified().await;
            second_asked.notified().await;
            let known = ask(&hashes, Principal { uid: 1002, ..ONE }, third);
            threads_have_run().await;
            assert!(tokio::time::timeout(Duration::ZERO, third_asked.notified()).await.is_err(), "it has to wait");
            drop((lets_one_go, lets_third_go));
            known.change.unwrap().await;
            third_asked.notified().await;
            drop(lets_other_go);
        };
        let ((first, second), ()) = tokio::join!(two, late);
        assert!(is_proven(&first) && is_proven(&second));
    }

    #[tokio::test(start_paused = true)]
    async fn when_every_thread_hangs_nobody_waits_beyond_the_limit() {
        let hashes = HashSource::default();
        let mut kept = Vec::new();
        for uid in 0..THREADS {
            let (program, let_go) = Program::hanging(1);
            let asked = program.asked.clone();
            let hung = beyond_the_limit(asked.notified(), outcome(&hashes, Principal { uid, ..ONE }, program)).await;
            assert_eq!(undecided(&hung), Some(Undecided::TimedOut), "{uid}");
            kept.push(let_go);
        }
        let late = beyond_the_limit(threads_have_run(), outcome(&hashes, ONE, Program::new(2, 4))).await;
        assert_eq!(undecided(&late), Some(Undecided::TimedOut));
        kept.clear();
    }

    #[tokio::test(start_paused = true)]
    async fn of_more_callers_at_once_than_threads_each_is_answered() {
        let hashes = HashSource::default();
        let all = (0..3 * THREADS).map(|uid| outcome(&hashes, Principal { uid, ..ONE }, Program::new(1, 4)));
        assert!(join_all(all).await.iter().all(is_proven));
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_principal_has_read_in_a_minute_is_bounded_but_for_what_is_remembered() {
        let hashes = HashSource::default();
        let large = |inode| Program::new(inode, 400 << 20);
        for inode in [1, 2, 1, 2, 1, 2] {
            assert!(is_proven(&outcome(&hashes, ONE, large(inode)).await), "{inode}");
        }
        assert_eq!(undecided(&outcome(&hashes, ONE, large(3)).await), Some(Undecided::Budget));
        assert!(is_proven(&outcome(&hashes, OTHER, large(3)).await), "another's budget");
        assert!(is_proven(&outcome(&hashes, ONE, large(3)).await), "remembered by now");
        tokio::time::advance(BUDGET_PERIOD).await;
        assert!(is_proven(&outcome(&hashes, ONE, large(4)).await), "the next minute");
    }
}
