//! The daemon's memory per connection and stream, and its memory after all have closed.

use std::time::Duration;

use crate::caller::Caller;
use crate::caller::Order;
use crate::measure::report::Figure;
use crate::measure::report::Promise;
use crate::node::Node;
use crate::node::Setup;
use crate::node::Target;
use crate::surroundings::Surroundings;

const FURTHER_STREAMS: u32 = 9;
/// The time after which a daemon counts as idle.
const SETTLE: Duration = Duration::from_secs(2);
const AFTER_ALL_HAVE_GONE: Duration = Duration::from_secs(60);

pub(crate) async fn idle(setup: &Setup, entries: u32, promised_mib: f64) -> Figure {
    let node = Node::start(&setup.clone().with_entries(entries)).await;
    tokio::time::sleep(SETTLE).await;
    let resident = node.target().meter().resident_kib() / 1024.0;
    Figure::new(format!("memory, idle, {entries} entries"), "MiB", resident, Promise::AtMost(promised_mib))
}

pub(crate) async fn under_connections(target: &Target, surroundings: &Surroundings, connections: u32) -> Vec<Figure> {
    let meter = target.meter();
    tokio::time::sleep(SETTLE).await;
    let idle = meter.resident_kib();
    let mut caller = Caller::start(&target.socket, &surroundings.client());
    caller.told(Order::Hold, connections, 0).await;
    tokio::time::sleep(SETTLE).await;
    let one_stream_each = meter.resident_kib();
    caller.told(Order::More, FURTHER_STREAMS, 0).await;
    tokio::time::sleep(SETTLE).await;
    let ten_streams_each = meter.resident_kib();
    caller.told(Order::Release, 0, 0).await;
    tokio::time::sleep(AFTER_ALL_HAVE_GONE).await;
    let afterwards = meter.resident_kib();

    let per_connection = (one_stream_each - idle) / f64::from(connections);
    let per_stream = (ten_streams_each - one_stream_each) / f64::from(connections * FURTHER_STREAMS);
    let (name, total) = (format!("memory, {connections} connections with a stream"), one_stream_each / 1024.0);
    vec![
        Figure::new(name, "MiB", total, if connections == 5_000 { Promise::AtMost(165.0) } else { Promise::Nothing }),
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
