//! A kernel that behaves: processes that are born, exec, change user, move, exit and hand their numbers on, seen through
//! the same traits and the same text as the real one. It also runs out of things when told to.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;

use bonafide::attestation::kernel::AtPath;
use bonafide::attestation::kernel::Executable;
use bonafide::attestation::kernel::FileIdentity;
use bonafide::attestation::kernel::Host;
use bonafide::attestation::kernel::Ids;
use bonafide::attestation::kernel::MayBlock;
use bonafide::attestation::kernel::Namespace;
use bonafide::attestation::kernel::PidfdFacts;
use bonafide::attestation::kernel::ProcDirectory;
use bonafide::attestation::kernel::ProcFile;
use bonafide::attestation::kernel::Process;
use bonafide::attestation::kernel::Unanswered;
use bonafide::evidence::Credentials;
use bonafide::evidence::Level;
use bonafide::evidence::Undecided;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

/// Inodes of the host's namespaces.
const HOST_USER: u64 = 4_026_531_837;
const HOST_PID: u64 = 4_026_531_836;
const HOST_CGROUP: u64 = 4_026_531_835;
const HOST_MOUNT: u64 = 4_026_531_832;

const EXT4: i64 = 0xEF53;

/// How a process starts.
#[derive(Debug, Clone)]
pub(crate) struct FakeProcess {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// Path of its executable; made, owned by root, when it is not there yet.
    pub(crate) exe: &'static str,
    /// The line `0::`.
    pub(crate) cgroup: &'static str,
    /// Whether it lives in a user namespace of its own.
    pub(crate) own_user_namespace: bool,
}

impl Default for FakeProcess {
    fn default() -> Self {
        Self {
            uid: 1000,
            gid: 1000,
            groups: vec![1000],
            exe: "/usr/bin/web",
            cgroup: "/system.slice/web.service",
            own_user_namespace: false,
        }
    }
}

/// The machine. Clones are the same machine.
#[derive(Debug, Clone)]
pub(crate) struct FakeKernel {
    machine: Arc<Mutex<Machine>>,
    level: Level,
}

/// One process of a [`FakeKernel`], whatever its number comes to mean later.
#[derive(Debug, Clone)]
pub(crate) struct FakePid {
    machine: Arc<Mutex<Machine>>,
    serial: usize,
}

#[derive(Debug, Default)]
struct Machine {
    processes: Vec<Alive>,
    files: BTreeMap<PathBuf, (FileIdentity, Vec<u8>)>,
    cgroups: Vec<String>,
    fault: Option<Undecided>,
    images: u64,
    questions: u64,
}

#[derive(Debug)]
struct Alive {
    pid: u32,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    exe: PathBuf,
    running: FileIdentity,
    content: Vec<u8>,
    cgroup: String,
    user_namespace: u64,
    mount_namespace: u64,
    /// Changes with every exec.
    image: u64,
    exited: CancellationToken,
}

impl FakeKernel {
    /// A machine at the level `full`, with no process.
    pub(crate) fn new() -> Self {
        Self::at(Level::Full)
    }

    /// A machine of an older kernel.
    pub(crate) fn at(level: Level) -> Self {
        Self { machine: Arc::default(), level }
    }

    /// This machine as attestation compares callers with it.
    pub(crate) fn host(&self) -> Arc<dyn Host> {
        Arc::new(self.clone())
    }

    /// Starts a process under the next free number.
    pub(crate) fn spawn(&self, process: FakeProcess) -> FakePid {
        let next = 1000 + u32::try_from(self.lock().processes.len()).unwrap();
        self.spawn_at(next, process)
    }

    /// Starts a process under the number of one that has exited.
    pub(crate) fn reuse(&self, old: &FakePid, process: FakeProcess) -> FakePid {
        let pid = old.number();
        self.spawn_at(pid, process)
    }

    /// What a socket that this process connects just now leads to.
    pub(crate) fn connect(&self, process: &FakePid) -> Arc<dyn Process> {
        let peer = process.credentials();
        Arc::new(FakePeer { kernel: self.clone(), serial: process.serial, peer })
    }

    /// Puts another file at a path, as a package manager does: what runs the old one runs a file without a name.
    pub(crate) fn replace(&self, path: &str, content: &[u8]) {
        let machine = &mut *self.lock();
        let old = machine.files.get(Path::new(path)).map(|(identity, _)| (identity.device, identity.inode));
        for process in &mut machine.processes {
            if old == Some((process.running.device, process.running.inode)) {
                process.running.links = 0;
            }
        }
        machine.write(Path::new(path), content);
    }

    /// From now on every question about a process is answered with this.
    pub(crate) fn fail(&self, undecided: Undecided) {
        self.lock().fault = Some(undecided);
    }

