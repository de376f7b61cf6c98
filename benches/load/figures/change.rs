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
use crate::client;
use crate::mark::Mark;
use crate::measure::raw;
use crate::measure::report::Figure;
use crate::measure::report::Promise;
use crate::measure::report::medians;
use crate::measure::report::millis;
use crate::measure::report::percentile;
use crate::node::EntryChange;
use crate::node::STRANGER;
use crate::node::Target;

const LONGEST: Duration = Duration::from_secs(30);

pub(crate) async fn measure(
    target: &Target,
    change: &EntryChange<'_>,
    connections: usize,
    rounds: usize,
) -> Vec<Figure> {
    let mut figures = Vec::new();
    for of in [Crowd::OneProcess, Crowd::Processes] {
        figures.extend(of_a_crowd(of, target, change, connections, rounds).await);
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
    connections: usize,
    rounds: usize,
) -> Vec<Figure> {
    let (report, mut marks) = mpsc::unbounded_channel();
    let streams = match crowd {
        Crowd::OneProcess => open_streams(target, connections, &report).await,
        Crowd::Processes => spawn_followers(target, connections, &report, &mut marks).await,
    };
    let (whose, mut stranger) = match change {
        EntryChange::File(_) if nix::unistd::getuid().is_root() => {
            ("another user", child::spawn_as(STRANGER, Role::Stranger, &target.socket))
        }
        _ => ("a newcomer of the same user", child::spawn(Role::Stranger, &target.socket)),
    };
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
        let limit = raw::keys_and_signatures_on_all_cores(connections as u32);
        measured.push([unsigned, signed, limit].map(millis));
    }
    let [unsigned, signed, limit] = medians(&measured);
    stranger.start_kill().expect("it runs");
    let printed = printed.await.expect("a task that does not panic");
    let mut meanwhile: Vec<f64> = printed.lines().filter_map(|line| during(line, &spans)).collect();
    let failed = printed.lines().filter(|line| line.contains(|c: char| c.is_alphabetic())).count();
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

/// Starts one process for each stream, and reports the mark of every message. Returns once each has its first SVID.
async fn spawn_followers(
    target: &Target,
    processes: usize,
    report: &mpsc::UnboundedSender<Mark>,
    marks: &mut mpsc::UnboundedReceiver<Mark>,
) -> JoinSet<()> {
    let mut followers = JoinSet::new();
    for _ in 0..processes {
        let mut follower = child::spawn(Role::Follower, &target.socket);
        let mut lines = BufReader::new(follower.stdout.take().expect("its output is a pipe")).lines();
        let report = report.clone();
        followers.spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                // The receiver is gone once everything is measured.
                let _ = report.send(Mark::of_line(&line));
            }
            drop(follower);
        });
        marks.recv().await.expect("an SVID");
    }
    followers
}

/// Opens one connection for each stream, and reports the mark of every message.
async fn open_streams(target: &Target, connections: usize, report: &mpsc::UnboundedSender<Mark>) -> JoinSet<()> {
    let mut streams = JoinSet::new();
    for _ in 0..connections {
        let channel = client::connect(&target.socket).await.expect("the daemon takes another connection");
        let (_, mut stream) = client::open_stream(&channel).await.expect("an SVID");
        let report = report.clone();
        streams.spawn(async move {
            while let Ok(Some(message)) = stream.message().await {
                // The receiver is gone once everything is measured.
                let _ = report.send(Mark::in_message(&message));
            }
        });
    }
    streams
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

/// The milliseconds of one of the stranger's lines, if it falls into one of the spans.
fn during(line: &str, spans: &[(SystemTime, SystemTime)]) -> Option<f64> {
    let (at, took) = line.split_once(' ')?;
    let at = UNIX_EPOCH + Duration::from_nanos(at.parse().ok()?);
    let took = Duration::from_nanos(took.parse().ok()?);
    spans.iter().any(|(begin, end)| at <= *end && at + took >= *begin).then_some(millis(took))
}
