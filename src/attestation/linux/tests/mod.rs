//! Attestation of real processes by the real kernel.

mod executables;
mod principals;

use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use super::*;
use futures_util::future::select_all;

use crate::attestation::Attestation;
use crate::attestation::Attested;
use crate::attestation::Attestor;
use crate::attestation::Contradiction;
use crate::attestation::NotAttested;
use crate::attestation::PinnedProcess;
use crate::evidence::Accounts;
use crate::evidence::Answer;
use crate::evidence::EpochParts;
use crate::evidence::EvidenceSet;
use crate::evidence::Provider;
use crate::evidence::Providers;
use crate::evidence::Selector;
use crate::evidence::SelectorKind;

/// The interpreter of the test callers.
const PYTHON: &str = "/usr/bin/python3";

/// Every part of a process that a fact can rest on.
const EVERYTHING: EpochParts = SelectorKind::Other.rests_on();

/// The providers of path and hash that have no answer yet.
fn path_and_hash(evidence: &EvidenceSet) -> Providers {
    let all = [Provider::PATH, Provider::SHA256];
    all.into_iter().filter(|provider| evidence.answer_of(provider).is_none()).collect()
}

/// A listening socket on this machine, and an attestor for its callers.
struct TestHost {
    linux: Arc<Linux>,
    attestor: Attestor,
    listener: UnixListener,
    folder: tempfile::TempDir,
}

/// `None`, and a line that the test was skipped, where this machine does not support attestation.
fn test_host(test: &str) -> Option<TestHost> {
    let linux = match Linux::open(Level::Reduced) {
        Ok(linux) => Arc::new(linux),
        Err(unsupported) => {
            eprintln!("skipped: {test}: {unsupported}");
            return None;
        }
    };
    if !Path::new(PYTHON).exists() {
        eprintln!("skipped: {test}: needs {PYTHON}");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("s")).unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(folder.path().join("s"), PermissionsExt::from_mode(0o777)).unwrap();
    Some(TestHost { attestor: Attestor::new(linux.clone(), Vec::new()), linux, listener, folder })
}

impl TestHost {
    /// Accepts one connection and pins its peer.
    fn accept(&self) -> (UnixStream, Result<PinnedProcess, NotAttested>) {
        let (socket, _) = self.listener.accept().unwrap();
        let pinned = match self.linux.peer(socket.as_fd()) {
            Ok(process) => self.attestor.by_peer(Arc::new(process)),
            Err(unanswered) => Err(unanswered.into()),
        };
        (socket, pinned)
    }

    /// Connects this process.
    fn connect_self(&self) -> (UnixStream, PinnedProcess) {
        let client = UnixStream::connect(self.folder.path().join("s")).unwrap();
        let (_, pinned) = self.accept();
        (client, pinned.unwrap())
    }

    /// Starts a process that runs `before`, connects with descriptor 3, waits for `go_on`, and runs `after`. The
    /// command `through`, if any, starts it.
    fn start(&self, through: &[&str], before: &str, after: &str) -> Child {
        let program = format!(
            "import ctypes, os, signal, socket, sys, threading\n{before}\n\
             s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); os.dup2(s.fileno(), 3)\n\
             os.read(0, 1)\n{after}"
        );
        let command = through.iter().copied().chain([PYTHON, "-c", &program]).collect::<Vec<_>>();
        let mut child = Command::new(command[0]);
        child.args(&command[1..]).arg(self.folder.path().join("s")).stdin(Stdio::piped()).spawn().unwrap()
    }

    /// As `start`, and pins the process.
    fn connect(&self, through: &[&str], before: &str, after: &str) -> TestCaller {
        let child = self.start(through, before, after);
        let (socket, pinned) = self.accept();
        TestCaller { child, socket, pinned: pinned.unwrap() }
    }

    /// The selectors of a process.
    async fn selectors(&self, peer: &TestCaller) -> Result<Vec<String>, NotAttested> {
        let attested = self.attest(&peer.pinned).await?;
        Ok(attested.evidence().facts().iter().map(|fact| fact.selector.to_string()).collect())
    }

    /// Attests again until nothing is pending.
    async fn attest(&self, pinned: &PinnedProcess) -> Result<Attested, NotAttested> {
        loop {
            let Attestation { proof, changes } = self.attestor.attest(pinned, &path_and_hash, &Accounts::default())?;
            if proof.evidence().answers().iter().all(|(_, answer)| *answer != Answer::Pending) {
                return Ok(proof);
            }
            select_all(changes).await;
        }
    }
}

/// A connected process, and the test's end of its connection. Killed on drop.
struct TestCaller {
    child: Child,
    socket: UnixStream,
    pinned: PinnedProcess,
}