    /// Ends [`FakeKernel::fail`].
    pub(crate) fn heal(&self) {
        self.lock().fault = None;
    }

    /// How often anything was asked about a process.
    pub(crate) fn questions(&self) -> u64 {
        self.lock().questions
    }

    fn spawn_at(&self, pid: u32, process: FakeProcess) -> FakePid {
        let mut machine = self.lock();
        assert!(
            machine.processes.iter().all(|other| other.pid != pid || other.exited.is_cancelled()),
            "{pid} is taken"
        );
        let (running, content) = machine.file(Path::new(process.exe));
        machine.images += 1;
        let image = machine.images;
        let own = if process.own_user_namespace { image } else { 0 };
        machine.processes.push(Alive {
            pid,
            uid: process.uid,
            gid: process.gid,
            groups: process.groups,
            exe: process.exe.into(),
            running,
            content,
            cgroup: process.cgroup.to_owned(),
            user_namespace: HOST_USER + own,
            mount_namespace: HOST_MOUNT + own,
            image,
            exited: CancellationToken::new(),
        });
        FakePid { machine: self.machine.clone(), serial: machine.processes.len() - 1 }
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap()
    }
}

impl FakePid {
    /// Its process id.
    pub(crate) fn number(&self) -> u32 {
        self.with(|process| process.pid)
    }

    /// The credentials that it would connect, or write, with now.
    pub(crate) fn credentials(&self) -> Credentials {
        self.with(|process| Credentials { pid: process.pid, uid: process.uid, gid: process.gid })
    }

    /// Becomes another program, or the same anew.
    pub(crate) fn exec(&self, path: &str) {
        let mut machine = self.machine.lock().unwrap();
        let (running, content) = machine.file(Path::new(path));
        machine.images += 1;
        let image = machine.images;
        let process = &mut machine.processes[self.serial];
        (process.exe, process.running, process.content, process.image) = (path.into(), running, content, image);
    }

    /// Ends. Whoever waits for it is woken.
    pub(crate) fn exit(&self) {
        self.with(|process| process.exited.cancel());
    }

    /// Sets all four user ids.
    pub(crate) fn setuid(&self, uid: u32) {
        self.with(|process| process.uid = uid);
    }

    /// Moves to another group of the unified hierarchy.
    pub(crate) fn move_to(&self, cgroup: &str) {
        self.with(|process| cgroup.clone_into(&mut process.cgroup));
    }

    fn with<T>(&self, act: impl FnOnce(&mut Alive) -> T) -> T {
        act(&mut self.machine.lock().unwrap().processes[self.serial])
    }
}

impl Machine {
    fn file(&mut self, path: &Path) -> (FileIdentity, Vec<u8>) {
        if !self.files.contains_key(path) {
            self.write(path, path.as_os_str().as_encoded_bytes());
        }
        self.files[path].clone()
    }

    fn write(&mut self, path: &Path, content: &[u8]) {
        self.images += 1;
        let time = i128::from(self.images);
        let identity = FileIdentity {
            device: 8 << 8 | 1,
            inode: self.images,
            size: content.len() as u64,
            ctime: time,
            mtime: time,
            links: 1,
            uid: 0,
            gid: 0,
            mode: 0o755,
        };
        self.files.insert(path.to_owned(), (identity, content.to_owned()));
    }

    /// Ids of groups are given out in the order in which they are first asked for.
    fn cgroup_id(&mut self, path: &str) -> u64 {
        let known = self.cgroups.iter().position(|known| known == path);
        let at = known.unwrap_or_else(|| {
            self.cgroups.push(path.to_owned());
            self.cgroups.len() - 1
        });
        100 + at as u64
    }

    /// The process, if it lives and the kernel has what it takes to say so.
    fn ask(&mut self, serial: usize) -> Result<&Alive, Unanswered> {
        self.questions += 1;
        match self.fault {
            Some(undecided) => Err(undecided.into()),
            None if self.processes[serial].exited.is_cancelled() => Err(Unanswered::Gone),
            None => Ok(&self.processes[serial]),
        }
    }
}

impl Host for FakeKernel {
    fn level(&self) -> Level {
        self.level
    }

    fn numbered(&self, pid: u32) -> Result<Arc<dyn Process>, Unanswered> {
        let machine = self.lock();
        let alive = |process: &Alive| process.pid == pid && !process.exited.is_cancelled();
        let serial = machine.processes.iter().position(alive).ok_or(Unanswered::Gone)?;
        let Alive { uid, gid, .. } = machine.processes[serial];
        Ok(Arc::new(FakePeer { kernel: self.clone(), serial, peer: Credentials { pid, uid, gid } }))
    }

