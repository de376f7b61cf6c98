//! What one hostile user, or eight, can do to another's unmodified client, beside what their mere computing does to it.

use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;
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
    let built = if load.go { Some(go_program().await) } else { None };
    let field = Field { setup, surroundings, go: built.as_ref().map(|(_, program)| program.as_path()) };
    let mut figures = Vec::new();
    for principals in [1, 8].into_iter().filter(|number| load.principals.is_none_or(|only| only == *number)) {
        let mut spins = Vec::new();
        let mut outcomes = vec![Vec::new(); floods.len()];
        for _ in 0..load.rounds(ROUNDS) {
            spins.push(field.outcome(Flood::Spin, principals).await);
            for (flood, outcomes) in floods.iter().zip(&mut outcomes).filter(|(flood, _)| **flood != Flood::Spin) {
                outcomes.push(field.outcome(*flood, principals).await);
                // What takes a quarter of an hour shows where it is.
                eprintln!("{} by {principals}: {:.1} ms", flood.name(), outcomes.last().map_or(0.0, |one| one.p99));
            }
        }
        let spin = median(&mut spins.iter().map(|spin| spin.p99).collect::<Vec<_>>());
        figures.push(figure(Flood::Spin, principals, &spins, spin));
        let told = floods.iter().zip(&outcomes).filter(|(_, outcomes)| !outcomes.is_empty());
        figures.extend(told.map(|(flood, outcomes)| figure(*flood, principals, outcomes, spin)));
    }
    figures
}

/// What one flood did to one victim in one round. Times are in milliseconds.
#[derive(Debug, Clone)]
struct Outcome {
    p50: f64,
    p99: f64,
    /// Of a victim that uses go-spiffe.
    go_p99: Option<f64>,
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
    let mut go: Vec<_> = outcomes.iter().filter_map(|one| one.go_p99).collect();
    let go = if go.is_empty() { String::new() } else { format!(", go p99 {:.1}", median(&mut go)) };
    let note = format!(
        "p50 {:.1}, worst p99 {worst:.1}{go}, {} of {samples} failed{example}, resident <= {resident:.0} MiB, {:.0}/s",
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

/// What every flood of one run has in common.
struct Field<'a> {
    setup: &'a Setup,
    surroundings: &'a Surroundings,
    /// The program of the second victim.
    go: Option<&'a Path>,
}

impl Field<'_> {
    /// A daemon of its own, its victims, and then the flood.
    async fn outcome(&self, flood: Flood, principals: u32) -> Outcome {
        let ready = (flood == Flood::Ready).then(free_address);
        let node = Node::start(&Setup { default_limits: true, ready, ..self.setup.clone() }).await;
        let target = node.target();
        let mut victims = self.victims(&target, ready);
        for victim in &mut victims {
            victim.line().await;
        }
        let mut flooders = self.begin(flood, principals, &target, ready).await;
        let mut seen = futures_util::future::join_all(victims.iter_mut().map(watch)).await;
        drop(victims);
        let resident_mib = target.meter().peak_kib().map_or(f64::INFINITY, |kib| kib / 1024.0);
        let mut failures: Vec<_> = seen.iter_mut().flat_map(|seen| std::mem::take(&mut seen.failures)).collect();
        failures.extend(resident_mib.is_infinite().then(|| "the daemon is gone".to_owned()));
        flooders.iter_mut().for_each(|flooder| drop(flooder.process.stdin.take()));
        let mut done = 0.0;
        for flooder in &mut flooders {
            if let Ok(Ok(Some(line))) = timeout(PATIENCE, flooder.lines.next_line()).await {
                done += line.parse().unwrap_or(0.0);
            }
            let _ = flooder.process.kill().await;
        }
        let [p50, p99] = [0.5, 0.99].map(|share| percentile(&mut seen[0].milliseconds, share));
        let go_p99 = seen.get_mut(1).map(|seen| percentile(&mut seen.milliseconds, 0.99));
        let samples = seen.iter().map(|seen| seen.milliseconds.len()).sum();
        let per_second = done / seen[0].span.as_secs_f64();
        Outcome { p50, p99, go_p99, samples, failures, resident_mib, per_second }
    }

    fn victims(&self, target: &Target, ready: Option<SocketAddr>) -> Vec<Printing> {
        let role = if ready.is_some() { Role::Prober } else { Role::Stranger };
        let mut victims = vec![Printing::spawn(&mut command(role, target, &self.surroundings.stranger(), ready))];
        if let (Some(program), None) = (self.go, ready) {
            let mut go = command(Role::GoStranger, target, &self.surroundings.client(), None);
            victims.push(Printing::spawn(go.arg("--program").arg(program)));
        }
        victims
    }

    /// Starts the flooders, and waits until each has begun.
    async fn begin(&self, flood: Flood, principals: u32, target: &Target, ready: Option<SocketAddr>) -> Vec<Printing> {
        let first = if flood == Flood::Streams { ENTITLED_FLOODERS.start } else { FLOODERS };
        let threads = THREADS_EACH.min(THREADS / principals as usize).to_string();
        let mut flooders = Vec::new();
        for uid in first..first + principals {
            let guise = self.surroundings.flooder(uid).with_groups(flood.groups());
            let mut command = command(Role::Flooder, target, &guise, ready);
            flooders.push(Printing::spawn(command.args(["--flood", &flood.name(), "--threads", &threads])));
        }
        for flooder in &mut flooders {
            flooder.line().await;
        }
        flooders
    }
}

/// A child and the lines that it prints.
struct Printing {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Printing {
    fn spawn(command: &mut Command) -> Self {
        let mut process = command.spawn().expect("a process");
        let lines = BufReader::new(process.stdout.take().expect("its output is a pipe")).lines();
        Self { process, lines }
    }

    async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("it prints a line in time");
        line.expect("a pipe can be read").expect("it lives")
    }
}

/// The victim's samples that began in the time of the flood.
struct Seen {
    milliseconds: Vec<f64>,
    failures: Vec<String>,
    span: Duration,
}

/// Watches a victim, and waits for the sample that is underway at the end: it may be the longest.
async fn watch(victim: &mut Printing) -> Seen {
    let begun = SystemClock.now();
    let mut seen = Seen { milliseconds: Vec::new(), failures: Vec::new(), span: Duration::ZERO };
    while seen.span < WATCHED || seen.milliseconds.is_empty() {
        let line = victim.line().await;
        let now = SystemClock.now();
        seen.span = now.duration_since(begun).unwrap_or_default();
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

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

/// The client of the tests that uses go-spiffe, in a directory that every user can read.
async fn go_program() -> (tempfile::TempDir, PathBuf) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/go");
    let directory = tempfile::Builder::new().permissions(child::for_all()).tempdir().expect("a directory");
    let program = directory.path().join("go-workload");
    let mut go = Command::new("go");
    go.args(["build", "-mod=readonly", "-buildvcs=false", "-o"]).arg(&program).arg(".").current_dir(source);
    assert!(go.status().await.is_ok_and(|status| status.success()), "there is no Go, or it has no modules");
    (directory, program)
}
