//! FetchJWTSVID: the processor time of a token, and the tokens per second.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;

use crate::child::EmptyServer;
use crate::client;
use crate::measure::raw;
use crate::measure::report::Figure;
use crate::measure::report::Promise;
use crate::measure::report::medians;
use crate::measure::report::micros;
use crate::meters::Meter;
use crate::node::Target;

const PER_ROUND: u32 = 1_000;
/// So many calls are on their way at once, on one connection, and what each may cost beside the limit.
const SEVERAL: (usize, f64) = (16, 1.5);
const ONE: (usize, f64) = (1, 2.0);
const MANY: usize = 64;

pub(crate) async fn measure(target: &Target, empty: &EmptyServer, rounds: usize) -> Vec<Figure> {
    let channel = client::connect(&target.socket).await.expect("the daemon serves");
    let empty_channel = client::connect(&empty.socket).await.expect("the empty service serves");
    let signer = raw::Signer::new();
    let mut measured = Vec::new();
    for _ in 0..rounds {
        let (ours, none) = (Meter::of(target.pid), Meter::of(empty.pid()));
        let signature = raw::time_each(PER_ROUND, || signer.sign());
        let mut round = Vec::new();
        for (in_flight, _) in [SEVERAL, ONE] {
            let before = ours.processor_time();
            calls(&channel, in_flight, |channel| async move { client::fetch_token(&channel).await }).await;
            let token = ours.processor_time().saturating_sub(before);
            let before = none.processor_time();
            calls(&empty_channel, in_flight, |channel| async move { client::empty_call(&channel).await }).await;
            let empty_call = none.processor_time().saturating_sub(before);
            round.extend([micros(token / PER_ROUND), micros(empty_call / PER_ROUND + signature)]);
        }
        let many = calls(&channel, MANY, |channel| async move { client::fetch_token(&channel).await }).await;
        round.push(f64::from(PER_ROUND) / many.as_secs_f64());
        measured.push(<[f64; 5]>::try_from(round).expect("five figures"));
    }
    let [several, several_limit, one, one_limit, rate] = medians(&measured);
    let figure = |(in_flight, times): (usize, f64), ours, limit| {
        let name = format!("FetchJWTSVID, always newly signed, {in_flight} in flight, processor time");
        Figure::new(name, "us", ours, Promise::AtMostTimesTheLimit(times)).beside(limit)
    };
    vec![
        figure(SEVERAL, several, several_limit),
        figure(ONE, one, one_limit),
        Figure::new("FetchJWTSVID, 64 in flight on one connection", "/s", rate, Promise::Nothing),
    ]
}

/// Makes [`PER_ROUND`] calls, so many at once, and returns how long they took together.
async fn calls<F>(channel: &Channel, in_flight: usize, call: impl Fn(Channel) -> F) -> Duration
where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let begin = Instant::now();
    let mut underway = JoinSet::new();
    for _ in 0..PER_ROUND {
        if underway.len() == in_flight {
            underway.join_next().await;
        }
        let answered = call(channel.clone());
        underway.spawn(async move { answered.await.expect("an answer") });
    }
    underway.join_all().await;
    begin.elapsed()
}
