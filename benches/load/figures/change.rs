//! A change of an entry with many open streams: the time until the last stream has it, and the latency of a new
//! connection meanwhile.

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use bonafide::endpoints::workload_api::proto::X509svidResponse;
use bonafide::time::Clock as _;
use bonafide::time::SystemClock;
use tokio::io::AsyncReadExt as _;
use tokio::process::ChildStdout;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use x509_parser::extensions::GeneralName;

use crate::child;
use crate::child::Role;
use crate::client;
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
    let (report, mut marks) = mpsc::unbounded_channel();
    let streams = open_streams(target, connections, &report).await;
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
    let name = format!("entry change -> all of {connections} streams");
    vec![
        Figure::new(format!("{name}, nothing signed"), "ms", unsigned, Promise::AtMost(200.0)),
        Figure::new(format!("{name}, each a new key"), "ms", signed, Promise::AtMostTimesTheLimit(2.5)).beside(limit),
        Figure::new(
            format!("first SVID of {whose} meanwhile, p99"),
            "ms",
            percentile(&mut meanwhile, 0.99),
            Promise::AtMost(20.0),
        ),
        Figure::new(format!("failures of {whose} meanwhile"), "", failed as f64, Promise::AtMost(0.0)),
    ]
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

/// The parts of a message that show which version of the entry it has. The hint is not signed, the DNS name is.
#[derive(PartialEq, Eq)]
struct Mark {
    hint: String,
    dns: String,
}

impl Mark {
    fn in_message(message: &X509svidResponse) -> Self {
        let svid = message.svids.first().cloned().unwrap_or_default();
        let (_, certificate) = x509_parser::parse_x509_certificate(&svid.x509_svid).expect("a certificate");
        let names = certificate.subject_alternative_name().ok().flatten();
        let dns = names.and_then(|names| {
            names.value.general_names.iter().find_map(|name| match name {
                GeneralName::DNSName(dns) => Some((*dns).to_owned()),
                _ => None,
            })
        });
        Self { hint: svid.hint, dns: dns.unwrap_or_default() }
    }
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
