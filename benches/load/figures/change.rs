//! A change of an entry with many open streams: the time until the last stream has it, and the latency of a new
//! connection meanwhile.

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use bonafide::time::Clock as _;
use bonafide::time::SystemClock;
use tokio::io::AsyncBufReadExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::io::BufReader;
use tokio::process::ChildStdout;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::child;
use crate::child::Role;
use crate::mark::Mark;
use crate::measure::raw;
use crate::measure::report::Figure;
use crate::measure::report::Promise;
use crate::measure::report::medians;
use crate::measure::report::millis;
use crate::measure::report::percentile;
use crate::node::EntryChange;
use crate::node::Target;
use crate::surroundings::Surroundings;

const LONGEST: Duration = Duration::from_secs(30);

pub(crate) async fn measure(
    target: &Target,
    change: &EntryChange<'_>,
    surroundings: &Surroundings,
    connections: usize,
    rounds: usize,
) -> Vec<Figure> {
    let mut figures = Vec::new();
    for of in [Crowd::OneProcess, Crowd::Processes] {
        figures.extend(of_a_crowd(of, target, change, surroundings, [connections, rounds]).await);
    }
    figures
}

/// Who holds the streams.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Crowd {
    /// One process: all of its streams share one SVID.
    OneProcess,
    /// A process for each stream: each needs a key of its own.
    Processes,
}

async fn of_a_crowd(
    crowd: Crowd,
    target: &Target,
    change: &EntryChange<'_>,
    surroundings: &Surroundings,
    [connections, rounds]: [usize; 2],
) -> Vec<Figure> {
    let (report, mut marks) = mpsc::unbounded_channel();
    let streams = match crowd {
        Crowd::OneProcess => open_followers(1, connections, target, surroundings, &report, &mut marks).await,
        Crowd::Processes => open_followers(connections, 1, target, surroundings, &report, &mut marks).await,
    };
    let whose = match change {
        EntryChange::File(_) if nix::unistd::getuid().is_root() => "another user",
        _ => "a newcomer of the same user",
    };
    let mut stranger = child::spawn(Role::Stranger, &target.socket, Some(&surroundings.stranger()));
    let printed = tokio::spawn(everything_printed(stranger.stdout.take().expect("its output is a pipe")));
    let mut entry = Mark { hint: "first".to_owned(), dns: "first.load.test".to_owned() };
    reached_all(connections, &mut marks, &entry, change).await;
    let (mut measured, mut spans) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let before = SystemClock.now();
        entry.hint = format!("round-{round}");
        let unsigned = reached_all(connections, &mut marks, &entry, change).await;
        entry.dns = format!("round-{round}.load.test");
        let signed = reached_all(connections, &mut marks, &entry, change).await;
        spans.push((before, SystemClock.now()));
        let limit = raw::keys_and_signatures_on_all_cores_but_one(connections as u32);
        measured.push([unsigned, signed, limit].map(millis));
    }
    let [unsigned, signed, limit] = medians(&measured);
    stranger.start_kill().expect("it runs");
    let printed = printed.await.expect("a task that does not panic");
    let meanwhile =
        printed.lines().filter_map(|line| spans.iter().find_map(|span| milliseconds_of(line, span.0, span.1)));
    let (answered, failed): (Vec<_>, Vec<_>) = meanwhile.partition(Result::is_ok);
    let (mut meanwhile, failed) = (answered.into_iter().flatten().collect::<Vec<f64>>(), failed.len());
    drop(streams);
    let of = match crowd {
        Crowd::OneProcess => "connections of one process",
        Crowd::Processes => "processes",
    };
    let name = format!("entry change -> all of {connections} {of}");
    let unsigned = Figure::new(format!("{name}, nothing signed"), "ms", unsigned, Promise::AtMost(200.0));
    let signed = match crowd {
        Crowd::OneProcess => Figure::new(format!("{name}, one new key"), "ms", signed, Promise::AtMost(200.0)),
        Crowd::Processes => {
            Figure::new(format!("{name}, each a new key"), "ms", signed, Promise::AtMostTimesTheLimit(2.5))
                .beside(limit)
        }
    };
    let p99 = percentile(&mut meanwhile, 0.99);
    vec![
        unsigned,
        signed,
        Figure::new(format!("first SVID of {whose} meanwhile, p99"), "ms", p99, Promise::AtMost(20.0)),
        Figure::new(format!("failures of {whose} meanwhile"), "", failed as f64, Promise::AtMost(0.0)),
    ]
}

/// Starts processes with a stream on each of their connections, and reports the mark of every message. Returns once each
/// stream has its first SVID.
async fn open_followers(
    processes: usize,
    connections: usize,
    target: &Target,
    surroundings: &Surroundings,
    report: &mpsc::UnboundedSender<Mark>,
    marks: &mut mpsc::UnboundedReceiver<Mark>,
) -> JoinSet<()> {
    let guise = surroundings.client();
    let mut followers = JoinSet::new();
    for _ in 0..processes {
        let mut command = child::command(Role::Follower, &target.socket, Some(&guise));
        let mut follower = command.args(["--connections", &connections.to_string()]).spawn().expect("a process");
        let mut lines = BufReader::new(follower.stdout.take().expect("its output is a pipe")).lines();
        let report = report.clone();
        followers.spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                // The receiver is gone once everything is measured.
                let _ = report.send(Mark::of_line(&line));
            }
            drop(follower);
        });
        for _ in 0..connections {
            marks.recv().await.expect("an SVID");
        }
    }
    followers
}

/// The time from the change of the entry until all streams have it.
async fn reached_all(
    connections: usize,
    marks: &mut mpsc::UnboundedReceiver<Mark>,
    wanted: &Mark,
    change: &EntryChange<'_>,
) -> Duration {
    let begin = Instant::now();
    let everyone = async {
        let mut reached = 0;
        while reached < connections {
            reached += usize::from(marks.recv().await.expect("the streams are open") == *wanted);
        }
        begin.elapsed()
    };
    let change = change.make(&wanted.hint, &wanted.dns);
    let (took, ()) = tokio::join!(tokio::time::timeout(LONGEST, everyone), change);
    took.expect("every stream gets the change")
}

async fn everything_printed(mut output: ChildStdout) -> String {
    let mut printed = String::new();
    output.read_to_string(&mut printed).await.expect("a pipe can be read");
    printed
}

/// The milliseconds of one of the stranger's lines, or its error, if the call was underway between these times.
pub(super) fn milliseconds_of(line: &str, begin: SystemTime, end: SystemTime) -> Option<Result<f64, String>> {
    let (at, took) = line.split_once(' ')?;
    let at = UNIX_EPOCH + Duration::from_nanos(at.parse().ok()?);
    match took.parse() {
        Ok(nanos) => {
            let took = Duration::from_nanos(nanos);
            (at <= end && at + took >= begin).then(|| Ok(millis(took)))
        }
        Err(_) => (at <= end && at >= begin).then(|| Err(took.to_owned())),
    }
}