    fn namespace(&self, namespace: Namespace) -> Option<u64> {
        Some(match namespace {
            Namespace::User => HOST_USER,
            Namespace::Mount => HOST_MOUNT,
            Namespace::Pid => HOST_PID,
            Namespace::Cgroup => HOST_CGROUP,
        })
    }

    fn file_at(&self, path: &Path, _: MayBlock) -> Result<AtPath, Undecided> {
        let machine = self.lock();
        let file = machine.files.get(path).map_or(AtPath::Nothing, |(identity, _)| AtPath::File(*identity));
        machine.fault.map_or(Ok(file), Err)
    }

    fn anchored_cgroup(&self, shown: &str, _: Option<u64>) -> Result<Option<String>, Undecided> {
        Ok(Some(shown.to_owned()))
    }

    fn manager_root(&self) -> &str {
        ""
    }

    fn charged_cgroup(&self, shown: &str) -> u64 {
        self.lock().cgroup_id(shown)
    }
}

/// A process as the socket that it connected leads to it.
#[derive(Debug)]
struct FakePeer {
    kernel: FakeKernel,
    serial: usize,
    peer: Credentials,
}

impl Process for FakePeer {
    fn peer(&self) -> Credentials {
        self.peer
    }

    fn level(&self) -> Level {
        self.kernel.level
    }

    fn alive(&self) -> Result<(), Unanswered> {
        self.kernel.lock().ask(self.serial).map(drop)
    }

    fn pidfd_facts(&self) -> Result<Option<PidfdFacts>, Unanswered> {
        if self.kernel.level != Level::Full {
            return Ok(None);
        }
        let mut machine = self.kernel.lock();
        let process = machine.ask(self.serial)?;
        let all = |id| Ids { real: id, effective: id, saved: id, fs: id };
        let (pid, uids, gids, cgroup) = (process.pid, all(process.uid), all(process.gid), process.cgroup.clone());
        Ok(Some(PidfdFacts { pid, uids, gids, cgroup: machine.cgroup_id(&cgroup) }))
    }

    fn directory(&self) -> Result<Box<dyn ProcDirectory>, Unanswered> {
        self.alive()?;
        Ok(Box::new(FakeDirectory { kernel: self.kernel.clone(), serial: self.serial }))
    }

    fn exited(&self) -> BoxFuture<'static, ()> {
        let exited = self.kernel.lock().processes[self.serial].exited.clone();
        Box::pin(async move { exited.cancelled().await })
    }
}

#[derive(Debug)]
struct FakeDirectory {
    kernel: FakeKernel,
    serial: usize,
}

impl ProcDirectory for FakeDirectory {
    fn read(&self, file: ProcFile) -> Result<Vec<u8>, Unanswered> {
        let mut machine = self.kernel.lock();
        let Alive { pid, uid, gid, groups, cgroup, image, .. } = machine.ask(self.serial)?;
        Ok(match file {
            ProcFile::Status => {
                let groups: String = groups.iter().map(|gid| format!("{gid} ")).collect();
                format!(
                    "Name:\tweb\nState:\tS (sleeping)\nTgid:\t{pid}\nPid:\t{pid}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n\
                     Gid:\t{gid}\t{gid}\t{gid}\t{gid}\nGroups:\t{groups}\n"
                )
            }
            ProcFile::Stat => {
                let stack = 0x7ffc_0000_0000_u64 + image * 16;
                format!("{pid} (web) S{}{stack}{}\n", " 1".repeat(23) + " 1 ", " 0".repeat(24))
            }
            ProcFile::Cgroup => format!("0::{cgroup}\n"),
        }
        .into_bytes())
    }

    fn namespace(&self, namespace: Namespace) -> Result<u64, Unanswered> {
        let mut machine = self.kernel.lock();
        let process = machine.ask(self.serial)?;
        Ok(match namespace {
            Namespace::User => process.user_namespace,
            Namespace::Mount => process.mount_namespace,
            Namespace::Pid => HOST_PID,
            Namespace::Cgroup => HOST_CGROUP,
        })
    }

    fn executable(&self) -> Result<FileIdentity, Unanswered> {
        Ok(self.kernel.lock().ask(self.serial)?.running)
    }

    fn executable_link(&self) -> Result<PathBuf, Unanswered> {
        Ok(self.kernel.lock().ask(self.serial)?.exe.clone())
    }

    fn executable_file_system(&self) -> Result<i64, Unanswered> {
        self.kernel.lock().ask(self.serial).map(|_| EXT4)
    }

    fn open_executable(&self) -> Result<Executable, Unanswered> {
        let mut machine = self.kernel.lock();
        let process = machine.ask(self.serial)?;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&process.content).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        Ok(Executable { file, identity: process.running })
    }
}
