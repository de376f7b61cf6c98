//! The node: a daemon in a folder of its own, and copies of this program that play the services.

use std::fs;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use nix::unistd::Uid;
use nix::unistd::User;
use tokio::io::AsyncBufReadExt;
use tokio::io::BufReader;
use tokio::net::UnixDatagram;
use tokio::process::Child;
use tokio::process::ChildStdin;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cli::demo::event::DemoEvent;
use crate::cli::demo::event::Role;
use crate::cli::demo::failure::failed;
use crate::cli::demo::failure::no_room;
use crate::cli::demo::stage::CONFIGURATION;
use crate::cli::demo::stage::Folder;
use crate::cli::screen::Failure;

/// The trust domain of the throw-away node.
pub(super) const TRUST_DOMAIN: &str = "demo.example";

/// The admin socket, in the node's folder.
const ADMIN_SOCKET: &str = "admin/admin.sock";

/// How long the daemon may take to be ready, and to stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the configuration says, beyond what every run of the demo says. Exists so that a test can make the demo fail.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Plan {
    /// Give the impostor an entry like any other
    #[arg(long, hide = true)]
    impostor_has_entry: bool,
    /// Let SVIDs live so long that none rotates
    #[arg(long, hide = true)]
    no_rotation: bool,
}

/// A running node. Dropping it kills the daemon and removes the folder.
pub(super) struct DemoNode {
    daemon: Child,
    program: PathBuf,
    events: mpsc::Sender<(Role, DemoEvent)>,
    first_user: Option<u32>,
    abandoned: Vec<PathBuf>,
    // INVARIANT: last, because what runs in the folder is killed before the folder goes.
    folder: Folder,
}

/// A process on the stage. It ends when this is dropped, because it sees the end of its standard input.
pub(super) struct Service {
    /// Its process id.
    pub(super) pid: u32,
    _input: Option<ChildStdin>,
}

impl DemoNode {
    /// Makes the folder and starts the daemon in it. What the services say arrives at the receiver.
    pub(super) async fn start(plan: Plan) -> Result<(Self, mpsc::Receiver<(Role, DemoEvent)>), Failure> {
        let folder = Folder::new()?;
        let abandoned = folder.remove_abandoned();
        let first_user = separate_users();
        if first_user.is_some() {
            // SECURITY: others may pass through it, not list it; the daemon keeps its keys in a folder that is 0700.
            fs::set_permissions(folder.path(), Permissions::from_mode(0o711))
                .map_err(|error| failed("the node's folder cannot be opened for the services", error))?;
        }
        let program = std::env::current_exe().map_err(|error| failed("this program cannot find itself", error))?;
        for role in Role::ALL {
            fs::copy(&program, folder.path().join(role.name()))
                .map_err(|error| no_room("this program cannot be copied", error))?;
        }
        fs::write(folder.path().join(CONFIGURATION), configuration(folder.path(), first_user, &plan))
            .map_err(|error| no_room("the configuration cannot be written", error))?;
        let daemon = start_daemon(&program, folder.path()).await?;
        let (events, received) = mpsc::channel(64);
        Ok((Self { daemon, program, events, first_user, abandoned, folder }, received))
    }

    /// The node's folder.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folders of earlier demos that were removed, because those demos were killed.
    pub(super) fn abandoned(&self) -> &[PathBuf] {
        &self.abandoned
    }

    /// The user that plays `role`, where each has one of its own.
    pub(super) fn user(&self, role: Role) -> Option<u32> {
        self.first_user.map(|first| first + role as u32)
    }

    /// Starts the copy of this program that plays `role`, with nothing in its environment but the socket's address.
    pub(super) fn play(&self, role: Role, arguments: &[&str]) -> Result<Service, Failure> {
        let mut command = Command::new(self.folder.path().join(role.name()));
        command
            .args(["demo", "service", role.name()])
            .args(arguments)
            .env_clear()
            .env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", self.folder.path().join("workload.sock").display()))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if let Some(user) = self.user(role) {
            command.uid(user).gid(user);
        }
        let mut child =
            command.spawn().map_err(|error| no_room(format!("the {} cannot be started", role.name()), error))?;
        let service = Service { pid: child.id().unwrap_or_default(), _input: child.stdin.take() };
        tokio::spawn(listen(role, child, self.events.clone()));
        Ok(service)
    }

    /// What this program answers as a command of the operator.
    pub(super) async fn ask(&self, arguments: &[&str]) -> Result<String, Failure> {
        let answer = Command::new(&self.program)
            .args(arguments)
            .env_clear()
            .env("BONAFIDE_ADMIN_SOCKET", self.folder.path().join(ADMIN_SOCKET))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| failed("this program cannot be started again", error))?;
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        if text.trim().is_empty() {
            let why = String::from_utf8_lossy(&answer.stderr).into_owned();
            return Err(failed(format!("`bonafide {}` said nothing", arguments.join(" ")), why));
        }
        Ok(text)
    }

    /// Asks the daemon to stop, and removes everything.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        let pid = self.daemon.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        let asked = pid.map(|pid| nix::sys::signal::kill(pid, Signal::SIGTERM));
        let ended = timeout(PATIENCE, self.daemon.wait()).await;
        let log = fs::read_to_string(self.folder.path().join("daemon.log")).unwrap_or_default();
        match ended {
            Ok(Ok(status)) if status.success() => {}
            Ok(status) => return Err(failed("the daemon did not end well", format!("{asked:?}, {status:?}\n{log}"))),
            Err(_) => return Err(failed("the daemon did not stop in time", log)),
        }
        fs::remove_dir_all(self.folder.path()).map_err(|error| failed("the folder cannot be removed", error))
    }
}

