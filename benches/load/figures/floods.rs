//! What one hostile user, or eight, can do to another's unmodified client, beside what their mere computing does to it.

use std::net::SocketAddr;
use std::net::TcpListener;
use std::time::Duration;

use bonafide::time::Clock as _;
use bonafide::time::SystemClock;
use nix::unistd::Uid;
use tokio::io::AsyncBufReadExt as _;
use tokio::io::BufReader;
use tokio::io::Lines;
use tokio::process::Child;
use tokio::process::ChildStdout;
use tokio::process::Command;
use tokio::time::timeout;

use crate::Load;
use crate::child;
use crate::child::Role;
use crate::figures::change::milliseconds_of;
use crate::floods::Flood;
use crate::measure::report::Figure;
use crate::measure::report::Promise;
use crate::measure::report::median;
use crate::measure::report::percentile;
use crate::node::ENTITLED_FLOODERS;
use crate::node::Node;
use crate::node::Setup;
use crate::node::Target;
use crate::surroundings::Guise;
use crate::surroundings::Surroundings;

/// So long each flood is watched.
const WATCHED: Duration = Duration::from_secs(2);
/// A flood that does not begin, a victim that prints nothing, or a process that does not end.
const PATIENCE: Duration = Duration::from_secs(15);
/// Uids without an entry.
const FLOODERS: u32 = 41_001;
/// Threads of all flooders together: more would take the machine's process ids from everybody.
const THREADS: usize = 16_000;
const THREADS_EACH: usize = 8_000;
const ROUNDS: usize = 10;

pub(crate) async fn measure(setup: &Setup, surroundings: &Surroundings, load: &Load) -> Vec<Figure> {
    if !Uid::effective().is_root() {
        eprintln!("skipped: floods need root, which becomes several users");
        return Vec::new();
    }
    let floods: Vec<_> = if load.floods.is_empty() { Flood::ALL.to_vec() } else { load.floods.clone() };
    let mut figures = Vec::new();
    for principals in [1, 8].into_iter().filter(|number| load.principals.is_none_or(|only| only == *number)) {
        let mut spins = Vec::new();
        let mut outcomes = vec![Vec::new(); floods.len()];
        for _ in 0..load.rounds(ROUNDS) {
            spins.push(outcome(Flood::Spin, principals, setup, surroundings).await);
            for (flood, outcomes) in floods.iter().zip(&mut outcomes).filter(|(flood, _)| **flood != Flood::Spin) {
                outcomes.push(outcome(*flood, principals, setup, surroundings).await);
            }
        }
        let spin = median(&mut spins.iter().map(|spin| spin.p99).collect::<Vec<_>>());
        figures.push(figure(Flood::Spin, principals, &spins, spin));
        let told = floods.iter().zip(&outcomes).filter(|(_, outcomes)| !outcomes.is_empty());
        figures.extend(told.map(|(flood, outcomes)| figure(*flood, principals, outcomes, spin)));
    }
    figures
}

/// What one flood did in one round. Times are in milliseconds.
#[derive(Debug, Clone)]
struct Outcome {
    p50: f64,
    p99: f64,
    samples: usize,
    failures: Vec<String>,
    resident_mib: f64,
    per_second: f64,
}

fn figure(flood: Flood, principals: u32, outcomes: &[Outcome], spin: f64) -> Figure {
    let column = |of: fn(&Outcome) -> f64| outcomes.iter().map(of).collect::<Vec<f64>>();
    let middle = |of| median(&mut column(of));
    let most = |of| column(of).into_iter().fold(0.0, f64::max);
    let (worst, resident) = (most(|one| one.p99), most(|one| one.resident_mib));
    let failures: Vec<_> = outcomes.iter().flat_map(|one| &one.failures).collect();
    let samples: usize = outcomes.iter().map(|one| one.samples).sum();
    let example = failures.first().map(|text| format!(" ({text})")).unwrap_or_default();
    let note = format!(
        "p50 {:.1}, worst p99 {worst:.1}, {} of {samples} failed{example}, resident <= {resident:.0} MiB, {:.0}/s",
        middle(|one| one.p50),
        failures.len(),
        middle(|one| one.per_second),
    );
    let name = format!("{} by {principals}: victim's p99", flood.name());
    let (promise, rest_holds) = match flood {
        Flood::Spin => (Promise::Nothing, true),
        _ => (Promise::AtMost(f64::max(40.0, 2.0 * spin)), worst <= 300.0 && failures.is_empty() && resident <= 320.0),
    };
    Figure::new(name, "ms", middle(|one| one.p99), promise).beside(spin).noting(note, rest_holds)
}

