//! A model of the kernel: processes that start, exec, change user, groups, namespaces and cgroup, exit and hand their
//! numbers on, seen through the same traits and the same text as the real one. Answers nothing, or hangs, when told to.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

pub(crate) mod cgroups;
pub(crate) mod faults;
mod files;
mod peer;
pub(crate) mod process;

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;

use bonafide::attestation::kernel::AtPath;
use bonafide::attestation::kernel::Host;
use bonafide::attestation::kernel::MayBlock;
use bonafide::attestation::kernel::Namespace;
use bonafide::attestation::kernel::Process;
use bonafide::attestation::kernel::Unanswered;
use bonafide::evidence::Credentials;
use bonafide::evidence::Level;
use bonafide::evidence::RangeOwner;
use bonafide::evidence::SubordinateUids;
use bonafide::evidence::Undecided;

use crate::kernel::cgroups::Cgroups;
use crate::kernel::faults::Faults;
use crate::kernel::faults::Hang;
use crate::kernel::faults::Question;
use crate::kernel::files::Files;
use crate::kernel::peer::FakePeer;
pub(crate) use crate::kernel::process::FakePid;
pub(crate) use crate::kernel::process::FakeProcess;
use crate::kernel::process::File;
use crate::kernel::process::Namespaces;
use crate::kernel::process::Running;

/// The machine. Clones are the same machine.
#[derive(Debug, Clone)]
pub(crate) struct FakeKernel {
    machine: Arc<Mutex<Machine>>,
    level: Level,
}

/// Everything that changes.
#[derive(Debug, Default)]
struct Machine {
    processes: Vec<Running>,
    files: Files,
    cgroups: Cgroups,
    faults: Faults,
    subordinate_uids: Arc<SubordinateUids>,
    /// How many images and namespaces there were: each has its own number.
    made: u64,
    questions: u64,
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

    /// The same machine, with its daemon in a cgroup namespace that begins at `cgroup`: as that of a pod does.
    pub(crate) fn with_daemon_in(self, cgroup: &str) -> Self {
        self.lock().cgroups = Cgroups::seen_from(cgroup);
        self
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
        Arc::new(FakePeer { kernel: self.clone(), serial: process.serial, peer: process.credentials() })
    }

    /// Puts another file at a path of the host, as a package manager does: what runs the old one runs a file without a
    /// name.
    pub(crate) fn replace(&self, path: &str, content: &[u8]) {
        let machine = &mut *self.lock();
        let Some(old) = machine.files.replace(Path::new(path), content) else { return };
        for process in machine.processes.iter_mut().filter(|process| process.file.identity.is_same_file(&old)) {
            process.file.identity.links = 0;
        }
    }

    /// Mounts another file over a path of the host: what runs the old one runs a file that has its name elsewhere.
    pub(crate) fn mount_over(&self, path: &str, content: &[u8]) {
        self.lock().files.replace(Path::new(path), content);
    }

    /// Makes `uid` the owner of the file at a path of the host.
    pub(crate) fn chown(&self, path: &str, uid: u32) {
        self.change(path, |file| file.identity.uid = uid);
    }

    /// Puts the file system of a path of the host below what `statfs` reports as this type.
    pub(crate) fn on_file_system(&self, path: &str, file_system: i64) {
        self.change(path, |file| file.file_system = file_system);
    }

    /// Changes a file of the host, for those who run it, too.
    fn change(&self, path: &str, change: impl Fn(&mut File)) {
        let machine = &mut *self.lock();
        let file = machine.files.on_host_mut(Path::new(path));
        let identity = file.identity;
        change(file);
        let running = machine.processes.iter_mut().filter(|process| process.file.identity.is_same_file(&identity));
        running.for_each(|process| change(&mut process.file));
    }

    /// Writes `/etc/subuid`: these are the ranges from now on, with the uid of whose each is.
    pub(crate) fn write_subuid(&self, lines: &[(RangeInclusive<u32>, u32)]) {
        let mut ranges = SubordinateUids::default();
        lines.iter().for_each(|(uids, owner)| ranges.add(uids.clone(), RangeOwner::Uid(*owner)));
        self.lock().subordinate_uids = Arc::new(ranges);
    }