impl TestCaller {
    /// Lets the process run `after`, and waits until it writes to its connection.
    fn go_on(&mut self) {
        drop(self.child.stdin.take());
        std::io::Read::read_exact(&mut self.socket, &mut [0]).unwrap();
    }
}

impl Drop for TestCaller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Python code that becomes an unprivileged user.
const AS_USER: &str = "os.setgroups([1001]); os.setgid(1000); os.setuid(1000)";

/// Whether the test runs as root; if not, prints that it was skipped.
fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: {test}: needs root");
    }
    root
}

fn open_descriptors() -> i64 {
    std::fs::read_dir("/proc/self/fd").unwrap().map(|_| 1).sum()
}

#[tokio::test]
async fn a_process_of_the_host_has_ids_groups_path_and_hash() {
    let Some(host) = test_host("a_process_of_the_host_has_ids_groups_path_and_hash") else { return };
    let (_client, pinned) = host.connect_self();
    let attested = host.attest(&pinned).await.unwrap();
    let evidence = attested.evidence();
    assert!(evidence.holds(&Selector::UnixUid(rustix::process::geteuid().as_raw())));
    assert!(evidence.holds(&Selector::UnixGid(rustix::process::getegid().as_raw())));
    for group in rustix::process::getgroups().unwrap() {
        assert!(evidence.holds(&Selector::UnixSupplementaryGid(group.as_raw())));
    }
    let own = std::env::current_exe().unwrap();
    assert!(evidence.holds(&Selector::path(own.to_str().unwrap()).unwrap()), "{evidence:#?}");
    assert!(evidence.holds(&Selector::Host), "{evidence:#?}");
    assert_eq!(attested.epoch().image, pinned.image);
    assert_eq!(attested.level(), host.linux.level());
    pinned.unchanged(&attested.epoch(), EVERYTHING).unwrap();
}

#[tokio::test]
async fn an_exited_process_is_refused_while_its_child_holds_the_connection() {
    let Some(host) = test_host("an_exited_process_is_refused_while_its_child_holds_the_connection") else { return };
    let mut peer = host.connect(&[], "", "os._exit(0) if os.fork() else (os.write(3, b'.'), os.read(3, 1))");
    let before = host.attest(&peer.pinned).await.unwrap();
    peer.go_on();
    peer.pinned.process().exited().await;
    let gone = NotAttested::No(Contradiction::ProcessGone);
    assert_eq!(host.attest(&peer.pinned).await.unwrap_err(), gone, "not reaped");
    peer.child.wait().unwrap();
    assert_eq!(host.attest(&peer.pinned).await.unwrap_err(), gone, "reaped");
    assert_eq!(peer.pinned.unchanged(&before.epoch(), EVERYTHING), Err(gone));
}

#[tokio::test]
async fn a_process_that_exited_before_the_accept_is_refused() {
    let Some(host) = test_host("a_process_that_exited_before_the_accept_is_refused") else { return };
    let mut child = host.start(&[], "", "");
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(host.accept().1.unwrap_err(), NotAttested::No(Contradiction::ProcessGone));
}

#[tokio::test]
async fn a_live_process_whose_first_thread_exited_is_refused() {
    let Some(host) = test_host("a_live_process_whose_first_thread_exited_is_refused") else { return };
    let rest = "import time\ndef rest():\n while open('/proc/self/stat').read().split(') ')[1][0] != 'Z': time.sleep(0.01)\n \
                os.write(3, b'.'); os.read(3, 1)\nthreading.Thread(target=rest).start()\n\
                ctypes.CDLL(None).syscall(60, 0)";
    let mut peer = host.connect(&[], "", rest);
    peer.go_on();
    peer.pinned.process().alive().unwrap();
    assert_eq!(host.attest(&peer.pinned).await.unwrap_err(), NotAttested::No(Contradiction::ProcessGone));
}

#[tokio::test]
async fn an_exec_of_another_program_changes_the_image() {
    let Some(host) = test_host("an_exec_of_another_program_changes_the_image") else { return };
    let exec = "os.set_inheritable(3, True); os.execv('/bin/sh', ['sh', '-c', 'echo >&3; read x <&3'])";
    let mut peer = host.connect(&[], "", exec);
    let before = host.attest(&peer.pinned).await.unwrap();
    peer.pinned.unchanged(&before.epoch(), EVERYTHING).unwrap();
    peer.go_on();
    let changed = NotAttested::No(Contradiction::ImageChanged);
    assert_eq!(peer.pinned.unchanged(&before.epoch(), EVERYTHING), Err(changed));
    assert_eq!(host.attest(&peer.pinned).await.unwrap_err(), changed);
}

