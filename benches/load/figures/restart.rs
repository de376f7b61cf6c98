//! Stop and start, with thousands of entries.

use nix::sys::signal::Signal;

use crate::child::EmptyServer;
use crate::measure::report::Figure;
use crate::measure::report::Promise;
use crate::measure::report::median;
use crate::measure::report::millis;
use crate::node::Node;

pub(crate) async fn measure(entries: u32, rounds: usize) -> Vec<Figure> {
    let mut node = Node::start(entries).await;
    let (mut started, mut killed, mut limits) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        started.push(millis(node.restart_by(Signal::SIGTERM).await));
        killed.push(millis(node.restart_by(Signal::SIGKILL).await));
        limits.push(millis(EmptyServer::start().await.1));
    }
    let (start, kill) = if entries > 1_000 { (150.0, 200.0) } else { (60.0, 200.0) };
    let limit = median(&mut limits);
    vec![
        Figure::new(
            format!("start -> first X509-SVID, {entries} entries"),
            "ms",
            median(&mut started),
            Promise::AtMost(start),
        )
        .beside(limit),
        Figure::new(
            format!("kill -9 -> serving again, {entries} entries"),
            "ms",
            median(&mut killed),
            Promise::AtMost(kill),
        )
        .beside(limit),
    ]
}
