//! The daemon's memory per connection and stream, and its memory after all have closed.

use std::time::Duration;

use crate::client;
use crate::measure::report::Figure;
use crate::measure::report::Promise;
use crate::node::Node;
use crate::node::Target;

const FURTHER_STREAMS: usize = 9;
/// The time after which a daemon counts as idle.
const SETTLE: Duration = Duration::from_secs(2);
const AFTER_ALL_HAVE_GONE: Duration = Duration::from_secs(60);

pub(crate) async fn idle(entries: u32, promised_mib: f64) -> Figure {
    let node = Node::start(entries).await;
    tokio::time::sleep(SETTLE).await;
    let resident = node.target().meter().resident_kib() / 1024.0;
    Figure::new(format!("memory, idle, {entries} entries"), "MiB", resident, Promise::AtMost(promised_mib))
}

pub(crate) async fn under_connections(target: &Target, connections: usize) -> Vec<Figure> {
    let meter = target.meter();
    tokio::time::sleep(SETTLE).await;
    let idle = meter.resident_kib();
    let mut channels = Vec::new();
    let mut streams = Vec::new();
    for _ in 0..connections {
        let channel = client::connect(&target.socket).await.expect("the daemon takes another connection");
        streams.push(client::open_stream(&channel).await.expect("an SVID").1);
        channels.push(channel);
    }
    tokio::time::sleep(SETTLE).await;
    let one_stream_each = meter.resident_kib();
    for channel in &channels {
        for _ in 0..FURTHER_STREAMS {
            streams.push(client::open_stream(channel).await.expect("an SVID").1);
        }
    }
    tokio::time::sleep(SETTLE).await;
    let ten_streams_each = meter.resident_kib();
    drop(streams);
    drop(channels);
    tokio::time::sleep(AFTER_ALL_HAVE_GONE).await;
    let afterwards = meter.resident_kib();

    let per_connection = (one_stream_each - idle) / connections as f64;
    let per_stream = (ten_streams_each - one_stream_each) / (connections * FURTHER_STREAMS) as f64;
    let (name, total) = (format!("memory, {connections} connections with a stream"), one_stream_each / 1024.0);
    vec![
        Figure::new(name, "MiB", total, if connections == 8_000 { Promise::AtMost(260.0) } else { Promise::Nothing }),
        Figure::new("memory per connection with its stream", "KiB", per_connection, Promise::AtMost(32.0)),
        Figure::new("memory per further stream on it", "KiB", per_stream, Promise::AtMost(8.0)),
        Figure::new(
            "memory a minute after all have gone",
            "MiB",
            afterwards / 1024.0,
            Promise::AtMostTimesTheLimit(2.0),
        )
        .beside(idle / 1024.0),
    ]
}
