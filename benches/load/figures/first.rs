//! The time from connect to the first X509-SVID.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Child;
use tokio::time::Instant;
use tokio::time::MissedTickBehavior;

use crate::child;
use crate::child::EmptyServer;
use crate::child::Role;
use crate::client;
use crate::measure::raw;
use crate::measure::report::Figure;
use crate::measure::report::Promise;
use crate::measure::report::medians;
use crate::measure::report::micros;
use crate::measure::report::percentile;
use crate::meters::Meter;
use crate::node::Target;

const PER_ROUND: usize = 400;
const PROCESSES_PER_ROUND: u32 = 200;
const PROCESSES_PER_SECOND: u32 = 200;

/// Measures in one process, which has its SVID: each time a new connection, and another stream on an open one.
pub(crate) async fn in_one_process(target: &Target, empty: &EmptyServer, rounds: usize) -> Vec<Figure> {
    let channel = client::connect(&target.socket).await.expect("the daemon serves");
    let empty_channel = client::connect(&empty.socket).await.expect("the empty service serves");
    let signer = raw::Signer::new();
    let mut measured = Vec::new();
    for _ in 0..rounds {
        let (mut first, mut empty_first, mut stream, mut limit) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..PER_ROUND {
            first.push(micros(client::first_svid(&target.socket).await.expect("an SVID")));
            empty_first.push(micros(client::first_empty_call(&empty.socket).await.expect("an answer")));
            let begin = Instant::now();
            client::open_stream(&channel).await.expect("an SVID");
            stream.push(micros(begin.elapsed()));
            let begin = Instant::now();
            client::empty_call(&empty_channel).await.expect("an answer");
            signer.key_and_signature();
            limit.push(micros(begin.elapsed()));
        }
        let p50s = [&mut first, &mut empty_first, &mut stream, &mut limit].map(|samples| percentile(samples, 0.5));
        let p99s = [&mut first, &mut empty_first].map(|samples| percentile(samples, 0.99));
        measured.push([p50s[0], p50s[1], p99s[0], p99s[1], p50s[2], p50s[3]]);
    }
    let [p50, empty_p50, p99, empty_p99, stream, limit] = medians(&measured);
    let name = "connect -> X509-SVID that the process has";
    vec![
        Figure::new(format!("{name}, p50"), "us", p50, Promise::AtMostTimesTheLimit(3.0)).beside(empty_p50),
        Figure::new(format!("{name}, p99"), "us", p99, Promise::AtMostTimesTheLimit(4.0)).beside(empty_p99),
        Figure::new(
            "another stream -> X509-SVID that the process has, p50",
            "us",
            stream,
            Promise::AtMostTimesTheLimit(1.6),
        )
        .beside(limit),
    ]
}

/// Measures with a new process each time, at a steady rate.
pub(crate) async fn in_fresh_processes(target: &Target, empty: &EmptyServer, rounds: usize) -> Vec<Figure> {
    let server = Target { socket: empty.socket.clone(), pid: empty.pid() };
    let mut measured = Vec::new();
    for _ in 0..rounds {
        let [p50, p99, processor] = a_second_of_processes(Role::FirstSvid, target).await;
        let [empty_p50, empty_p99, empty_processor] = a_second_of_processes(Role::EmptyCall, &server).await;
        measured.push([p50, empty_p50, p99, empty_p99, processor, empty_processor]);
    }
    let [p50, empty_p50, p99, empty_p99, processor, empty_processor] = medians(&measured);
    let name = "connect -> first X509-SVID, a fresh process each";
    vec![
        Figure::new(format!("{name}, p50"), "us", p50, Promise::AtMostTimesTheLimit(3.0)).beside(empty_p50),
        Figure::new(format!("{name}, p99"), "us", p99, Promise::AtMostTimesTheLimit(4.0)).beside(empty_p99),
        Figure::new("processor time per first SVID, a fresh process each", "us", processor, Promise::AtMost(300.0))
            .beside(empty_processor),
    ]
}

/// p50, p99 and the server's processor time per process.
async fn a_second_of_processes(role: Role, target: &Target) -> [f64; 3] {
    let mut pace = tokio::time::interval(Duration::from_secs(1) / PROCESSES_PER_SECOND);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let meter = Meter::of(target.pid);
    let before = meter.processor_time();
    let mut children = Vec::new();
    for _ in 0..PROCESSES_PER_ROUND {
        pace.tick().await;
        children.push(tokio::spawn(nanoseconds_printed(child::spawn(role, &target.socket))));
    }
    let mut samples = Vec::new();
    for child in children {
        samples.push(child.await.expect("a task that does not panic") / 1e3);
    }
    let processor = micros(meter.processor_time().saturating_sub(before)) / f64::from(PROCESSES_PER_ROUND);
    [percentile(&mut samples, 0.5), percentile(&mut samples, 0.99), processor]
}

async fn nanoseconds_printed(mut child: Child) -> f64 {
    let mut printed = String::new();
    let mut output = child.stdout.take().expect("its output is a pipe");
    output.read_to_string(&mut printed).await.expect("a pipe can be read");
    child.wait().await.expect("a child can be waited for");
    printed.trim().parse().expect("it printed how long it took")
}
