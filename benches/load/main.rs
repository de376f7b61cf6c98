//! Puts load on a Workload API socket, and prints each figure beside the machine's own limit, measured in the same run.
//!
//! `cargo bench --bench load -- [SUBJECT]...` starts temporary daemons. With `--socket` and `--pid` it measures the
//! process that serves that socket, from outside. It connects to Unix sockets only, and stops by itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a measurement fails by panicking")]

mod child;
mod client;
mod figures;
mod mark;
#[path = "../measure/mod.rs"]
#[allow(dead_code, reason = "the other program uses the rest")]
mod measure;
mod meters;
mod node;

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;
use tokio::runtime;

use crate::child::Role;
use crate::figures::Subject;
use crate::measure::report;
use crate::node::Target;

/// Measures a Workload API socket beside the machine's own limits.
#[derive(Debug, Parser)]
struct Load {
    /// The subjects to measure; all by default
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
    /// The number of connections, with one stream each
    #[arg(long, default_value_t = 1_000)]
    connections: usize,
    /// The number of rounds; a figure is their median
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The role of a child process
    #[arg(long, group = "measured", hide = true)]
    role: Option<Role>,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let load = Load::parse();
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let mut runtime = match load.role {
        Some(Role::EmptyServer) => runtime::Builder::new_multi_thread(),
        _ => runtime::Builder::new_current_thread(),
    };
    runtime.enable_all().build()?.block_on(run(load))
}

async fn run(load: Load) -> Result<(), Box<dyn Error>> {
    if let (Some(role), Some(socket)) = (load.role, &load.socket) {
        return child::run(role, socket).await;
    }
    let target = load.socket.clone().zip(load.pid).map(|(socket, pid)| Target { socket, pid });
    let subjects = if load.subjects.is_empty() { &Subject::ALL[..] } else { &load.subjects };
    if !load.json {
        report::print_heading();
    }
    for subject in subjects {
        let figures = match &target {
            Some(target) => subject.of_a_socket(target, &load).await,
            None => subject.of_our_own(&load).await,
        };
        figures.iter().for_each(|figure| figure.print(load.json));
    }
    Ok(())
}
