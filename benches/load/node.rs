//! The daemon under load: a temporary one, or one that already serves a socket.

use std::fs;
use std::fs::File;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use nix::unistd::Uid;
use tokio::process::Child;
use tokio::process::Command;
use tokio::time::Instant;

use crate::client;
use crate::meters::Meter;

/// The uid of an entry that never changes.
pub(crate) const STRANGER: u32 = 65_534;
const CLIENT: u32 = 65_533;
/// Uids with an entry each, for floods that need one.
pub(crate) const ENTITLED_FLOODERS: Range<u32> = 42_001..42_009;
const BINARY: &str = env!("CARGO_BIN_EXE_bonafide");

/// The uid of the entry that changes: another user's where this program may become one.
pub(crate) fn client_uid() -> u32 {
    let this_user = Uid::effective();
    if this_user.is_root() { CLIENT } else { this_user.as_raw() }
}

/// The target of a measurement: a socket and the process that serves it.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) socket: PathBuf,
    pub(crate) pid: u32,
}

impl Target {
    pub(crate) fn meter(&self) -> Meter {
        Meter::of(self.pid)
    }
}

/// How a daemon is configured.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) binary: PathBuf,
    pub(crate) entries: u32,
    /// The default limits; else one user may have all connections, because all load comes from one.
    pub(crate) default_limits: bool,
    /// Where `/ready` is served.
    pub(crate) ready: Option<SocketAddr>,
}

impl Setup {
    /// Of this binary, or of the one that was built with this program.
    pub(crate) fn of(binary: Option<&PathBuf>) -> Self {
        let binary = binary.cloned().unwrap_or_else(|| BINARY.into());
        Self { binary, entries: 20, default_limits: false, ready: None }
    }

    pub(crate) fn with_entries(self, entries: u32) -> Self {
        Self { entries, ..self }
    }
}

/// A daemon in its own directory. Drop kills it and removes the directory.
pub(crate) struct Node {
    binary: PathBuf,
    daemon: Child,
    directory: tempfile::TempDir,
}

impl Node {
    /// Starts a daemon, and waits until it serves this user.
    pub(crate) async fn start(setup: &Setup) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let at = directory.path();
        fs::set_permissions(at, fs::Permissions::from_mode(0o711)).expect("a directory of our own");
        fs::create_dir(at.join("entries.d")).expect("a folder");
        fs::create_dir(at.join("log")).expect("a folder that the daemon does not watch");
        fs::write(at.join("bonafide.toml"), configuration(at, setup)).expect("a file");
        fs::write(at.join("entries.d/others.toml"), others(setup.entries - 1)).expect("a file");
        fs::write(at.join("entries.d/load.toml"), our_entry("")).expect("a file");
        let binary = setup.binary.clone();
        let mut node = Self { daemon: spawn_daemon(&binary, at), binary, directory };
        node.first_svid_since(Instant::now()).await;
        node
    }

    pub(crate) fn target(&self) -> Target {
        Target { socket: self.directory.path().join("workload.sock"), pid: self.daemon.id().expect("it is not reaped") }
    }

    /// Ends the daemon by `signal`, starts it again, and returns the time until the first X509-SVID.
    pub(crate) async fn restart_by(&mut self, signal: Signal) -> Duration {
        kill(Pid::from_raw(self.target().pid as i32), signal).expect("the daemon runs");
        let killed = Instant::now();
        self.daemon.wait().await.expect("a child can be waited for");
        // The time of an orderly stop does not count; a killed daemon is away from the moment of the kill.
        let begin = if signal == Signal::SIGKILL { killed } else { Instant::now() };
        self.daemon = spawn_daemon(&self.binary, self.directory.path());
        self.first_svid_since(begin).await
    }

    async fn first_svid_since(&mut self, begin: Instant) -> Duration {
        let socket = self.target().socket;
        while client::first_svid(&socket).await.is_err() {
            if let Ok(Some(status)) = self.daemon.try_wait() {
                panic!("the daemon ended with {status}:\n{}", self.log());
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "the daemon serves nothing:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        begin.elapsed()
    }

    /// Rewrites the entry of all streams, and reloads.
    async fn change_entry(&self, lines: &str) {
        let entries = self.directory.path().join("entries.d");
        fs::write(entries.join(".load.toml"), our_entry(lines)).expect("a file");
        fs::rename(entries.join(".load.toml"), entries.join("load.toml")).expect("a file can be renamed");
        let admin = self.directory.path().join("admin.sock");
        succeed(Command::new(&self.binary).args(["reload", "--admin-socket"]).arg(admin)).await;
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log/daemon")).unwrap_or_default()
    }
}

/// The means of changing the entry of all streams.
pub(crate) enum EntryChange<'a> {
    /// In the drop-in file of our own daemon.
    File(&'a Node),
    /// By a program with the new hint and DNS name as arguments, which exits once the change is made.
    Program(PathBuf),
}

impl EntryChange<'_> {
    pub(crate) async fn make(&self, hint: &str, dns: &str) {
        match self {
            Self::File(node) => node.change_entry(&format!("hint = {hint:?}\ndns = [{dns:?}]")).await,
            Self::Program(program) => succeed(Command::new(program).args([hint, dns])).await,
        }
    }
}

