//! The processor time of streams that nothing happens to, the sweep included.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;

use crate::child;
use crate::child::IDLE_STREAMS;
use crate::child::Role;
use crate::measure::report::Figure;
use crate::measure::report::Promise;
use crate::measure::report::medians;
use crate::node::Target;
use crate::surroundings::Surroundings;

const PROCESSES: usize = 1_000;
/// Each has one sweep.
const WINDOW: Duration = Duration::from_secs(10);

pub(crate) async fn streams(target: &Target, surroundings: &Surroundings, rounds: usize) -> Vec<Figure> {
    let guise = surroundings.client();
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        let mut process = child::spawn(Role::Idler, &target.socket, Some(&guise));
        process.stdout.as_mut().expect("its output is a pipe").read_u8().await.expect("it has its streams");
        processes.push(process);
    }
    let meter = target.meter();
    tokio::time::sleep(WINDOW).await;
    let mut shares = Vec::new();
    for _ in 0..rounds {
        let before = meter.processor_time();
        tokio::time::sleep(WINDOW).await;
        let used = meter.processor_time().saturating_sub(before);
        shares.push([100.0 * used.as_secs_f64() / WINDOW.as_secs_f64()]);
    }
    let [share] = medians(&shares);
    let name = format!("{} idle streams of {PROCESSES} processes, processor time", PROCESSES * IDLE_STREAMS);
    vec![Figure::new(name, "% of a core", share, Promise::AtMost(1.0))]
}
