//! The digest of a running executable: a source of evidence that may take long. Digests are cached by the metadata of
//! the file, and kept for the image that runs it. A budget limits the bytes that are read for one principal in a minute.

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

use crate::attestation::executable::lookups::LIMIT;
use crate::attestation::executable::lookups::Lookups;
use crate::attestation::executable::lookups::Progress;
use crate::attestation::executable::lookups::StillWanted;
use crate::attestation::host::facts;
use crate::attestation::kernel::FileIdentity;
use crate::attestation::kernel::ProcDirectory;
use crate::attestation::kernel::Unanswered;
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

/// The most files that are read at the same time.
const READERS: usize = 2;
/// The most bytes that are read for one principal in [`BUDGET_PERIOD`]. A cached digest costs nothing.
const BUDGET: u64 = 1 << 30;
const BUDGET_PERIOD: Duration = Duration::from_secs(60);
/// The most cached digests. With as many budgets, expired ones are removed.
const MAX_CACHED: usize = 4096;

/// The source of `unix:sha256`.
#[derive(Debug, Default)]
pub(in crate::attestation) struct HashSource {
    lookups: Lookups<(PinId, FileVersion), HashOutcome>,
    hasher: Arc<Hasher>,
}

#[derive(Debug, Default)]
struct Hasher {
    cache: Mutex<HashCache>,
    readers: Readers,
}

#[derive(Debug, Default)]
struct HashCache {
    digests: BTreeMap<FileVersion, Hashed>,
    /// By principal: the start of its period, and the bytes read since.
    spent: BTreeMap<Principal, (Instant, u64)>,
}

/// The result of hashing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HashOutcome {
    Proven(Hashed),
    Withheld(WithheldBecause),
    /// The process has exited or runs another file.
    Gone,
}

/// A digest, and the `f_type` of the file system that its bytes were read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hashed {
    sha256: [u8; 32],
    file_system: i64,
}

/// The version of a file: device, inode, size, ctime, mtime.
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
            return withheld(because);
        }
        if let Some(sha256) = asked.proven().digest(&running) {
            return proven(sha256);
        }
        let cacheable = facts::digest_is_cacheable(principal.uid, &running);
        if let Some(hashed) = self.hasher.cache().digests.get(&version).filter(|_| cacheable) {
            return newly_proven(asked, *hashed);
        }
        let (hasher, directory) = (Arc::clone(&self.hasher), Arc::clone(asked.directory()));
        let work = move |wanted: &StillWanted| hasher.hash(principal, &running, &*directory, wanted);
        match self.lookups.look_up((asked.id(), version), principal, work) {
            Progress::Done(Ok(HashOutcome::Proven(hashed))) => newly_proven(asked, hashed),
            Progress::Done(Ok(HashOutcome::Withheld(because))) => withheld(because),
            Progress::Done(Ok(HashOutcome::Gone)) => Known::settled(Vec::new(), Vec::new()),
            Progress::Done(Err(why)) => Known::undecided(why),
            Progress::Running(end) => Known::pending(end),
            Progress::Late(end) => Known::undecided(Undecided::TimedOut).until(end),
        }
    }

    fn gave_up(&self, process: &PinnedProcess) {
        self.lookups.gave_up(process.principal());
    }
}

/// Keeps a digest for the other attestations of the same image.
fn newly_proven(asked: &Asked<'_>, Hashed { sha256, file_system }: Hashed) -> Known {
    asked.proven().keep_digest(asked.executable(), file_system, sha256);
    proven(sha256)
}

fn proven(sha256: [u8; 32]) -> Known {
    let selector = Selector::UnixSha256(sha256);
    Known::settled(vec![Fact { selector, grade: Grade::Claimed, source: Source::ExecutableBytes }], Vec::new())
}

fn withheld(because: WithheldBecause) -> Known {
    Known::settled(Vec::new(), vec![Withheld { kind: SelectorKind::UnixSha256, seen: None, because }])
}

