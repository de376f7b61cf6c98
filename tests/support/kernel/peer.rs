//! A process as the socket that it connected leads to it, and its directory in `/proc`.

use std::io::Seek as _;
use std::io::Write as _;
use std::path::PathBuf;

use bonafide::attestation::kernel::Executable;
use bonafide::attestation::kernel::FileIdentity;
use bonafide::attestation::kernel::Ids;
use bonafide::attestation::kernel::Namespace;
use bonafide::attestation::kernel::PidfdFacts;
use bonafide::attestation::kernel::ProcDirectory;
use bonafide::attestation::kernel::ProcFile;
use bonafide::attestation::kernel::Process;
use bonafide::attestation::kernel::Unanswered;
use bonafide::evidence::Credentials;
use bonafide::evidence::Level;
use futures_util::future::BoxFuture;

use crate::kernel::FakeKernel;
use crate::kernel::faults::Question;
use crate::kernel::process::Running;

#[derive(Debug)]
pub(super) struct FakePeer {
    pub(super) kernel: FakeKernel,
    pub(super) serial: usize,
    pub(super) peer: Credentials,
}

impl Process for FakePeer {
    fn peer(&self) -> Credentials {
        self.peer
    }

    fn level(&self) -> Level {
        self.kernel.level
    }

    fn alive(&self) -> Result<(), Unanswered> {
        self.kernel.lock().ask(self.serial, Question::Pidfd).map(drop)
    }

    fn pidfd_facts(&self) -> Result<Option<PidfdFacts>, Unanswered> {
        if self.kernel.level != Level::Full {
            return Ok(None);
        }
        let mut machine = self.kernel.lock();
        let process = machine.ask(self.serial, Question::Pidfd)?;
        let all = |id| Ids { real: id, effective: id, saved: id, fs: id };
        let (pid, uids, gids, cgroup) = (process.pid, all(process.uid), all(process.gid), process.cgroup.clone());
        Ok(Some(PidfdFacts { pid, uids, gids, cgroup: machine.cgroups.id(&cgroup) }))
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

impl FakeDirectory {
    fn ask<T>(&self, question: Question, answer: impl FnOnce(&Running) -> T) -> Result<T, Unanswered> {
        self.kernel.lock().ask(self.serial, question).map(answer)
    }

    /// Asks what may have to wait for a file system, without keeping everybody else from asking meanwhile.
    fn ask_file_system<T>(&self, question: Question, answer: impl FnOnce(&Running) -> T) -> Result<T, Unanswered> {
        let gate = self.kernel.lock().faults.gate(question, &[self.serial]);
        if let Some(gate) = gate {
            gate.wait();
        }
        self.ask(question, answer)
    }
}

impl ProcDirectory for FakeDirectory {
    fn read(&self, file: ProcFile) -> Result<Vec<u8>, Unanswered> {
        let mut machine = self.kernel.lock();
        machine.ask(self.serial, Question::Proc)?;
        let process = &machine.processes[self.serial];
        let text = match file {
            ProcFile::Status => status(process),
            ProcFile::Stat => stat(process),
            ProcFile::Cgroup => machine.cgroups.lines(process),
        };
        Ok(text.into_bytes())
    }

    fn namespace(&self, namespace: Namespace) -> Result<u64, Unanswered> {
        self.ask(Question::Namespaces, |process| process.namespaces.of(namespace))
    }

    fn user_namespace_owner(&self, _: u64) -> Result<u32, Unanswered> {
        let outermost = self.ask(Question::Namespaces, |process| process.user_namespace_owners.first().copied())?;
        outermost.ok_or(Unanswered::Absent)
    }

    fn executable(&self) -> Result<FileIdentity, Unanswered> {
        self.ask(Question::Executable, |process| process.file.identity)
    }

    fn executable_link(&self) -> Result<PathBuf, Unanswered> {
        self.ask(Question::Executable, |process| process.exe.clone())
    }

    fn executable_file_system(&self) -> Result<i64, Unanswered> {
        self.ask_file_system(Question::FileSystem, |process| process.file.file_system)
    }

    fn open_executable(&self) -> Result<Executable, Unanswered> {
        let running = self.ask_file_system(Question::Bytes, |process| process.file.clone())?;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&running.content).unwrap();
        file.rewind().unwrap();
        Ok(Executable { file, identity: running.identity })
    }
}

fn status(process: &Running) -> String {
    let Running { pid, uid, gid, .. } = process;
    let groups: String = process.groups.iter().map(|gid| format!("{gid} ")).collect();
    format!(
        "Name:\tweb\nState:\tS (sleeping)\nTgid:\t{pid}\nPid:\t{pid}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n\
         Gid:\t{gid}\t{gid}\t{gid}\t{gid}\nGroups:\t{groups}\n"
    )
}

fn stat(process: &Running) -> String {
    let stack = 0x7ffc_0000_0000_u64 + process.image * 16;
    format!("{} (web) S{}{stack}{}\n", process.pid, " 1".repeat(23) + " 1 ", " 0".repeat(24))
}