/// A daemon of its own, a victim, and then the flood.
async fn outcome(flood: Flood, principals: u32, setup: &Setup, surroundings: &Surroundings) -> Outcome {
    let ready = (flood == Flood::Ready).then(free_address);
    let node = Node::start(&Setup { default_limits: true, ready, ..setup.clone() }).await;
    let target = node.target();
    let role = if ready.is_some() { Role::Prober } else { Role::Stranger };
    let mut victim = command(role, &target, &surroundings.stranger(), ready).spawn().expect("a process");
    let mut lines = lines_of(&mut victim);
    timeout(PATIENCE, lines.next_line()).await.expect("a victim").expect("a pipe").expect("a line");
    let mut flooders = begin(flood, principals, &target, surroundings, ready).await;
    let mut seen = watch(&mut lines).await;
    let _ = victim.start_kill();
    let meter = target.meter();
    let resident_mib = meter.peak_kib().map_or(f64::INFINITY, |kib| kib / 1024.0);
    if resident_mib.is_infinite() {
        seen.failures.push("the daemon is gone".to_owned());
    }
    flooders.iter_mut().for_each(|flooder| drop(flooder.0.stdin.take()));
    let mut done = 0.0;
    for (process, lines) in &mut flooders {
        if let Ok(Ok(Some(line))) = timeout(PATIENCE, lines.next_line()).await {
            done += line.parse().unwrap_or(0.0);
        }
        let _ = process.start_kill();
        let _ = process.wait().await;
    }
    let [p50, p99] = [0.5, 0.99].map(|share| percentile(&mut seen.milliseconds, share));
    let samples = seen.milliseconds.len();
    Outcome { p50, p99, samples, failures: seen.failures, resident_mib, per_second: done / seen.span.as_secs_f64() }
}

type Flooder = (Child, Lines<BufReader<ChildStdout>>);

/// Starts the flooders, and waits until each has begun.
async fn begin(
    flood: Flood,
    principals: u32,
    target: &Target,
    surroundings: &Surroundings,
    ready: Option<SocketAddr>,
) -> Vec<Flooder> {
    let first = if flood == Flood::Streams { ENTITLED_FLOODERS.start } else { FLOODERS };
    let mut flooders = Vec::new();
    for uid in first..first + principals {
        let guise = surroundings.flooder(uid).with_groups(flood.groups());
        let threads = THREADS_EACH.min(THREADS / principals as usize).to_string();
        let mut command = command(Role::Flooder, target, &guise, ready);
        let mut flooder =
            command.args(["--flood", &flood.name(), "--threads", &threads]).spawn().expect("a process that floods");
        let lines = lines_of(&mut flooder);
        flooders.push((flooder, lines));
    }
    for (_, lines) in &mut flooders {
        timeout(PATIENCE, lines.next_line()).await.expect("it begins").expect("a pipe").expect("a line");
    }
    flooders
}

/// The victim's samples that began in the time of the flood.
struct Seen {
    milliseconds: Vec<f64>,
    failures: Vec<String>,
    span: Duration,
}

/// Watches the victim, and waits for the sample that is underway at the end: it may be the longest.
async fn watch(lines: &mut Lines<BufReader<ChildStdout>>) -> Seen {
    let begun = SystemClock.now();
    let mut seen = Seen { milliseconds: Vec::new(), failures: Vec::new(), span: Duration::ZERO };
    let mut over = false;
    while !over {
        let line = timeout(PATIENCE, lines.next_line()).await.expect("the victim gives up").expect("a pipe");
        let line = line.expect("the victim lives");
        let now = SystemClock.now();
        seen.span = now.duration_since(begun).unwrap_or_default();
        over = seen.span >= WATCHED;
        match milliseconds_of(&line, begun, now) {
            Some(Ok(took)) => seen.milliseconds.push(took),
            Some(Err(error)) => {
                seen.milliseconds.push(f64::INFINITY);
                seen.failures.push(error);
            }
            None => {}
        }
    }
    seen
}

fn command(role: Role, target: &Target, guise: &Guise, ready: Option<SocketAddr>) -> Command {
    let mut command = child::command(role, &target.socket, Some(guise));
    command.args(ready.map(|address| format!("--ready={address}")));
    command
}

fn lines_of(process: &mut Child) -> Lines<BufReader<ChildStdout>> {
    BufReader::new(process.stdout.take().expect("its output is a pipe")).lines()
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}
