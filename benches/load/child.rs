//! The roles of this program as a child process.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bonafide::time::Clock as _;
use bonafide::time::SystemClock;
use tokio::process::Child;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Load;
use crate::caller;
use crate::client;
use crate::floods::Flood;
use crate::floods::probe;
use crate::limit;
use crate::limit::Work;
use crate::mark::Mark;
use crate::surroundings::Guise;
use crate::surroundings::THIS_PROGRAM;

/// The maximum life of a child, even if its parent dies.
const LONGEST_LIFE: Duration = Duration::from_secs(900);
/// The pause between two fetches of a stranger, so that it is no load of its own.
const PAUSE: Duration = Duration::from_millis(5);
/// A stranger that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// The role of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// Gives the daemon's answers and does nothing else.
    EmptyLimit,
    /// Gives the daemon's answers, with the cryptography that they take.
    Limit,
    /// Calls as it is told on standard input, and prints the times.
    Caller,
    /// Connects, fetches one X509-SVID, and prints the time in nanoseconds.
    FirstSvid,
    /// Fetches X509-SVIDs, each on a new connection; prints the start and the duration of each in nanoseconds, or the
    /// error.
    Stranger,
    /// As a stranger, by another program.
    GoStranger,
    /// As a stranger, and asks `/ready` instead.
    Prober,
    /// Opens connections with a stream of X509-SVIDs each, and prints which version of the entry each message shows.
    Follower,
    /// Opens eight streams of X509-SVIDs, prints one line, and stays.
    Idler,
    /// Floods.
    Flooder,
}

pub(crate) async fn run(role: Role, socket: &Path, load: &Load) -> Result<(), Box<dyn std::error::Error>> {
    match role {
        Role::EmptyLimit => tokio::time::timeout(LONGEST_LIFE, limit::serve(socket, Work::Nothing)).await??,
        Role::Limit => tokio::time::timeout(LONGEST_LIFE, limit::serve(socket, Work::Cryptography)).await??,
        Role::Caller => tokio::time::timeout(LONGEST_LIFE, caller::obey(socket)).await??,
        Role::FirstSvid => println!("{}", client::first_svid(socket).await?.as_nanos()),
        Role::Stranger => be_a_stranger(|| client::first_svid(socket)).await?,
        Role::GoStranger => {
            let program = load.program.as_ref().ok_or("a stranger of another kind needs a program")?;
            let address = format!("unix://{}", socket.display());
            let mut command = std::process::Command::new(program);
            return Err(command.arg("stranger").env("SPIFFE_ENDPOINT_SOCKET", address).exec().into());
        }
        Role::Prober => {
            let address = load.ready.ok_or("a prober needs an address")?;
            be_a_stranger(|| probe(address)).await?;
        }
        Role::Follower => tokio::time::timeout(LONGEST_LIFE, follow(socket, load.connections)).await??,
        Role::Idler => tokio::time::timeout(LONGEST_LIFE, be_idle(socket)).await??,
        Role::Flooder => load.floods.first().unwrap_or(&Flood::Spin).run(socket, load).await,
    }
    Ok(())
}

/// Starts this program again in another role, and in this guise or as what it is.
pub(crate) fn spawn(role: Role, socket: &Path, guise: Option<&Guise>) -> Child {
    command(role, socket, guise).spawn().expect("this program can be started again")
}

/// As [`spawn`], with more arguments.
pub(crate) fn command(role: Role, socket: &Path, guise: Option<&Guise>) -> Command {
    let name = clap::ValueEnum::to_possible_value(&role).expect("no role is hidden");
    let mut command = Command::new(THIS_PROGRAM);
    command
        .args(guise.map(Guise::argument))
        .args(["--role", name.get_name(), "--socket"])
        .arg(socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// The mode of a directory and of a socket that every user may use.
pub(crate) fn for_all() -> Permissions {
    Permissions::from_mode(0o777)
}

/// Until the daemon ends.
async fn follow(socket: &Path, connections: usize) -> Result<(), Box<dyn std::error::Error>> {
    let mut streams = JoinSet::new();
    for _ in 0..connections {
        let channel = client::connect(socket).await?;
        let (first, mut stream) = client::open_stream(&channel).await?;
        println!("{}", Mark::in_message(&first).line());
        streams.spawn(async move {
            while let Ok(Some(message)) = stream.message().await {
                println!("{}", Mark::in_message(&message).line());
            }
        });
    }
    streams.join_all().await;
    Ok(())
}

/// The number of streams of an idler.
pub(crate) const IDLE_STREAMS: usize = 8;

async fn be_idle(socket: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let channel = client::connect(socket).await?;
    let mut streams = Vec::new();
    for _ in 0..IDLE_STREAMS {
        streams.push(client::open_stream(&channel).await?.1);
    }
    println!("idle");
    let () = std::future::pending().await;
    Ok(())
}

async fn be_a_stranger<F>(ask: impl Fn() -> F) -> Result<(), Box<dyn std::error::Error>>
where
    F: Future<Output = Result<Duration, Box<dyn std::error::Error>>>,
{
    let begin = Instant::now();
    while begin.elapsed() < LONGEST_LIFE {
        let at = SystemClock.now().duration_since(std::time::UNIX_EPOCH)?;
        match tokio::time::timeout(PATIENCE, ask()).await {
            Ok(Ok(took)) => println!("{} {}", at.as_nanos(), took.as_nanos()),
            Ok(Err(error)) => println!("{} {}", at.as_nanos(), chain(&*error)),
            Err(_) => println!("{} no answer within {PATIENCE:?}", at.as_nanos()),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// An error with its causes, each once, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source()).map(ToString::to_string);
    let told = |text: String, cause: String| if text.contains(&cause) { text } else { format!("{text}: {cause}") };
    causes.fold(error.to_string(), told).replace('\n', " ")
}
