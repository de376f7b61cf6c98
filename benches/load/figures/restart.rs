//! Stop and start, with thousands of entries.

use nix::sys::signal::Signal;

use crate::limit::LimitServer;
use crate::limit::Work;
use crate::measure::report::Figure;
use crate::measure::report::Promise;
use crate::measure::report::medians;
use crate::measure::report::millis;
use crate::node::Node;
use crate::node::Setup;

pub(crate) async fn measure(setup: &Setup, entries: u32, rounds: usize) -> Vec<Figure> {
    let mut node = Node::start(&setup.clone().with_entries(entries)).await;
    let mut measured = Vec::new();
    for _ in 0..rounds {
        measured.push([
            millis(node.restart_by(Signal::SIGTERM).await),
            millis(node.restart_by(Signal::SIGKILL).await),
            millis(LimitServer::start(Work::Nothing, &node.target().socket).await.1),
        ]);
    }
    let [started, killed, limit] = medians(&measured);
    let (start, kill) = if entries > 1_000 { (150.0, 200.0) } else { (60.0, 200.0) };
    vec![
        Figure::new(format!("start -> first X509-SVID, {entries} entries"), "ms", started, Promise::AtMost(start))
            .beside(limit),
        Figure::new(format!("kill -9 -> serving again, {entries} entries"), "ms", killed, Promise::AtMost(kill))
            .beside(limit),
    ]
}