/// The first of as many user ids as there are roles, none of them anybody's, where this process may become them.
fn separate_users() -> Option<u32> {
    let roles = Role::ALL.len() as u32;
    let unused = |uid: u32| matches!(User::from_uid(Uid::from_raw(uid)), Ok(None));
    let mut blocks = (62_000..63_000_u32).step_by(Role::ALL.len());
    Uid::effective().is_root().then(|| blocks.find(|first| (*first..first + roles).all(unused)))?
}

/// Short lifetimes, and one entry for each service that has a right to an identity.
fn configuration(folder: &Path, first_user: Option<u32>, plan: &Plan) -> String {
    let quoted = |name: &str| toml::Value::from(folder.join(name).to_string_lossy().into_owned()).to_string();
    let lifetime = if plan.no_rotation { "20m" } else { "10s" };
    let mut text = format!(
        "trust_domain = \"{TRUST_DOMAIN}\"\n\n[workload_api]\nsocket = {}\n\n[admin]\nsocket = {}\n\n\
         [authority]\nkind = \"embedded\"\ndata_dir = {}\nca_ttl = \"1h\"\n\n[svid]\nx509_ttl = \"{lifetime}\"\n",
        quoted("workload.sock"),
        quoted(ADMIN_SOCKET),
        quoted("data"),
    );
    let own = Uid::effective().as_raw();
    for role in Role::ALL.into_iter().filter(|role| *role != Role::Impostor || plan.impostor_has_entry) {
        let selectors = match first_user {
            Some(first) => format!("[\"unix:uid:{}\"]", first + role as u32),
            // A path proves little on a kernel at the level "reduced"; here that is accepted.
            None => format!("[\"unix:uid:{own}\", {}]\naccept_weak = true", path_selector(folder, role)),
        };
        text.push_str(&format!("\n[[workload]]\nid = \"/{}\"\nselectors = {selectors}\n", role.name()));
    }
    text
}

fn path_selector(folder: &Path, role: Role) -> String {
    toml::Value::from(format!("unix:path:{}", folder.join(role.name()).display())).to_string()
}

/// Starts the daemon and waits until it says that it serves.
async fn start_daemon(program: &Path, folder: &Path) -> Result<Child, Failure> {
    let log = folder.join("daemon.log");
    let start = || -> std::io::Result<(UnixDatagram, Child)> {
        let ready = UnixDatagram::bind(folder.join("ready.sock"))?;
        let out = fs::File::create(&log)?;
        let daemon = Command::new(program)
            .args(["demo", "daemon", "--demo", &std::process::id().to_string(), "--folder"])
            .arg(folder)
            .env_clear()
            .env("NOTIFY_SOCKET", folder.join("ready.sock"))
            .stdin(Stdio::null())
            .stderr(out.try_clone()?)
            .stdout(out)
            .kill_on_drop(true)
            .spawn()?;
        Ok((ready, daemon))
    };
    let (ready, mut daemon) = start().map_err(|error| no_room("the daemon cannot be started", error))?;
    let served = async {
        let mut message = [0; 256];
        loop {
            let length = ready.recv(&mut message).await?;
            let message = message.get(..length).unwrap_or_default();
            if message.split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                return Ok::<_, std::io::Error>(());
            }
        }
    };
    let outcome = tokio::select! {
        served = timeout(PATIENCE, served) => served.map_err(|_| "it was not ready in time".to_owned()),
        status = daemon.wait() => Err(status.map_or_else(|error| error.to_string(), |status| status.to_string())),
    };
    match outcome {
        Ok(Ok(())) => Ok(daemon),
        Ok(Err(error)) => Err(failed("the daemon's readiness message cannot be read", error)),
        Err(why) => {
            let said = fs::read_to_string(log).unwrap_or_default();
            Err(no_room("the daemon did not start", format!("{why}\n{}", said.trim_end())))
        }
    }
}

/// Passes on what a service says, line by line, and how it ended.
async fn listen(role: Role, mut child: Child, events: mpsc::Sender<(Role, DemoEvent)>) {
    if let Some(output) = child.stdout.take() {
        let mut lines = BufReader::new(output).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let event = serde_json::from_str(&line).unwrap_or(DemoEvent::Failed { why: line });
            let _nobody_listens = events.send((role, event)).await;
        }
    }
    let why = child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
    let _nobody_listens = events.send((role, DemoEvent::Exited { why })).await;
}
