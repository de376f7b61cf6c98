//! The roles of this program as a child process: an empty server, or a client that prints the time of its fetch.

use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bonafide::time::Clock as _;
use bonafide::time::SystemClock;
use tokio::net::UnixListener;
use tokio::process::Child;
use tokio::process::Command;
use tokio::time::Instant;
use tokio_stream::wrappers::UnixListenerStream;

use crate::client;
use crate::mark::Mark;

/// The maximum life of a child, even if its parent dies.
const LONGEST_LIFE: Duration = Duration::from_secs(600);

/// The role of a child.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Role {
    /// Serves a gRPC service that does nothing.
    EmptyServer,
    /// Connects, calls the empty service, and prints the time in nanoseconds.
    EmptyCall,
    /// Connects, fetches one X509-SVID, and prints the time in nanoseconds.
    FirstSvid,
    /// Fetches X509-SVIDs, each on a new connection; prints the start and the duration of each in nanoseconds, or the
    /// error.
    Stranger,
    /// Opens one stream of X509-SVIDs, and prints which version of the entry each message shows.
    Follower,
}

pub(crate) async fn run(role: Role, socket: &Path) -> Result<(), Box<dyn std::error::Error>> {
    match role {
        Role::EmptyServer => tokio::time::timeout(LONGEST_LIFE, serve_nothing(socket)).await??,
        Role::EmptyCall => println!("{}", client::first_empty_call(socket).await?.as_nanos()),
        Role::FirstSvid => println!("{}", client::first_svid(socket).await?.as_nanos()),
        Role::Stranger => be_a_stranger(socket).await?,
        Role::Follower => tokio::time::timeout(LONGEST_LIFE, follow(socket)).await??,
    }
    Ok(())
}

/// Starts this program again in another role.
pub(crate) fn spawn(role: Role, socket: &Path) -> Child {
    command(role, socket).spawn().expect("this program can be started again")
}

/// As [`spawn`], as another user; requires root.
pub(crate) fn spawn_as(uid: u32, role: Role, socket: &Path) -> Child {
    command(role, socket).uid(uid).gid(uid).spawn().expect("another user may start this program")
}

fn command(role: Role, socket: &Path) -> Command {
    let name = clap::ValueEnum::to_possible_value(&role).expect("no role is hidden");
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command
        .args(["--role", name.get_name(), "--socket"])
        .arg(socket)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// The empty service in its own process, killed on drop.
pub(crate) struct EmptyServer {
    pub(crate) process: Child,
    pub(crate) socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl EmptyServer {
    /// Starts the service. Returns after its first response, with the time until then.
    pub(crate) async fn start() -> (Self, Duration) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let socket = directory.path().join("empty.sock");
        let begin = Instant::now();
        let process = spawn(Role::EmptyServer, &socket);
        while client::first_empty_call(&socket).await.is_err() {
            assert!(begin.elapsed() < Duration::from_secs(10), "the empty service does not start");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        (Self { process, socket, _directory: directory }, begin.elapsed())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id().expect("it runs as long as this value lives")
    }
}

async fn serve_nothing(socket: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let (_reporter, service) = tonic_health::server::health_reporter();
    let incoming = UnixListenerStream::new(UnixListener::bind(socket)?);
    Ok(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await?)
}

/// Until the daemon ends.
async fn follow(socket: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let channel = client::connect(socket).await?;
    let (first, mut stream) = client::open_stream(&channel).await?;
    println!("{}", Mark::in_message(&first).line());
    while let Ok(Some(message)) = stream.message().await {
        println!("{}", Mark::in_message(&message).line());
    }
    Ok(())
}

async fn be_a_stranger(socket: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let begin = Instant::now();
    while begin.elapsed() < LONGEST_LIFE {
        let at = SystemClock.now().duration_since(std::time::UNIX_EPOCH)?;
        match client::first_svid(socket).await {
            Ok(took) => println!("{} {}", at.as_nanos(), took.as_nanos()),
            Err(error) => println!("{} {error}", at.as_nanos()),
        }
    }
    Ok(())
}
