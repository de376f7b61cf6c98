//! Connect to the first X509-SVID.

use crate::caller::Order;
use crate::figures::calls::further_streams;
use crate::figures::sides::Sides;
use crate::measure::report::Figure;
use crate::measure::report::Promise;
use crate::measure::report::medians;
use crate::measure::report::micros;
use crate::node::Target;
use crate::surroundings::Surroundings;

const CONNECTIONS_PER_ROUND: u32 = 400;
const PROCESSES_PER_ROUND: u32 = 200;
/// One process after the other.
const CLOSED_LOOP: u32 = 0;
const OPEN_LOOP_PER_SECOND: u32 = 200;

/// In one process, which has its SVID: each time a new connection, and further streams on an open one.
pub(crate) async fn in_one_process(target: &Target, surroundings: &Surroundings, rounds: usize) -> Vec<Figure> {
    let mut sides = Sides::of(target, surroundings).await;
    let mut figures = Vec::new();
    let name = "connect -> X509-SVID that the process has";
    figures.extend(first(&mut sides, name, Order::Connect, [CONNECTIONS_PER_ROUND, 0], rounds).await);
    figures.extend(further_streams(&mut sides, rounds).await);
    figures
}

/// With a new process each time, so that each gets a new key.
pub(crate) async fn in_fresh_processes(target: &Target, surroundings: &Surroundings, rounds: usize) -> Vec<Figure> {
    let mut sides = Sides::of(target, surroundings).await;
    let mut figures = Vec::new();
    for (pace, how) in [(CLOSED_LOOP, "closed loop"), (OPEN_LOOP_PER_SECOND, "200/s")] {
        let name = format!("connect -> first X509-SVID, fresh processes, {how}");
        figures.extend(first(&mut sides, &name, Order::Fresh, [PROCESSES_PER_ROUND, pace], rounds).await);
    }
    figures
}

/// What clients wait, and the processor time.
async fn first(sides: &mut Sides, name: &str, order: Order, [count, pace]: [u32; 2], rounds: usize) -> [Figure; 4] {
    let mut measured = Vec::new();
    for _ in 0..=rounds {
        let [ours, limit, empty] = sides.cost(order, count, pace).await;
        let [p50, p50_limit] = [ours, limit].map(|cost| micros(cost.times.p50));
        let [p99, p99_limit] = [ours, limit].map(|cost| micros(cost.times.p99));
        let [processor, limit, empty] = [ours, limit, empty].map(|cost| cost.processor);
        measured.push([p50, p50_limit, p99, p99_limit, processor, limit, empty]);
    }
    let [p50, p50_limit, p99, p99_limit, processor, limit, empty] = medians(&measured[1..]);
    let fresh = if order == Order::Fresh { Promise::AtMostTimesTheLimit(2.2) } else { Promise::Nothing };
    [
        Figure::new(format!("{name}, p50"), "us", p50, Promise::AtMostTimesTheLimit(2.0)).beside(p50_limit),
        Figure::new(format!("{name}, p99"), "us", p99, Promise::AtMostTimesTheLimit(2.5)).beside(p99_limit),
        Figure::new(format!("{name}, processor time"), "us", processor, fresh).beside(limit),
        Figure::new(format!("{name}, processor time (empty limit)"), "us", processor, Promise::Nothing).beside(empty),
    ]
}
