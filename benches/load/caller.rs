//! A client process that calls as it is told: one order on a line of standard input, one line of times in return.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncBufReadExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::io::BufReader;
use tokio::io::Lines;
use tokio::process::Child;
use tokio::process::ChildStdin;
use tokio::process::ChildStdout;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio::time::MissedTickBehavior;
use tonic::Status;
use tonic::Streaming;
use tonic::transport::Channel;

use bonafide::endpoints::workload_api::proto::X509svidResponse;

use crate::child;
use crate::child::Role;
use crate::client;
use crate::measure::report::percentile;
use crate::surroundings::Guise;

/// What a caller can be told to do, so many times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Order {
    /// New connections with a stream each, one after the other, closed at once.
    Connect,
    /// Fetches tokens on one connection, several at once.
    Token,
    /// Opens further streams on one connection, several at once, and keeps them.
    Stream,
    /// Validates a token on one connection, several at once.
    Validate,
    /// Processes that fetch one SVID each: so many in a second, or, with 0, one after the other.
    Fresh,
    /// Opens connections with a stream each, and keeps them.
    Hold,
    /// Opens so many further streams on each connection that it keeps.
    More,
    /// Closes all that it keeps.
    Release,
}

/// The times of the calls of one order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// From the order to the last answer.
    pub(crate) all: Duration,
}

/// A caller in its own process, killed on drop.
pub(crate) struct Caller {
    _process: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Caller {
    pub(crate) fn start(socket: &Path, guise: &Guise) -> Self {
        let mut process = child::spawn(Role::Caller, socket, Some(guise));
        let orders = process.stdin.take().expect("its input is a pipe");
        let answers = BufReader::new(process.stdout.take().expect("its output is a pipe")).lines();
        Self { _process: process, orders, answers }
    }

    /// `pace` is the number in flight, or in a second.
    pub(crate) async fn told(&mut self, order: Order, count: u32, pace: u32) -> Times {
        let name = clap::ValueEnum::to_possible_value(&order).expect("no order is hidden");
        let line = format!("{} {count} {pace}\n", name.get_name());
        self.orders.write_all(line.as_bytes()).await.expect("the caller reads");
        let line = self.answers.next_line().await.expect("a pipe can be read").expect("the caller answers");
        let mut nanos = line.split(' ').map(|text| Duration::from_nanos(text.parse().expect("nanoseconds")));
        let mut next = || nanos.next().expect("three times");
        Times { p50: next(), p99: next(), all: next() }
    }
}

/// The caller itself, until its input ends.
pub(crate) async fn obey(socket: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let (sender, mut orders) = mpsc::unbounded_channel();
    std::thread::spawn(move || std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let mut kept = Kept { channel: client::connect(socket).await?, held: Vec::new(), streams: Vec::new() };
    while let Some(line) = orders.recv().await {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap_or_default();
        let order = <Order as clap::ValueEnum>::from_str(word(), false)?;
        let (count, pace) = (word().parse()?, word().parse()?);
        let begin = Instant::now();
        let mut samples = kept.carry_out(order, count, pace, socket).await?;
        let all = begin.elapsed().as_nanos();
        let [p50, p99] = [0.5, 0.99].map(|share| percentile(&mut samples, share) as u128);
        println!("{p50} {p99} {all}");
    }
    Ok(())
}

/// The connections of a caller.
struct Kept {
    /// The one for calls.
    channel: Channel,
    held: Vec<Channel>,
    streams: Vec<Streaming<X509svidResponse>>,
}

impl Kept {
    /// Returns the nanoseconds of each call.
    async fn carry_out(
        &mut self,
        order: Order,
        count: u32,
        pace: u32,
        socket: &Path,
    ) -> Result<Vec<f64>, Box<dyn std::error::Error>> {
        let mut samples = Vec::new();
        match order {
            Order::Connect => {
                for _ in 0..count {
                    samples.push(client::first_svid(socket).await?.as_nanos() as f64);
                }
            }
            Order::Token => {
                let call = |channel| async move { client::fetch_token(&channel).await.map(drop) };
                samples = self.calls(count, pace, call).await?;
            }
            Order::Stream => {
                let (keep, mut kept) = mpsc::unbounded_channel();
                let call = |channel| {
                    let keep = keep.clone();
                    async move {
                        client::open_stream(&channel).await.map(|(_, stream)| keep.send(stream).unwrap_or_default())
                    }
                };
                samples = self.calls(count, pace, call).await?;
                self.streams.extend(std::iter::from_fn(|| kept.try_recv().ok()));
            }
            Order::Validate => {
                let token = client::fetch_token(&self.channel).await?;
                let call = move |channel: Channel| {
                    let token = token.clone();
                    async move { client::validate(&channel, token).await }
                };
                samples = self.calls(count, pace, call).await?;
            }
            Order::Fresh => samples = fresh_processes(count, pace, socket).await?,
            Order::Hold => {
                for _ in 0..count {
                    let begin = Instant::now();
                    let channel = client::connect(socket).await?;
                    self.streams.push(client::open_stream(&channel).await?.1);
                    self.held.push(channel);
                    samples.push(begin.elapsed().as_nanos() as f64);
                }
            }
            Order::More => {
                for channel in &self.held {
                    for _ in 0..count {
                        self.streams.push(client::open_stream(channel).await?.1);
                    }
                }
                samples.push(0.0);
            }
            Order::Release => {
                (self.streams, self.held) = (Vec::new(), Vec::new());
                samples.push(0.0);
            }
        }
        Ok(samples)
    }

    /// Makes `count` calls, so many of them at once.
    async fn calls<F>(&self, count: u32, at_once: u32, call: impl Fn(Channel) -> F) -> Result<Vec<f64>, Status>
    where
        F: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let (mut underway, mut samples) = (JoinSet::new(), Vec::new());
        for _ in 0..count {
            if underway.len() == at_once as usize {
                samples.extend(underway.join_next().await.and_then(Result::ok).transpose()?);
            }
            let answered = call(self.channel.clone());
            underway.spawn(async move {
                let begin = Instant::now();
                answered.await.map(|()| begin.elapsed().as_nanos() as f64)
            });
        }
        for answered in underway.join_all().await {
            samples.push(answered?);
        }
        Ok(samples)
    }
}

/// Starts processes as the caller's own user and in its cgroup.
async fn fresh_processes(count: u32, per_second: u32, socket: &Path) -> Result<Vec<f64>, Box<dyn std::error::Error>> {
    let spawn = || child::command(Role::FirstSvid, socket, None).stdin(Stdio::null()).spawn();
    let mut samples = Vec::new();
    if per_second == 0 {
        for _ in 0..count {
            samples.push(nanoseconds_printed(spawn()?).await);
        }
        return Ok(samples);
    }
    let mut pace = tokio::time::interval(Duration::from_secs(1) / per_second);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut children = Vec::new();
    for _ in 0..count {
        pace.tick().await;
        children.push(tokio::spawn(nanoseconds_printed(spawn()?)));
    }
    for child in children {
        samples.push(child.await?);
    }
    Ok(samples)
}

async fn nanoseconds_printed(mut child: Child) -> f64 {
    let mut printed = String::new();
    let mut output = child.stdout.take().expect("its output is a pipe");
    output.read_to_string(&mut printed).await.expect("a pipe can be read");
    child.wait().await.expect("a child can be waited for");
    printed.trim().parse().expect("it printed how long it took")
}
