//! `bonafide healthcheck`: whether workloads are served, asked as a workload would, by gRPC health on their socket.

use std::time::Duration;

use serde::Serialize;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::screen::Format;
use crate::cli::screen::OutputArguments;
use crate::cli::screen::Screen;
use crate::cli::sockets::WorkloadSocket;
use crate::cli::workload::client::block_on;
use crate::cli::workload::client::connect;
use crate::cli::workload::client::with_header;

/// How long a healthy daemon may take.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// Exit 0 when workloads are served, else 1
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    socket: WorkloadSocket,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, Serialize)]
struct Health {
    ready: bool,
}

pub(in crate::cli) fn run(arguments: &Arguments, screen: &mut Screen) -> Result<Exit, Failure> {
    let socket = arguments.socket.path()?;
    let ready = block_on(ANSWER_TIME, async {
        let question = with_header(HealthCheckRequest::default());
        let answer = HealthClient::new(connect(&socket).await?).check(question).await;
        Ok(answer.is_ok_and(|answer| answer.get_ref().status() == ServingStatus::Serving))
    })?;
    match arguments.output.output {
        Format::Json => screen.json(&Health { ready }),
        Format::Text => screen.text(if ready { "ready\n" } else { "not ready; bonafide status says why\n" }),
    }
    Ok(if ready { Exit::Fine } else { Exit::No })
}
