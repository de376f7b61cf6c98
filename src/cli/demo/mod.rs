//! `bonafide demo`: a throw-away node, two services that talk mTLS while their SVIDs rotate, and an impostor. [`story`]
//! tells it, on a [`node`] in a folder of its own, the [`stage`]; [`service`] is what runs in the services' own processes.

mod event;
mod event_log;
mod failure;
mod node;
mod service;
mod stage;
mod story;
mod tls;

use std::process::ExitCode;

use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use crate::cli::demo::failure::failed;
use crate::cli::demo::node::Plan;
use crate::cli::screen::Screen;

/// Watch a throw-away node give two services an identity
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DemoArguments {
    #[command(flatten)]
    plan: Plan,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What the demo starts as processes of their own.
#[derive(Debug, clap::Subcommand)]
enum Part {
    #[command(hide = true)]
    Daemon(stage::DaemonArguments),
    #[command(hide = true)]
    Service(service::ServiceArguments),
}

pub(in crate::cli) fn run(arguments: DemoArguments) -> ExitCode {
    if let Some(Part::Daemon(arguments)) = &arguments.part {
        return stage::run(arguments);
    }
    let mut screen = Screen::of_process();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return screen.finish(Err(failed("the runtime does not start", error))),
    };
    let answer = runtime.block_on(async {
        match arguments.part {
            Some(Part::Service(arguments)) => service::run(arguments).await,
            _ => tokio::select! {
                biased;
                () = stop_signal() => Err(failed("the demo was interrupted", "it received a signal to stop")),
                outcome = story::tell(arguments.plan, &mut screen) => outcome,
            },
        }
    });
    screen.finish(answer)
}

/// Resolves at a signal that would otherwise end the process with its children and files left behind.
async fn stop_signal() {
    let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    let waits = signals.into_iter().flatten().map(|mut signal| Box::pin(async move { signal.recv().await }));
    futures_util::future::select_all(waits).await;
}
