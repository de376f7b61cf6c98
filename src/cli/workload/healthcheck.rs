//! `bonafide healthcheck`: whether workloads are served, asked as a workload would, by gRPC health on their socket.

use std::error::Error as _;
use std::time::Duration;

use serde::Serialize;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::screen::OutputArguments;
use crate::cli::screen::Screen;
use crate::cli::sockets::WorkloadSocket;
use crate::cli::workload::client::block_on;
use crate::cli::workload::client::connect;
use crate::cli::workload::client::refused;
use crate::cli::workload::client::with_header;

/// How long a healthy daemon may take.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// Tell whether workloads are served: exit 0 if so, 1 if not, 3 without a daemon
#[derive(Debug, clap::Args)]
pub struct HealthcheckArguments {
    #[command(flatten)]
    socket: WorkloadSocket,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, Serialize)]
struct Health {
    ready: bool,
}

pub(in crate::cli) fn run(arguments: &HealthcheckArguments, screen: &mut Screen) -> Result<Exit, Failure> {
    let socket = arguments.socket.path()?;
    let ready = block_on(ANSWER_TIME, async {
        let question = with_header(HealthCheckRequest::default());
        match HealthClient::new(connect(&socket).await?).check(question).await {
            Ok(answer) => Ok(answer.get_ref().status() == ServingStatus::Serving),
            // What is no daemon does not answer at all; a daemon may say that it has no room.
            Err(status) if status.source().is_some() => Err(refused(&status)),
            Err(_) => Ok(false),
        }
    })?;
    screen.answer(arguments.output, &Health { ready }, |health| {
        if health.ready { "ready\n" } else { "not ready; bonafide status says why\n" }.to_owned()
    });
    Ok(if ready { Exit::Fine } else { Exit::No })
}
