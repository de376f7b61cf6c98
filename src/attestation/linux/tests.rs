//! Attestation of real processes by the real kernel.

use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::SystemTime;

use super::*;
use crate::attestation::Attested;
use crate::attestation::Attestor;
use crate::attestation::Contradiction;
use crate::attestation::NotAttested;
use crate::attestation::PinnedProcess;
use crate::evidence::Accounts;
use crate::evidence::Selector;
use crate::evidence::SelectorKind;
use crate::evidence::Wants;

const EVERYTHING: Wants = Wants { path: true, sha256: true };

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
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("s")).unwrap();
    Some(Here { attestor: Attestor::new(linux.clone()), linux, listener, folder })
}

impl Here {
    /// Accepts one connection and pins who made it.
    fn accept(&self) -> (UnixStream, Result<PinnedProcess, NotAttested>) {
        let (socket, _) = self.listener.accept().unwrap();
        let pinned = match self.linux.peer(socket.as_fd()) {
            Ok(process) => self.attestor.pin(Arc::new(process)),
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

    /// Starts a shell that connects and then goes on as `script`; the connection is its descriptor 3.
    fn connect_script(&self, script: &str) -> (Child, UnixStream, PinnedProcess) {
        let connect = "import os, socket, sys\n\
                       s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); os.dup2(s.fileno(), 3)\n\
                       os.read(0, 1)\n";
        let child = Command::new("python3")
            .args(["-c", &format!("{connect}{script}")])
            .arg(self.folder.path().join("s"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let (socket, pinned) = self.accept();
        (child, socket, pinned.unwrap())
    }

    async fn attest(&self, pinned: &PinnedProcess) -> Result<Attested, NotAttested> {
        self.attestor.attest(pinned, &|_| EVERYTHING, &Accounts::default(), SystemTime::UNIX_EPOCH).await
    }
}

/// Lets a script that waits on its standard input go on.
fn go_on(child: &mut Child) {
    drop(child.stdin.take());
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
    let nothing = |_: &_| Wants::NOTHING;
    let attested = here.attestor.attest(&pinned, &nothing, &Accounts::default(), SystemTime::UNIX_EPOCH).await.unwrap();
    for kind in [SelectorKind::UnixPath, SelectorKind::UnixSha256] {
        let because = attested.evidence().withheld_because(kind);
        assert_eq!(because, Some(crate::evidence::WithheldBecause::NotWanted));
    }
}

#[tokio::test]
async fn a_process_that_has_exited_is_nobody_even_while_its_child_holds_the_connection() {
    let Some(here) = here("a_process_that_has_exited_is_nobody") else { return };
    let (mut child, _socket, pinned) = here.connect_script("os._exit(0) if os.fork() else os.read(3, 1)");
    let _ = here.attest(&pinned).await.unwrap();
    go_on(&mut child);
    pinned.process().exited().await;
    assert_eq!(here.attest(&pinned).await.unwrap_err(), NotAttested::No(Contradiction::ProcessGone));
    child.wait().unwrap();
    assert_eq!(here.attest(&pinned).await.unwrap_err(), NotAttested::No(Contradiction::ProcessGone));
    assert_eq!(pinned.unchanged(pinned.epoch()), Err(NotAttested::No(Contradiction::ProcessGone)));
}

#[tokio::test]
async fn a_process_that_becomes_another_program_is_no_longer_itself() {
    let Some(here) = here("a_process_that_becomes_another_program_is_no_longer_itself") else { return };
    let script = "os.set_inheritable(3, True); os.execv('/bin/sh', ['sh', '-c', 'echo now >&3; read x <&3'])";
    let (mut child, mut socket, pinned) = here.connect_script(script);
    let before = here.attest(&pinned).await.unwrap();
    pinned.unchanged(before.epoch()).unwrap();
    go_on(&mut child);
    let mut answer = [0; 4];
    std::io::Read::read_exact(&mut socket, &mut answer).unwrap();
    assert_eq!(pinned.unchanged(before.epoch()), Err(NotAttested::No(Contradiction::ImageChanged)));
    assert_eq!(here.attest(&pinned).await.unwrap_err(), NotAttested::No(Contradiction::ImageChanged));
    drop(socket);
    child.wait().unwrap();
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
            let pinned = here.attestor.pin(Arc::new(here.linux.peer(socket.as_fd()).unwrap())).unwrap();
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