    /// From now on every question is answered with this.
    pub(crate) fn fail(&self, undecided: Undecided) {
        self.lock().faults.add(None, None, undecided);
    }

    /// From now on this question, about whatever process, is answered with this.
    pub(crate) fn fail_at(&self, question: Question, undecided: Undecided) {
        self.lock().faults.add(None, Some(question), undecided);
    }

    /// Ends every fault, those of single processes too.
    pub(crate) fn heal(&self) {
        self.lock().faults.heal();
    }

    /// From now on the thread that asks this waits, about whatever process, until the value is dropped.
    pub(crate) fn hang(&self, question: Question) -> Hang {
        self.lock().faults.hang(None, question)
    }

    /// How often anything was asked about a process.
    pub(crate) fn questions(&self) -> u64 {
        self.lock().questions
    }

    fn spawn_at(&self, pid: u32, process: FakeProcess) -> FakePid {
        let mut machine = self.lock();
        let taken = machine.processes.iter().any(|other| other.pid == pid && other.is_alive());
        assert!(!taken, "{pid} is taken");
        let mut namespaces = Namespaces::of_host();
        for kind in &process.own_namespaces {
            namespaces.set(*kind, machine.new_namespace());
        }
        let file = machine.files.at(process.root, process.exe);
        let image = machine.next_number();
        machine.processes.push(Running::new(pid, process, file, namespaces, image));
        FakePid { machine: self.machine.clone(), serial: machine.processes.len() - 1 }
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap()
    }
}

impl Machine {
    fn next_number(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    fn new_namespace(&mut self) -> u64 {
        Namespaces::FIRST_OWN + self.next_number()
    }

    /// The process, if it lives and the kernel has what it takes to say so.
    fn ask(&mut self, serial: usize, question: Question) -> Result<&Running, Unanswered> {
        self.questions += 1;
        match self.faults.of(question, &[serial]) {
            Some(undecided) => Err(undecided.into()),
            None if self.processes[serial].is_alive() => Ok(&self.processes[serial]),
            None => Err(Unanswered::Gone),
        }
    }

    /// Those whose executable has this path.
    fn running_at(&self, path: &Path) -> Vec<usize> {
        let running = self.processes.iter().enumerate().filter(|(_, process)| process.exe == path);
        running.map(|(serial, _)| serial).collect()
    }
}

impl Host for FakeKernel {
    fn level(&self) -> Level {
        self.level
    }

    fn numbered(&self, pid: u32) -> Result<Arc<dyn Process>, Unanswered> {
        let mut machine = self.lock();
        let alive = |process: &Running| process.pid == pid && process.is_alive();
        let serial = machine.processes.iter().position(alive).ok_or(Unanswered::Gone)?;
        let Running { uid, gid, .. } = *machine.ask(serial, Question::Pidfd)?;
        Ok(Arc::new(FakePeer { kernel: self.clone(), serial, peer: Credentials { pid, uid, gid } }))
    }

    fn namespace(&self, namespace: Namespace) -> Option<u64> {
        Some(Namespaces::of_host().of(namespace))
    }

    fn file_at(&self, path: &Path, may_block: MayBlock) -> Result<AtPath, Undecided> {
        let gate = {
            let machine = self.lock();
            machine.faults.gate(Question::AtPath, &machine.running_at(path))
        };
        match (gate, may_block) {
            (Some(_), MayBlock::No) => return Err(Undecided::TimedOut),
            (Some(gate), MayBlock::Yes) => gate.wait(),
            (None, _) => {}
        }
        let machine = self.lock();
        let undecided = machine.faults.of(Question::AtPath, &machine.running_at(path));
        undecided.map_or_else(|| Ok(machine.files.on_host(path)), Err)
    }

    fn anchored_cgroup(&self, shown: &str, cgroup: Option<u64>) -> Result<Option<String>, Undecided> {
        Ok(self.lock().cgroups.anchored(shown, cgroup))
    }

    fn manager_root(&self) -> &str {
        ""
    }

    fn charged_cgroup(&self, shown: &str) -> u64 {
        self.lock().cgroups.charged(shown)
    }

    fn subordinate_uids(&self) -> Arc<SubordinateUids> {
        self.lock().subordinate_uids.clone()
    }
}