#[tokio::test]
async fn an_exec_of_the_same_program_changes_the_image() {
    let Some(host) = test_host("an_exec_of_the_same_program_changes_the_image") else { return };
    let exec = "os.set_inheritable(3, True)\n\
                os.execv(sys.executable, ['python3', '-c', 'import os; os.write(3, b\".\"); os.read(3, 1)'])";
    let mut peer = host.connect(&[], "", exec);
    let before = host.attest(&peer.pinned).await.unwrap();
    peer.go_on();
    assert_eq!(peer.pinned.unchanged(&before.epoch(), EVERYTHING), Err(NotAttested::No(Contradiction::ImageChanged)));
}

#[tokio::test]
async fn a_process_name_with_parentheses_does_not_break_attestation() {
    let Some(host) = test_host("a_process_name_with_parentheses_does_not_break_attestation") else { return };
    let renamed = "ctypes.CDLL(None).prctl(15, b') R 1 (', 0, 0, 0)";
    let peer = host.connect(&[], renamed, "");
    host.selectors(&peer).await.unwrap();
}

#[tokio::test]
async fn a_user_has_the_ids_it_connected_with() {
    const TEST: &str = "a_user_has_the_ids_it_connected_with";
    let Some(host) = test_host(TEST).filter(|_| is_root(TEST)) else { return };
    let peer = host.connect(&[], AS_USER, "");
    let selectors = host.selectors(&peer).await.unwrap();
    assert_eq!(selectors[..3], ["unix:uid:1000", "unix:gid:1000", "unix:supplementary_gid:1001"]);
    assert_eq!(peer.pinned.principal().uid, 1000);
}

#[tokio::test]
async fn a_process_that_changes_its_credentials_is_refused() {
    const TEST: &str = "a_process_that_changes_its_credentials_is_refused";
    let Some(host) = test_host(TEST).filter(|_| is_root(TEST)) else { return };
    for change in [AS_USER, "os.setresgid(7, 7, 7)", "os.setresuid(0, 0, 7)", "os.setresuid(7, 0, 0)"] {
        let mut peer = host.connect(&[], "", &format!("{change}; os.write(3, b'.'); os.read(3, 1)"));
        let before = host.attest(&peer.pinned).await.unwrap();
        peer.go_on();
        let disagree = NotAttested::No(Contradiction::CredentialsDisagree);
        assert_eq!(host.attest(&peer.pinned).await.unwrap_err(), disagree, "{change}");
        assert_eq!(peer.pinned.unchanged(&before.epoch(), EVERYTHING), Err(disagree), "{change}");
    }
}

#[tokio::test]
async fn a_process_whose_thread_has_other_credentials_is_refused() {
    const TEST: &str = "a_process_whose_thread_has_other_credentials_is_refused";
    let Some(host) = test_host(TEST).filter(|_| is_root(TEST)) else { return };
    // The system call setresuid (117) changes the calling thread only.
    let thread = "def connect():\n ctypes.CDLL(None).syscall(117, 1234, 1234, 1234)\n \
                  s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); os.read(0, 1)\n\
                  t = threading.Thread(target=connect); t.start(); t.join(); os._exit(0)";
    let mut child = host.start(&[], thread, "");
    assert_eq!(host.accept().1.unwrap_err(), NotAttested::No(Contradiction::CredentialsDisagree));
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[tokio::test]
async fn a_process_in_its_own_pid_namespace_has_the_pid_of_the_daemons() {
    const TEST: &str = "a_process_in_its_own_pid_namespace_has_the_pid_of_the_daemons";
    let Some(host) = test_host(TEST).filter(|_| is_root(TEST)) else { return };
    let peer = host.connect(&["unshare", "-pf", "--kill-child"], "assert os.getpid() == 1", "");
    let attested = host.attest(&peer.pinned).await.unwrap();
    assert!(attested.peer().pid > 1);
    assert!(!attested.evidence().holds(&Selector::Host));
}

#[tokio::test]
async fn a_pinned_process_keeps_two_descriptors_open() {
    let Some(host) = test_host("a_pinned_process_keeps_two_descriptors_open") else { return };
    let client = UnixStream::connect(host.folder.path().join("s")).unwrap();
    let (socket, _) = host.listener.accept().unwrap();
    // Other tests of this binary open and close descriptors at the same time, so the median counts.
    let mut differences: Vec<(i64, i64)> = (0..401)
        .map(|_| {
            let before = open_descriptors();
            let pinned = host.attestor.by_peer(Arc::new(host.linux.peer(socket.as_fd()).unwrap())).unwrap();
            let held = open_descriptors() - before;
            pinned.is_same_image().unwrap();
            drop(pinned);
            (held, open_descriptors() - before)
        })
        .collect();
    differences.sort_unstable();
    assert_eq!(differences[200], (2, 0));
    drop(client);
}