impl Hasher {
    /// Hashes the executable. May block for ever.
    ///
    /// SECURITY: the type of the file system is checked before the file is opened, because `open` can block for ever.
    /// It is checked before a reader's place is taken, because `statfs` can block for ever, too.
    fn hash(
        &self,
        principal: Principal,
        running: &FileIdentity,
        directory: &dyn ProcDirectory,
        wanted: &StillWanted,
    ) -> Result<HashOutcome, Undecided> {
        let Some(file_system) = unless_gone(directory.executable_file_system())? else { return Ok(HashOutcome::Gone) };
        if let Some(because) = facts::hash_withheld(principal.uid, running, file_system) {
            return Ok(HashOutcome::Withheld(because));
        }
        // Another look-up may have hashed the same file while this one was queued.
        let cacheable = facts::digest_is_cacheable(principal.uid, running);
        if let Some(hashed) = self.cache().digests.get(&version_of(running)).filter(|_| cacheable) {
            return Ok(HashOutcome::Proven(*hashed));
        }
        self.spend(principal, running.size)?;
        let _reading = self.readers.enter()?;
        let digest = match digest_of(running, directory, wanted) {
            // The mode of the file is the caller's choice, not a fault of the daemon: withheld, not undecided.
            Err(Unanswered::Undecided(Undecided::NotPermitted)) => {
                return Ok(HashOutcome::Withheld(WithheldBecause::NotReadable));
            }
            read => unless_gone(read)?,
        };
        let Some(sha256) = digest else { return Ok(HashOutcome::Gone) };
        let hashed = Hashed { sha256, file_system };
        if cacheable {
            self.insert_digest(running, hashed);
        }
        Ok(HashOutcome::Proven(hashed))
    }

    /// Charges a read to the budget of a principal.
    fn spend(&self, principal: Principal, bytes: u64) -> Result<(), Undecided> {
        let now = Instant::now();
        let mut cache = self.cache();
        if cache.spent.len() >= MAX_CACHED {
            cache.spent.retain(|_, (since, _)| now.duration_since(*since) < BUDGET_PERIOD);
        }
        let (since, spent) = cache.spent.entry(principal).or_insert((now, 0));
        if now.duration_since(*since) >= BUDGET_PERIOD {
            (*since, *spent) = (now, 0);
        }
        *spent = spent.saturating_add(bytes);
        if *spent > BUDGET { Err(Undecided::Budget) } else { Ok(()) }
    }

    fn insert_digest(&self, file: &FileIdentity, hashed: Hashed) {
        let digests = &mut self.cache().digests;
        if digests.len() >= MAX_CACHED {
            digests.pop_first();
        }
        digests.insert(version_of(file), hashed);
    }

    fn cache(&self) -> MutexGuard<'_, HashCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None` where the process has exited, or has no such thing.
fn unless_gone<T>(answer: Result<T, Unanswered>) -> Result<Option<T>, Undecided> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Unanswered::Gone | Unanswered::Absent) => Ok(None),
        Err(Unanswered::Undecided(why)) => Err(why),
    }
}

/// The number of threads that read files, at most [`READERS`].
#[derive(Debug, Default)]
struct Readers {
    reading: Mutex<usize>,
    released: Condvar,
}

/// A place among the readers, released on drop.
struct Reading<'a>(&'a Readers);

impl Readers {
    /// Waits for a place, at most [`LIMIT`]. Call it on a blocking thread only. Readers read local files only, so a
    /// place is released sooner or later.
    fn enter(&self) -> Result<Reading<'_>, Undecided> {
        let reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |reading: &mut usize| *reading >= READERS;
        let (mut reading, waited) =
            self.released.wait_timeout_while(reading, LIMIT, full).unwrap_or_else(PoisonError::into_inner);
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
        self.0.released.notify_one();
    }
}

/// The digest of the executable; [`Unanswered::Gone`] where the process runs another file by now.
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

