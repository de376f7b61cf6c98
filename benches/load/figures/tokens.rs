//! FetchJWTSVID: the processor time of a token, and the tokens per second.

use tokio::task::JoinSet;
use tokio::time::Instant;
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
const IN_FLIGHT: usize = 64;

pub(crate) async fn measure(target: &Target, empty: &EmptyServer, rounds: usize) -> Vec<Figure> {
    let channel = client::connect(&target.socket).await.expect("the daemon serves");
    let empty_channel = client::connect(&empty.socket).await.expect("the empty service serves");
    let signer = raw::Signer::new();
    let mut measured = Vec::new();
    for _ in 0..rounds {
        let (ours, none) = (Meter::of(target.pid), Meter::of(empty.pid()));
        let before = ours.processor_time();
        for _ in 0..PER_ROUND {
            client::fetch_token(&channel).await.expect("a token");
        }
        let spent = ours.processor_time().saturating_sub(before);
        let before = none.processor_time();
        for _ in 0..PER_ROUND {
            client::empty_call(&empty_channel).await.expect("an answer");
        }
        let empty_call = none.processor_time().saturating_sub(before);
        let signature = raw::time_each(PER_ROUND, || signer.sign());
        measured.push([
            micros(spent / PER_ROUND),
            micros(empty_call / PER_ROUND + signature),
            tokens_per_second(&channel).await,
        ]);
    }
    let [processor, limit, rate] = medians(&measured);
    vec![
        Figure::new(
            "FetchJWTSVID, always newly signed, processor time",
            "us",
            processor,
            Promise::AtMostTimesTheLimit(1.5),
        )
        .beside(limit),
        Figure::new("FetchJWTSVID, 64 in flight on one connection", "/s", rate, Promise::Nothing),
    ]
}

async fn tokens_per_second(channel: &Channel) -> f64 {
    let begin = Instant::now();
    let mut calls = JoinSet::new();
    for _ in 0..PER_ROUND {
        if calls.len() == IN_FLIGHT {
            calls.join_next().await;
        }
        let channel = channel.clone();
        calls.spawn(async move { client::fetch_token(&channel).await.expect("a token") });
    }
    calls.join_all().await;
    f64::from(PER_ROUND) / begin.elapsed().as_secs_f64()
}
