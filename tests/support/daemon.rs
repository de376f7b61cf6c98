//! The shipped binary as a daemon, in a temporary directory. Nothing is faked.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;

/// How long the daemon may take to send a notification.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The notification of a daemon whose sockets answer.
pub(crate) const READY: &str = "READY=1";
/// The notification of a daemon that serves workloads and is not degraded.
pub(crate) const SERVING: &str = "STATUS=serving";

/// A running daemon. Drop kills it and removes its directory.
pub(crate) struct Daemon {
    child: Child,
    folder: TempDir,
    launcher: Vec<String>,
    notify: UnixDatagram,
}

impl Daemon {
    /// Starts a daemon of the trust domain `example.org` with these tables in its configuration. SVIDs live 10 s unless
    /// the tables have `[svid]`. Returns once the daemon is ready.
    pub(crate) fn start(tables: &str) -> Self {
        Self::start_behind(&[], tables)
    }

    /// As [`Daemon::start`], with a launcher: a program that execs the command after its own arguments.
    pub(crate) fn start_behind(launcher: &[&str], tables: &str) -> Self {
        let mut daemon = Self::begin_behind(launcher, tables);
        daemon.wait_for_notification(READY);
        daemon
    }

    /// As [`Daemon::start_behind`], but returns at once.
    pub(crate) fn begin_behind(launcher: &[&str], tables: &str) -> Self {
        let launcher: Vec<_> = launcher.iter().map(|&word| word.to_owned()).collect();
        let folder = configured(tables);
        let notify = service_manager(folder.path());
        Self { child: spawn(folder.path(), &launcher), folder, launcher, notify }
    }

    /// Waits for a notification with a line that begins with this text, and returns it.
    pub(crate) fn wait_for_notification(&mut self, beginning: &str) -> String {
        loop {
            let message = self.next_message();
            if message.lines().any(|line| line.starts_with(beginning)) {
                return message;
            }
        }
    }

    /// Waits for the next notification.
    pub(crate) fn next_message(&mut self) -> String {
        let mut message = [0; 4096];
        for _ in 0..TIMEOUT.as_millis() / 100 {
            if let Ok(length) = self.notify.recv(&mut message) {
                return String::from_utf8(message[..length].to_vec()).unwrap();
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the daemon ended with {status}");
            }
        }
        panic!("the daemon sent no notification within {TIMEOUT:?}");
    }

    /// Runs a daemon that must end at once, and returns its output and exit status.
    pub(crate) fn end_behind(launcher: &[&str], tables: &str) -> Output {
        let folder = configured(tables);
        let words = [&["timeout", "20"], launcher, &[env!("CARGO_BIN_EXE_bonafide"), "run", "--config"]].concat();
        Command::new(words[0]).args(&words[1..]).arg(folder.path().join("bonafide.toml")).output().unwrap()
    }

    /// The directory with all of the daemon's files.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The workload socket. Its directories do not exist before the start.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("run/agent/workload.sock")
    }

    /// The workload socket's address, for `SPIFFE_ENDPOINT_SOCKET`.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The admin socket.
    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.folder.path().join("run/admin/admin.sock")
    }

    /// The configuration file.
    pub(crate) fn configuration(&self) -> PathBuf {
        self.folder.path().join("bonafide.toml")
    }

    /// The daemon's output so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Sends SIGTERM and waits for the exit.
    pub(crate) fn stop(&mut self) -> std::process::ExitStatus {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.child.wait().unwrap()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Sends SIGKILL, and starts a new daemon on the same files.
    pub(crate) fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// Sends SIGKILL, and leaves the daemon's files as they are.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts a new daemon on the files of one that has ended. Returns once it is ready.
    pub(crate) fn restart(&mut self) {
        self.begin_restart();
        self.wait_for_notification(READY);
    }

    /// As [`Daemon::restart`], but returns at once.
    pub(crate) fn begin_restart(&mut self) {
        self.notify = service_manager(self.folder.path());
        self.child = spawn(self.folder.path(), &self.launcher);
    }

    /// Runs a new daemon on the files of one that has ended. It must end at once.
    pub(crate) fn start_refused(&self) -> Output {
        let words = [env!("CARGO_BIN_EXE_bonafide"), "run", "--config"];
        Command::new("timeout").arg("10").args(words).arg(self.configuration()).output().unwrap()
    }

    /// Runs a client command of the binary against this daemon.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_bonafide"))
            .args(arguments)
            .env("SPIFFE_ENDPOINT_SOCKET", self.address())
            .env("BONAFIDE_ADMIN_SOCKET", self.admin_socket())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _already_dead = self.child.kill().and_then(|()| self.child.wait());
        if std::thread::panicking() {
            eprintln!("the daemon's output:\n{}", self.log());
        }
    }
}

/// A directory with a configuration of these tables.
fn configured(tables: &str) -> TempDir {
    let svid = if tables.contains("[svid]") { "" } else { "[svid]\nx509_ttl = \"10s\"\njwt_ttl = \"10s\"\n" };
    let folder = TempDir::with_prefix("bonafide-").unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let configuration = format!(
        "trust_domain = \"example.org\"\n[workload_api]\nsocket = {:?}\n[admin]\nsocket = {:?}\n\
         [authority]\nkind = \"embedded\"\ndata_dir = {:?}\nca_ttl = \"1h\"\n{svid}{tables}",
        at("run/agent/workload.sock"),
        at("run/admin/admin.sock"),
        at("data")
    );
    fs::write(folder.path().join("bonafide.toml"), configuration).unwrap();
    folder
}

/// The notify socket: a new one for each daemon, so that no notification of an earlier one arrives.
fn service_manager(folder: &Path) -> UnixDatagram {
    let name = folder.join("notify.sock");
    let _none_yet = fs::remove_file(&name);
    let notify = UnixDatagram::bind(&name).unwrap();
    notify.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    notify
}

fn spawn(folder: &Path, launcher: &[String]) -> Child {
    let log = fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
    let program = [env!("CARGO_BIN_EXE_bonafide").to_owned(), "run".to_owned(), "--config".to_owned()];
    let words = [launcher, &program].concat();
    Command::new(&words[0])
        .args(&words[1..])
        .arg(folder.join("bonafide.toml"))
        .env_clear()
        .env("NOTIFY_SOCKET", folder.join("notify.sock"))
        .stdin(Stdio::null())
        .stderr(log.try_clone().unwrap())
        .stdout(log)
        .spawn()
        .unwrap()
}
