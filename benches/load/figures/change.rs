//! An entry changes under many open streams: how long until the last of them knows, and what a newcomer feels meanwhile.

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use bonafide::endpoints::workload_api::proto::X509svidResponse;
use bonafide::time::Clock as _;
use bonafide::time::SystemClock;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::child;
use crate::child::Role;
use crate::client;
use crate::measure::raw;
use crate::measure::report::Figure;
use crate::measure::report::Promise;
use crate::measure::report::median;
use crate::measure::report::millis;
use crate::measure::report::percentile;
use crate::node::EntryChange;
use crate::node::Target;

const LONGEST: Duration = Duration::from_secs(30);

pub(crate) async fn measure(
    target: &Target,
    change: &EntryChange<'_>,
    connections: usize,
    rounds: usize,
) -> Vec<Figure> {
    let (report, mut marks) = mpsc::unbounded_channel();
    let streams = open_streams(target, connections, &report).await;
    let mut stranger = child::spawn(Role::Stranger, &target.socket);
    let (mut unsigned, mut signed, mut limits, mut spans) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let before = SystemClock.now();
        let mark = format!("hint-{round}");
        unsigned.push(millis(reached_all(connections, &mut marks, &mark, change.make("hint", &mark)).await));
        let mark = format!("round-{round}.load.test");
        signed.push(millis(reached_all(connections, &mut marks, &mark, change.make("dns", &mark)).await));
        spans.push((before, SystemClock.now()));
        limits.push(millis(raw::keys_and_signatures_on_all_cores(connections as u32)));
    }
    stranger.start_kill().expect("it runs");
    let mut printed = String::new();
    stranger.stdout.take().expect("its output is a pipe").read_to_string(&mut printed).await.expect("it can be read");
    let mut meanwhile: Vec<f64> = printed.lines().filter_map(|line| during(line, &spans)).collect();
    drop(streams);
    let name = format!("entry change -> all of {connections} streams");
    vec![
        Figure::new(format!("{name}, nothing signed"), "ms", median(&mut unsigned), Promise::AtMost(200.0)),
        Figure::new(format!("{name}, each a new key"), "ms", median(&mut signed), Promise::AtMostTimesTheLimit(2.5))
            .beside(median(&mut limits)),
        Figure::new(
            "a stranger's first SVID meanwhile, p99",
            "ms",
            percentile(&mut meanwhile, 0.99),
            Promise::AtMost(20.0),
        ),
    ]
}

/// One connection for each stream. Every message is searched for a mark and reported.
async fn open_streams(target: &Target, connections: usize, report: &mpsc::UnboundedSender<String>) -> JoinSet<()> {
    let mut streams = JoinSet::new();
    for _ in 0..connections {
        let channel = client::connect(&target.socket).await.expect("the daemon takes another connection");
        let (_, mut stream) = client::open_stream(&channel).await.expect("an SVID");
        let report = report.clone();
        streams.spawn(async move {
            while let Ok(Some(message)) = stream.message().await {
                // The receiver is gone once everything is measured.
                let _ = report.send(mark_in(&message));
            }
        });
    }
    streams
}

/// What a change left in a message: the hint, or the DNS name in the certificate.
fn mark_in(message: &X509svidResponse) -> String {
    let Some(svid) = message.svids.first() else { return String::new() };
    let certificate = String::from_utf8_lossy(&svid.x509_svid);
    let name = certificate.find("round-").and_then(|at| certificate[at..].split_inclusive(".load.test").next());
    name.unwrap_or(&svid.hint).to_owned()
}

async fn reached_all(
    connections: usize,
    marks: &mut mpsc::UnboundedReceiver<String>,
    mark: &str,
    change: impl Future<Output = ()>,
) -> Duration {
    let begin = Instant::now();
    let everyone = async {
        let mut reached = 0;
        while reached < connections {
            reached += usize::from(marks.recv().await.expect("the streams are open") == mark);
        }
        begin.elapsed()
    };
    let (took, ()) = tokio::join!(tokio::time::timeout(LONGEST, everyone), change);
    took.expect("every stream hears of the change")
}

/// The milliseconds of one of the stranger's lines, if it falls into one of the spans.
fn during(line: &str, spans: &[(SystemTime, SystemTime)]) -> Option<f64> {
    let (at, took) = line.split_once(' ')?;
    let at = UNIX_EPOCH + Duration::from_nanos(at.parse().ok()?);
    let took = Duration::from_nanos(took.parse().ok()?);
    spans.iter().any(|(begin, end)| at <= *end && at + took >= *begin).then_some(millis(took))
}
