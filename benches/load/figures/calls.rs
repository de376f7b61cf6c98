//! Calls on an open connection: tokens, further streams, validations.

use std::time::Duration;

use crate::caller::Order;
use crate::figures::sides::Sides;
use crate::measure::report::Figure;
use crate::measure::report::Promise;
use crate::measure::report::medians;
use crate::node::Target;
use crate::surroundings::Surroundings;

const PER_ROUND: u32 = 2_000;
/// So many calls are on their way at once, on one connection.
const SEVERAL: u32 = 16;
const ONE: u32 = 1;
const MANY: u32 = 64;
/// Streams of a burst: a connection has at most a hundred.
const BURST: u32 = 96;
const BURSTS: u32 = 5;
const BETWEEN_BURSTS: Duration = Duration::from_millis(1_100);

pub(crate) async fn tokens(target: &Target, surroundings: &Surroundings, rounds: usize) -> Vec<Figure> {
    let mut sides = Sides::of(target, surroundings).await;
    let name = "FetchJWTSVID, always newly signed";
    let [several, limit, _] = processor_time(&mut sides, Order::Token, SEVERAL, rounds).await;
    let [one, one_limit, _] = processor_time(&mut sides, Order::Token, ONE, rounds).await;
    let mut rates = Vec::new();
    for _ in 0..rounds {
        let all = sides.ours.costs(Order::Token, PER_ROUND, MANY).await.times.all;
        rates.push([f64::from(PER_ROUND) / all.as_secs_f64()]);
    }
    let [rate] = medians(&rates);
    vec![
        of_processor_time(name, SEVERAL, several, Promise::AtMostTimesTheLimit(1.5)).beside(limit),
        of_processor_time(name, ONE, one, Promise::AtMostTimesTheLimit(2.0)).beside(one_limit),
        Figure::new(format!("{name}, {MANY} in flight on one connection"), "/s", rate, Promise::Nothing),
    ]
}

pub(crate) async fn validation(target: &Target, surroundings: &Surroundings, rounds: usize) -> Vec<Figure> {
    let mut sides = Sides::of(target, surroundings).await;
    let name = "ValidateJWTSVID";
    let [several, limit, _] = processor_time(&mut sides, Order::Validate, SEVERAL, rounds).await;
    let [one, one_limit, _] = processor_time(&mut sides, Order::Validate, ONE, rounds).await;
    vec![
        of_processor_time(name, SEVERAL, several, Promise::AtMostTimesTheLimit(1.25)).beside(limit),
        of_processor_time(name, ONE, one, Promise::Nothing).beside(one_limit),
    ]
}

/// The process has its SVID: the daemon makes no key, and the limit does. Streams are opened in bursts, for a client may
/// not reset more in a second.
pub(crate) async fn further_streams(sides: &mut Sides, rounds: usize) -> [Figure; 2] {
    let mut measured = Vec::new();
    for _ in 0..=rounds {
        let mut round = [0.0; 3];
        for _ in 0..BURSTS {
            let burst = sides.cost(Order::Stream, BURST, SEVERAL).await.map(|cost| cost.processor / f64::from(BURSTS));
            round.iter_mut().zip(burst).for_each(|(sum, cost)| *sum += cost);
            sides.cost(Order::Release, 0, 0).await;
            tokio::time::sleep(BETWEEN_BURSTS).await;
        }
        measured.push(round);
    }
    let [ours, limit, empty] = medians(&measured[1..]);
    let name = "further stream -> X509-SVID that the process has";
    [
        of_processor_time(name, SEVERAL, ours, Promise::AtMostTimesTheLimit(1.3)).beside(limit),
        of_processor_time(&format!("{name} (empty limit)"), SEVERAL, ours, Promise::Nothing).beside(empty),
    ]
}

/// Of the daemon, of the limit, and of the empty limit; one round more than is counted, the first is a warm-up.
async fn processor_time(sides: &mut Sides, order: Order, in_flight: u32, rounds: usize) -> [f64; 3] {
    let mut measured = Vec::new();
    for _ in 0..=rounds {
        measured.push(sides.cost(order, PER_ROUND, in_flight).await.map(|cost| cost.processor));
    }
    medians(&measured[1..])
}

fn of_processor_time(name: &str, in_flight: u32, ours: f64, promise: Promise) -> Figure {
    Figure::new(format!("{name}, {in_flight} in flight, processor time"), "us", ours, promise)
}