async fn succeed(command: &mut Command) {
    let output = command.output().await.expect("the program can be started");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// `Nice=` of the unit.
pub(crate) const NICENESS: &str = "-10";

fn spawn_daemon(binary: &Path, directory: &Path) -> Child {
    let log = File::options().create(true).append(true).open(directory.join("log/daemon")).expect("a file");
    let errors = log.try_clone().expect("a descriptor");
    let root = nix::unistd::geteuid().is_root();
    let mut command = if root { Command::new("nice") } else { Command::new(binary) };
    if root {
        command.args(["-n", NICENESS]).arg(binary);
    }
    command
        .args(["run", "--config"])
        .arg(directory.join("bonafide.toml"))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .kill_on_drop(true)
        .spawn()
        .expect("the daemon can be started")
}

fn configuration(directory: &Path, setup: &Setup) -> String {
    let directory = directory.display();
    let limits = if setup.default_limits { "" } else { "[limits]\nconnections_per_caller = 8000\n" };
    let ready = setup.ready.map(|address| format!("[health]\nlisten = \"{address}\"\n")).unwrap_or_default();
    format!(
        "trust_domain = \"load.test\"\n\
         include = [\"entries.d/*.toml\"]\n\
         [workload_api]\n\
         socket = \"{directory}/workload.sock\"\n\
         [admin]\n\
         socket = \"{directory}/admin.sock\"\n\
         [authority]\n\
         kind = \"embedded\"\n\
         data_dir = \"{directory}/data\"\n\
         {limits}{ready}"
    )
}

fn our_entry(lines: &str) -> String {
    format!("[[workload]]\nid = \"/load\"\nselectors = [\"unix:uid:{}\"]\n{lines}\n", client_uid())
}

/// Entries for uids without processes, and those that never change: of [`STRANGER`], of this program itself, and of
/// those who flood with an entry.
fn others(count: u32) -> String {
    let of_uid = |name: &str, uid: u32| format!("[[workload]]\nid = \"/{name}\"\nselectors = [\"unix:uid:{uid}\"]\n");
    let this_program = Uid::effective().as_raw();
    let mut entries = vec![of_uid("stranger", STRANGER)];
    entries.extend((this_program != client_uid()).then(|| of_uid("this-program", this_program)));
    entries.extend(ENTITLED_FLOODERS.map(|uid| of_uid(&format!("flooder/{uid}"), uid)));
    let nobody = |n: u32| {
        let uid = 1_000_000 + n;
        format!("[[workload]]\nid = \"/other/{n}\"\nselectors = [\"unix:uid:{uid}\", \"unix:gid:{uid}\"]\n")
    };
    entries.extend((0..count.saturating_sub(entries.len() as u32)).map(nobody));
    entries.concat()
}
