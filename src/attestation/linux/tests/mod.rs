//! Attestation of real processes by the real kernel.

use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use aws_lc_rs::digest;

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
use crate::evidence::EvidenceSet;
use crate::evidence::Provider;
use crate::evidence::Providers;
use crate::evidence::Selector;
use crate::evidence::SelectorKind;
use crate::evidence::WithheldBecause;
use crate::registration::Entry;
use crate::registration::EntryIndex;

/// What the callers of these tests are written in.
const PYTHON: &str = "/usr/bin/python3";

/// The providers of the executable's facts that were not asked yet.
fn everything(evidence: &EvidenceSet) -> Providers {
    let all = [Provider::PATH, Provider::SHA256];
    all.into_iter().filter(|provider| evidence.answer_of(provider).is_none()).collect()
}

/// A listening socket on this machine, and who attests its callers.
struct Here {
    linux: Arc<Linux>,
    attestor: Attestor,
    listener: UnixListener,
    folder: tempfile::TempDir,
}

/// `None` where this machine is not one that attests, which is said.
fn here(test: &str) -> Option<Here> {
    let linux = match Linux::open(Level::Reduced) {
        Ok(linux) => Arc::new(linux),
        Err(unfit) => {
            eprintln!("skipped: {test}: {unfit}");
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
    Some(Here { attestor: Attestor::new(linux.clone(), Vec::new()), linux, listener, folder })
}

impl Here {
    /// Accepts one connection and pins who made it.
    fn accept(&self) -> (UnixStream, Result<PinnedProcess, NotAttested>) {
        let (socket, _) = self.listener.accept().unwrap();
        let pinned = match self.linux.peer(socket.as_fd()) {
            Ok(process) => self.attestor.by_peer(Arc::new(process)),
            Err(unanswered) => Err(unanswered.into()),
        };
        (socket, pinned)
    }

    /// Connects this very process.
    fn connect_self(&self) -> (UnixStream, PinnedProcess) {
        let client = UnixStream::connect(self.folder.path().join("s")).unwrap();
        let (_, pinned) = self.accept();
        (client, pinned.unwrap())
    }

    /// Starts a process that runs `before`, connects, and once it may go on runs `after`; the connection is its
    /// descriptor 3. It is started by the command `through`, if there is one.
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

    /// Starts such a process and pins it.
    fn connect(&self, through: &[&str], before: &str, after: &str) -> Peer {
        let child = self.start(through, before, after);
        let (socket, pinned) = self.accept();
        Peer { child, socket, pinned: pinned.unwrap() }
    }

    /// The selectors of a process, or why it has none.
    async fn selectors(&self, peer: &Peer) -> Result<Vec<String>, NotAttested> {
        let attested = self.attest(&peer.pinned).await?;
        Ok(attested.evidence().facts().iter().map(|fact| fact.selector.to_string()).collect())
    }

    /// Attests again until nothing is pending.
    async fn attest(&self, pinned: &PinnedProcess) -> Result<Attested, NotAttested> {
        loop {
            let Attestation { proof, changes } = self.attestor.attest(pinned, &everything, &Accounts::default())?;
            if proof.evidence().answers().iter().all(|(_, answer)| *answer != Answer::Pending) {
                return Ok(proof);
            }
            select_all(changes).await;
        }
    }
}

/// A process that connected, and our end of its connection. Dropping it ends it.
struct Peer {
    child: Child,
    socket: UnixStream,
    pinned: PinnedProcess,
}

impl Peer {
    /// Lets it go on, and waits until it writes to its connection.
    fn go_on(&mut self) {
        drop(self.child.stdin.take());
        std::io::Read::read_exact(&mut self.socket, &mut [0]).unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Becomes an ordinary user.
const AS_USER: &str = "os.setgroups([1001]); os.setgid(1000); os.setuid(1000)";

/// Whether a test may do what only root can; if not, that is said.
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
async fn a_process_of_the_host_has_its_ids_its_groups_its_path_and_its_hash() {
    let Some(here) = here("a_process_of_the_host_has_its_ids_its_groups_its_path_and_its_hash") else { return };
    let (_client, pinned) = here.connect_self();
    let attested = here.attest(&pinned).await.unwrap();
    let evidence = attested.evidence();
    assert!(evidence.holds(&Selector::UnixUid(rustix::process::geteuid().as_raw())));
    assert!(evidence.holds(&Selector::UnixGid(rustix::process::getegid().as_raw())));
    for group in rustix::process::getgroups().unwrap() {
        assert!(evidence.holds(&Selector::UnixSupplementaryGid(group.as_raw())));
    }
    let own = std::env::current_exe().unwrap();
    assert!(evidence.holds(&Selector::path(own.to_str().unwrap()).unwrap()), "{evidence:#?}");
    assert!(evidence.holds(&Selector::Host), "{evidence:#?}");
    assert_eq!(attested.epoch(), pinned.epoch());
    assert_eq!(attested.level(), here.linux.level());
    pinned.unchanged(attested.epoch()).unwrap();
}

#[tokio::test]
async fn costly_facts_are_not_looked_for_when_no_entry_could_use_them() {
    let Some(here) = here("costly_facts_are_not_looked_for_when_no_entry_could_use_them") else { return };
    let (_client, pinned) = here.connect_self();
    let attested = here.attestor.attest(&pinned, &|_| Providers::new(), &Accounts::default()).unwrap().proof;
    for kind in [SelectorKind::UnixPath, SelectorKind::UnixSha256] {
        let because = attested.evidence().withheld_because(kind);
        assert_eq!(because, Some(WithheldBecause::NotWanted));
    }
}

#[tokio::test]
async fn a_hash_that_the_path_rules_out_is_not_looked_for() {
    let Some(here) = here("a_hash_that_the_path_rules_out_is_not_looked_for") else { return };
    let (_client, pinned) = here.connect_self();
    let sha256 = format!("unix:sha256:{}", "ab".repeat(32));
    let beside_another_path = Entry::example(0, "/web", &["unix:path:/nowhere", &sha256]);
    let index = EntryIndex::new(vec![beside_another_path]);
    let attested = here.attestor.attest(&pinned, &|evidence| index.wants(evidence), &Accounts::default());
    let because = attested.unwrap().proof.evidence().withheld_because(SelectorKind::UnixSha256);
    assert_eq!(because, Some(WithheldBecause::NotWanted));
}

#[tokio::test]
async fn a_process_that_has_exited_is_nobody_even_while_its_child_holds_the_connection() {
    let Some(here) = here("a_process_that_has_exited_is_nobody") else { return };
    let mut peer = here.connect(&[], "", "os._exit(0) if os.fork() else (os.write(3, b'.'), os.read(3, 1))");
    let before = here.attest(&peer.pinned).await.unwrap();
    peer.go_on();
    peer.pinned.process().exited().await;
    let gone = NotAttested::No(Contradiction::ProcessGone);
    assert_eq!(here.attest(&peer.pinned).await.unwrap_err(), gone, "not reaped");
    peer.child.wait().unwrap();
    assert_eq!(here.attest(&peer.pinned).await.unwrap_err(), gone, "reaped");
    assert_eq!(peer.pinned.unchanged(before.epoch()), Err(gone));
}

#[tokio::test]
async fn a_process_that_was_dead_at_the_accept_is_nobody() {
    let Some(here) = here("a_process_that_was_dead_at_the_accept_is_nobody") else { return };
    let mut child = here.start(&[], "", "");
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(here.accept().1.unwrap_err(), NotAttested::No(Contradiction::ProcessGone));
}

#[tokio::test]
async fn a_process_whose_first_thread_exited_is_nobody_though_it_lives() {
    let Some(here) = here("a_process_whose_first_thread_exited_is_nobody_though_it_lives") else { return };
    let rest = "import time\ndef rest():\n while open('/proc/self/stat').read().split(') ')[1][0] != 'Z': time.sleep(0.01)\n \
                os.write(3, b'.'); os.read(3, 1)\nthreading.Thread(target=rest).start()\n\
                ctypes.CDLL(None).syscall(60, 0)";
    let mut peer = here.connect(&[], "", rest);
    peer.go_on();
    peer.pinned.process().alive().unwrap();
    assert_eq!(here.attest(&peer.pinned).await.unwrap_err(), NotAttested::No(Contradiction::ProcessGone));
}

#[tokio::test]
async fn a_process_that_becomes_another_program_is_no_longer_itself() {
    let Some(here) = here("a_process_that_becomes_another_program_is_no_longer_itself") else { return };
    let exec = "os.set_inheritable(3, True); os.execv('/bin/sh', ['sh', '-c', 'echo >&3; read x <&3'])";
    let mut peer = here.connect(&[], "", exec);
    let before = here.attest(&peer.pinned).await.unwrap();
    peer.pinned.unchanged(before.epoch()).unwrap();
    peer.go_on();
    let changed = NotAttested::No(Contradiction::ImageChanged);
    assert_eq!(peer.pinned.unchanged(before.epoch()), Err(changed));
    assert_eq!(here.attest(&peer.pinned).await.unwrap_err(), changed);
}

#[tokio::test]
async fn a_process_that_starts_its_own_program_anew_is_no_longer_itself() {
    let Some(here) = here("a_process_that_starts_its_own_program_anew_is_no_longer_itself") else { return };
    let exec = "os.set_inheritable(3, True)\n\
                os.execv(sys.executable, ['python3', '-c', 'import os; os.write(3, b\".\"); os.read(3, 1)'])";
    let mut peer = here.connect(&[], "", exec);
    let before = here.attest(&peer.pinned).await.unwrap();
    peer.go_on();
    assert_eq!(peer.pinned.unchanged(before.epoch()), Err(NotAttested::No(Contradiction::ImageChanged)));
}

#[tokio::test]
async fn a_name_full_of_parentheses_changes_nothing() {
    let Some(here) = here("a_name_full_of_parentheses_changes_nothing") else { return };
    let renamed = "ctypes.CDLL(None).prctl(15, b') R 1 (', 0, 0, 0)";
    let peer = here.connect(&[], renamed, "");
    here.selectors(&peer).await.unwrap();
}

#[tokio::test]
async fn a_user_has_the_ids_it_connected_with() {
    const TEST: &str = "a_user_has_the_ids_it_connected_with";
    let Some(here) = here(TEST).filter(|_| is_root(TEST)) else { return };
    let peer = here.connect(&[], AS_USER, "");
    let selectors = here.selectors(&peer).await.unwrap();
    assert_eq!(selectors[..3], ["unix:uid:1000", "unix:gid:1000", "unix:supplementary_gid:1001"]);
    assert_eq!(peer.pinned.principal().uid, 1000);
}

#[tokio::test]
async fn credentials_that_change_after_the_connect_make_a_process_nobody() {
    const TEST: &str = "credentials_that_change_after_the_connect_make_a_process_nobody";
    let Some(here) = here(TEST).filter(|_| is_root(TEST)) else { return };
    for change in [AS_USER, "os.setresgid(7, 7, 7)", "os.setresuid(0, 0, 7)", "os.setresuid(7, 0, 0)"] {
        let mut peer = here.connect(&[], "", &format!("{change}; os.write(3, b'.'); os.read(3, 1)"));
        let before = here.attest(&peer.pinned).await.unwrap();
        peer.go_on();
        let disagree = NotAttested::No(Contradiction::CredentialsDisagree);
        assert_eq!(here.attest(&peer.pinned).await.unwrap_err(), disagree, "{change}");
        assert_eq!(peer.pinned.unchanged(before.epoch()), Err(disagree), "{change}");
    }
}

#[tokio::test]
async fn a_thread_with_credentials_of_its_own_makes_a_process_nobody() {
    const TEST: &str = "a_thread_with_credentials_of_its_own_makes_a_process_nobody";
    let Some(here) = here(TEST).filter(|_| is_root(TEST)) else { return };
    // SYS_setresuid acts on one thread alone.
    let thread = "def connect():\n ctypes.CDLL(None).syscall(117, 1234, 1234, 1234)\n \
                  s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); os.read(0, 1)\n\
                  t = threading.Thread(target=connect); t.start(); t.join(); os._exit(0)";
    let mut child = here.start(&[], thread, "");
    assert_eq!(here.accept().1.unwrap_err(), NotAttested::No(Contradiction::CredentialsDisagree));
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[tokio::test]
async fn a_private_mount_namespace_keeps_the_path_and_a_bind_mount_over_it_does_not() {
    const TEST: &str = "a_private_mount_namespace_keeps_the_path_and_a_bind_mount_over_it_does_not";
    let Some(here) = here(TEST).filter(|_| is_root(TEST)) else { return };
    let python = std::fs::canonicalize(PYTHON).unwrap();
    let path = format!("unix:path:{}", python.display());
    let private = "mount --bind /etc /etc && mount -o remount,ro,bind /etc && exec \"$@\"";
    let honest = here.connect(&["unshare", "-m", "sh", "-c", private, "sh"], "", "");
    assert!(here.selectors(&honest).await.unwrap().contains(&path));
    let copy = here.folder.path().join("copy");
    std::fs::copy(&python, &copy).unwrap();
    let over = format!("mount --bind {} {} && exec \"$@\"", copy.display(), python.display());
    let liar = here.connect(&["unshare", "-m", "sh", "-c", &over, "sh"], "", "");
    let attested = here.attest(&liar.pinned).await.unwrap();
    let because = attested.evidence().withheld_because(SelectorKind::UnixPath);
    assert_eq!(because, Some(WithheldBecause::PathIsAnotherFile));
}

#[tokio::test]
async fn a_user_namespace_of_its_own_takes_path_hash_and_host_from_a_process() {
    const TEST: &str = "a_user_namespace_of_its_own_takes_path_hash_and_host_from_a_process";
    let Some(here) = here(TEST) else { return };
    let peer = here.connect(&["unshare", "-Ur"], "", "");
    let attested = here.attest(&peer.pinned).await.unwrap();
    for kind in [SelectorKind::UnixPath, SelectorKind::UnixSha256, SelectorKind::UnixUser] {
        let because = attested.evidence().withheld_because(kind);
        assert_eq!(because, Some(WithheldBecause::ForeignUserNamespace), "{kind:?}");
    }
    assert!(!attested.evidence().holds(&Selector::Host));
}

#[tokio::test]
async fn a_process_in_a_pid_namespace_of_its_own_is_known_by_our_number() {
    const TEST: &str = "a_process_in_a_pid_namespace_of_its_own_is_known_by_our_number";
    let Some(here) = here(TEST).filter(|_| is_root(TEST)) else { return };
    let peer = here.connect(&["unshare", "-pf", "--kill-child"], "assert os.getpid() == 1", "");
    let attested = here.attest(&peer.pinned).await.unwrap();
    assert!(attested.peer().pid > 1);
    assert!(!attested.evidence().holds(&Selector::Host));
}

#[tokio::test]
async fn a_hash_that_the_caller_could_change_is_withheld_and_root_keeps_its_own() {
    const TEST: &str = "a_hash_that_the_caller_could_change_is_withheld_and_root_keeps_its_own";
    let Some(here) = here(TEST).filter(|_| is_root(TEST)) else { return };
    let python = std::fs::canonicalize(PYTHON).unwrap();
    let own = here.folder.path().join("own");
    std::fs::copy(&python, &own).unwrap();
    std::os::unix::fs::chown(&own, Some(1000), None).unwrap();
    let owned = format!("exec -a python3 {} \"${{@:2}}\"", own.display());
    let caller = here.connect(&["bash", "-c", &owned, "bash"], AS_USER, "");
    let because = here.attest(&caller.pinned).await.unwrap().evidence().withheld_because(SelectorKind::UnixSha256);
    assert_eq!(because, Some(WithheldBecause::WritableByCaller));
    let root = here.connect(&["bash", "-c", &owned, "bash"], "", "");
    let bytes = digest::digest(&digest::SHA256, &std::fs::read(&own).unwrap());
    let hash = Selector::UnixSha256(bytes.as_ref().try_into().unwrap());
    assert!(here.attest(&root.pinned).await.unwrap().evidence().holds(&hash));
}

#[tokio::test]
async fn a_file_of_an_overlay_has_a_hash_for_root_alone() {
    const TEST: &str = "a_file_of_an_overlay_has_a_hash_for_root_alone";
    let Some(here) = here(TEST).filter(|_| is_root(TEST)) else { return };
    let python = std::fs::canonicalize(PYTHON).unwrap();
    // On a tmpfs of its own, which can be the upper layer wherever the test runs.
    let mount = format!(
        "cd {} && mkdir -p m && mount -t tmpfs none m && cd m && mkdir l u w o && cp {} l/python3 && chmod -R a+rX . && \
         mount -t overlay none -o lowerdir=l,upperdir=u,workdir=w o && cd / && exec -a python3 {}/m/o/python3 \"${{@:2}}\"",
        here.folder.path().display(),
        python.display(),
        here.folder.path().display(),
    );
    let through = ["unshare", "-m", "bash", "-c", &mount, "bash"];
    let user = here.connect(&through, AS_USER, "");
    let because = here.attest(&user.pinned).await.unwrap().evidence().withheld_because(SelectorKind::UnixSha256);
    assert_eq!(because, Some(WithheldBecause::ForeignFileSystem));
    drop(user);
    let root = here.connect(&through, "", "");
    assert_eq!(here.attest(&root.pinned).await.unwrap().evidence().withheld_because(SelectorKind::UnixSha256), None);
}

#[tokio::test]
async fn between_attestations_a_process_costs_one_descriptor() {
    let Some(here) = here("between_attestations_a_process_costs_one_descriptor") else { return };
    let client = UnixStream::connect(here.folder.path().join("s")).unwrap();
    let (socket, _) = here.listener.accept().unwrap();
    // Other tests of this binary open and close descriptors, too; half of the time none does.
    let mut differences: Vec<(i64, i64)> = (0..401)
        .map(|_| {
            let before = open_descriptors();
            let pinned = here.attestor.by_peer(Arc::new(here.linux.peer(socket.as_fd()).unwrap())).unwrap();
            let held = open_descriptors() - before;
            pinned.unchanged(pinned.epoch()).unwrap();
            drop(pinned);
            (held, open_descriptors() - before)
        })
        .collect();
    differences.sort_unstable();
    assert_eq!(differences[200], (1, 0));
    drop(client);
}