/// Reads and hashes a file while `still_wanted`, up to [`facts::MAX_HASHED`] bytes.
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

    /// A program that root owns on a local file system. Its file system or its disk may block until it is released.
    struct Program {
        identity: FileIdentity,
        asked: Arc<Notify>,
        asking: Block,
        opening: Block,
    }

    type Block = Option<Mutex<mpsc::Receiver<()>>>;

    fn wait_for(block: &Block) {
        let _released = block.as_ref().map(|block| block.lock().unwrap().recv());
    }

    impl Program {
        fn new(inode: u64, size: u64) -> Self {
            let device = libc::makedev(8, 1);
            let identity =
                FileIdentity { device, inode, size, ctime: 1, mtime: 1, links: 1, uid: 0, gid: 0, mode: 0o100_755 };
            Self { identity, asked: Arc::default(), asking: None, opening: None }
        }

        /// A program whose `statfs` blocks until the sender is dropped.
        fn with_blocked_file_system(inode: u64) -> (Self, mpsc::Sender<()>) {
            let (release, block) = mpsc::channel();
            (Self { asking: Some(Mutex::new(block)), ..Self::new(inode, 4) }, release)
        }

        /// A program whose `open` blocks until the sender is dropped.
        fn with_blocked_disk(inode: u64) -> (Self, mpsc::Sender<()>) {
            let (program, release) = Self::with_blocked_file_system(inode);
            (Self { asking: None, opening: program.asking, ..Self::new(inode, 4) }, release)
        }
    }

    impl ProcDirectory for Program {
        fn read(&self, _: ProcFile) -> Result<Vec<u8>, Unanswered> {
            Err(Unanswered::Absent)
        }

        fn namespace(&self, _: Namespace) -> Result<u64, Unanswered> {
            Err(Unanswered::Absent)
        }

        fn user_namespace_owner(&self, _: u64) -> Result<u32, Unanswered> {
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
            wait_for(&self.asking);
            Ok(EXT4)
        }

        fn open_executable(&self) -> Result<Executable, Unanswered> {
            self.asked.notify_one();
            wait_for(&self.opening);
            Ok(Executable { file: File::open("/dev/null").unwrap(), identity: self.identity })
        }
    }

    /// Asks once.
    fn ask(hashes: &HashSource, principal: Principal, program: Program) -> Known {
        ask_about(hashes, &PinnedProcess::example(principal), program)
    }

    fn ask_about(hashes: &HashSource, pinned: &PinnedProcess, program: Program) -> Known {
        let (executable, directory): (_, Arc<dyn ProcDirectory>) = (program.identity, Arc::new(program));
        hashes.ask(&Asked { pinned, directory: &directory, executable: &executable })
    }

    /// Asks again at each change, until the answer is no longer pending.
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

    /// The result of `work`, with the time limit passing after `after`.
    async fn with_timeout_after<T>(after: impl Future<Output = ()>, work: impl Future<Output = T>) -> T {
        let pass = async {
            after.await;
            tokio::time::advance(LIMIT + Duration::from_millis(1)).await;
            threads_have_run().await;
        };
        tokio::select! {
            biased;
            result = work => result,
            () = pass => panic!("still waiting after the limit"),
        }
    }

    /// Returns after tasks that could start on a thread have started, and timers that were due have fired.
    async fn threads_have_run() {
        for _ in 0..20 {
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn a_file_that_grows_beyond_the_size_limit_is_not_read_further() {
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
    fn a_look_up_beyond_its_limit_stops_reading() {
        let endless = File::open("/dev/zero").unwrap();
        assert_eq!(sha256(endless, &|| false).unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_over_the_size_limit_is_withheld_without_a_look_up() {
        let hashes = HashSource::default();
        for _ in 0..3 {
            let (mut program, _release) = Program::with_blocked_file_system(1);
            program.identity.size = facts::MAX_HASHED + 1;
            let at_once = ask(&hashes, ONE, program);
            assert_eq!(at_once.withheld[0].because, WithheldBecause::TooLarge);
        }
        assert!(is_proven(&outcome(&hashes, ONE, Program::new(2, 4)).await));
    }

    #[tokio::test(start_paused = true)]
    async fn a_blocked_file_system_delays_only_its_own_principal() {
        let hashes = HashSource::default();
        let (program, release) = Program::with_blocked_file_system(1);
        let asked = program.asked.clone();
        let first = with_timeout_after(asked.notified(), outcome(&hashes, ONE, program)).await;
        assert_eq!(undecided(&first), Some(Undecided::TimedOut));
        let again = ask(&hashes, ONE, Program::new(2, 4));
        assert_eq!(undecided(&again), Some(Undecided::TimedOut), "at once, because its place is still taken");
        assert!(is_proven(&outcome(&hashes, OTHER, Program::new(3, 4)).await));
        drop(release);
        again.change.expect("a notification for when the file system answers").await;
        assert!(is_proven(&outcome(&hashes, ONE, Program::new(2, 4)).await), "its place is free again");
    }

    #[tokio::test(start_paused = true)]
    async fn the_digest_of_an_unnamed_device_is_of_one_process_and_one_version_alone() {
        let hashes = HashSource::default();
        let device = libc::makedev(0, 40);
        let owned_by_other = |mtime| {
            let mut program = Program::new(1, 4);
            (program.identity.device, program.identity.mtime, program.identity.uid) = (device, mtime, 2000);
            program
        };
        let pinned = PinnedProcess::example(ONE);
        let ask_of = |pinned: &PinnedProcess, mtime| ask_about(&hashes, pinned, owned_by_other(mtime));
        ask_of(&pinned, 1).change.expect("it is being read").await;
        assert!(is_proven(&ask_of(&pinned, 1)));
        assert_eq!(ask_of(&pinned, 2).answer, Answer::Pending, "another version");
        assert_eq!(ask_of(&PinnedProcess::example(ONE), 1).answer, Answer::Pending, "another process");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(ask_of(&pinned, 1).answer, Answer::Pending, "a second later");
    }

    #[tokio::test(start_paused = true)]
    async fn the_digest_of_a_file_that_root_alone_writes_is_kept_for_its_image() {
        let hashes = HashSource::default();
        let program = |change: fn(&mut FileIdentity)| {
            let mut program = Program::new(1, 4);
            program.identity.device = libc::makedev(0, 40);
            change(&mut program.identity);
            program
        };
        let pinned = PinnedProcess::example(ONE);
        ask_about(&hashes, &pinned, program(|_| ())).change.expect("it is being read").await;
        assert!(is_proven(&ask_about(&hashes, &pinned, program(|_| ()))));
        tokio::time::advance(Duration::from_secs(3600)).await;
        let other_connection = pinned.clone();
        let replaced = || program(|file| (file.links, file.ctime, file.mode) = (0, 2, 0o100_600));
        let known = ask_about(&hashes, &other_connection, replaced());
        assert!(is_proven(&known) && known.facts[0].grade == Grade::Claimed, "{known:?}");
        let rewritten = ask_about(&hashes, &pinned, program(|file| file.mtime = 2));
        assert_eq!(rewritten.answer, Answer::Pending, "written since");
        let stranger = PinnedProcess::example(ONE);
        assert_eq!(ask_about(&hashes, &stranger, replaced()).answer, Answer::Pending, "another process");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_caller_gave_up_its_principal_is_undecided_at_once() {
        let hashes = HashSource::default();
        let (program, release) = Program::with_blocked_file_system(1);
        let asked = program.asked.clone();
        assert_eq!(ask(&hashes, ONE, program).answer, Answer::Pending);
        asked.notified().await;
        hashes.gave_up(&PinnedProcess::example(ONE));
        assert_eq!(undecided(&ask(&hashes, ONE, Program::new(2, 4))), Some(Undecided::TimedOut));
        assert_eq!(ask(&hashes, OTHER, Program::new(3, 4)).answer, Answer::Pending);
        drop(release);
    }

    #[tokio::test(start_paused = true)]
    async fn a_third_file_is_read_after_one_of_two_readers_has_finished() {
        let hashes = HashSource::default();
        let (one, release_one) = Program::with_blocked_disk(1);
        let (other, release_other) = Program::with_blocked_disk(2);
        let (third, release_third) = Program::with_blocked_disk(3);
        let asked = [&one, &other, &third].map(|program| program.asked.clone());
        let [first_asked, second_asked, third_asked] = asked;
        let two = async { tokio::join!(outcome(&hashes, ONE, one), outcome(&hashes, OTHER, other)) };
        let late = async {
            first_asked.notified().await;
            second_asked.notified().await;
            let known = ask(&hashes, Principal { uid: 1002, ..ONE }, third);
            threads_have_run().await;
            assert!(
                tokio::time::timeout(Duration::ZERO, third_asked.notified()).await.is_err(),
                "the third reader must wait"
            );
            drop((release_one, release_third));
            known.change.unwrap().await;
            third_asked.notified().await;
            drop(release_other);
        };
        let ((first, second), ()) = tokio::join!(two, late);
        assert!(is_proven(&first) && is_proven(&second));
    }

    #[tokio::test(start_paused = true)]
    async fn with_every_thread_blocked_a_look_up_ends_at_its_limit() {
        let hashes = HashSource::default();
        let mut kept = Vec::new();
        for uid in 0..THREADS {
            let (program, release) = Program::with_blocked_file_system(1);
            let asked = program.asked.clone();
            let hung = with_timeout_after(asked.notified(), outcome(&hashes, Principal { uid, ..ONE }, program)).await;
            assert_eq!(undecided(&hung), Some(Undecided::TimedOut), "{uid}");
            kept.push(release);
        }
        let late = with_timeout_after(threads_have_run(), outcome(&hashes, ONE, Program::new(2, 4))).await;
        assert_eq!(undecided(&late), Some(Undecided::TimedOut));
        kept.clear();
    }

    #[tokio::test(start_paused = true)]
    async fn more_principals_than_threads_are_all_answered() {
        let hashes = HashSource::default();
        let all = (0..3 * THREADS).map(|uid| outcome(&hashes, Principal { uid, ..ONE }, Program::new(1, 4)));
        assert!(join_all(all).await.iter().all(is_proven));
    }

    #[tokio::test(start_paused = true)]
    async fn a_principal_is_undecided_beyond_its_budget_except_for_cached_files() {
        let hashes = HashSource::default();
        let large = |inode| Program::new(inode, 400 << 20);
        for inode in [1, 2, 1, 2, 1, 2] {
            assert!(is_proven(&outcome(&hashes, ONE, large(inode)).await), "{inode}");
        }
        assert_eq!(undecided(&outcome(&hashes, ONE, large(3)).await), Some(Undecided::Budget));
        assert!(is_proven(&outcome(&hashes, OTHER, large(3)).await), "the budget of another principal");
        assert!(is_proven(&outcome(&hashes, ONE, large(3)).await), "cached by now");
        tokio::time::advance(BUDGET_PERIOD).await;
        assert!(is_proven(&outcome(&hashes, ONE, large(4)).await), "in the next period");
    }
}
