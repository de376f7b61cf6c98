//! Puts load on a Workload API socket, and prints each figure beside the machine's own limit, measured in the same run.
//!
//! `cargo bench --bench load -- [SUBJECT]...` starts temporary daemons. With `--socket` and `--pid` it measures the
//! process that serves that socket, from outside. It connects to Unix sockets only, and stops by itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a measurement fails by panicking")]

mod caller;
mod child;
mod client;
mod figures;
mod floods;
#[path = "../../tests/support/http2.rs"]
mod http2;
mod limit;
mod mark;
#[path = "../measure/mod.rs"]
#[allow(dead_code, reason = "the other program uses the rest")]
mod measure;
mod meters;
mod node;
mod surroundings;

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use tokio::runtime;

use crate::child::Role;
use crate::figures::Subject;
use crate::floods::Flood;
use crate::measure::report;
use crate::node::Target;
use crate::surroundings::Surroundings;

/// Measures a Workload API socket beside the machine's own limits.
#[derive(Debug, Parser)]
struct Load {
    /// The subjects to measure; all but the floods by default
    subjects: Vec<Subject>,
    /// One JSON object per figure
    #[arg(long)]
    json: bool,
    /// Measure the server of this socket instead of a temporary daemon
    #[arg(long, requires = "measured")]
    socket: Option<PathBuf>,
    /// The process that serves the socket
    #[arg(long, group = "measured")]
    pid: Option<u32>,
    /// With --socket: a program that sets the hint and the DNS name of this user's entry, its two arguments
    #[arg(long, requires = "socket")]
    change: Option<PathBuf>,
    /// Start this daemon instead of the one that was built with this program
    #[arg(long)]
    daemon: Option<PathBuf>,
    /// The number of connections, with one stream each
    #[arg(long, default_value_t = 1_000)]
    connections: usize,
    /// The number of rounds; a figure is their median. 5 by default, 10 for floods
    #[arg(long)]
    rounds: Option<usize>,
    /// Only these floods
    #[arg(long = "flood")]
    floods: Vec<Flood>,
    /// Floods by so many users; 1 and 8 by default
    #[arg(long)]
    principals: Option<u32>,
    /// Floods: a client that uses go-spiffe is a victim, too; needs Go and its modules
    #[arg(long)]
    go: bool,
    /// The program of a child
    #[arg(long, hide = true)]
    program: Option<PathBuf>,
    /// The role of a child process
    #[arg(long, group = "measured", hide = true)]
    role: Option<Role>,
    /// Where a child finds `/ready`
    #[arg(long, hide = true)]
    ready: Option<SocketAddr>,
    /// The threads of a child
    #[arg(long, hide = true, default_value_t = 0)]
    threads: usize,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

impl Load {
    fn rounds(&self, usual: usize) -> usize {
        self.rounds.unwrap_or(usual).max(1)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    if let Some(guise) = std::env::args().nth(1).as_deref().and_then(surroundings::guise_in) {
        return Err(surroundings::put_on(guise).into());
    }
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(Load::parse()))
}

async fn run(load: Load) -> Result<(), Box<dyn Error>> {
    if let (Some(role), Some(socket)) = (load.role, &load.socket) {
        return child::run(role, socket, &load).await;
    }
    let target = load.socket.clone().zip(load.pid).map(|(socket, pid)| Target { socket, pid });
    let subjects = if load.subjects.is_empty() { &Subject::WITHOUT_FLOODS[..] } else { &load.subjects };
    let surroundings = Surroundings::arrange(target.is_some());
    if !load.json {
        println!("{}", surroundings.describe());
        report::print_heading();
    }
    for subject in subjects {
        let figures = match &target {
            Some(target) => subject.of_a_socket(target, &load, &surroundings).await,
            None => subject.of_our_own(&load, &surroundings).await,
        };
        figures.iter().for_each(|figure| figure.print(load.json));
    }
    Ok(())
}
