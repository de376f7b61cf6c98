//! The public socket as any other client sees it.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use tonic::transport::Channel;
use tonic::transport::Endpoint;

use crate::cli::operator::client::runtime;
use crate::cli::screen::Exit;
use crate::cli::screen::Failure;

/// Connects to the workload socket.
///
/// # Errors
/// [`Failure`] when nothing listens there.
pub(in crate::cli) async fn connect(socket: &Path) -> Result<Channel, Failure> {
    let unreachable = |why: String| {
        Failure::new(
            Exit::Unreachable,
            format!("the daemon cannot be reached at {}", socket.display()),
            why,
            "systemctl status bonafide, or name the socket with --socket or SPIFFE_ENDPOINT_SOCKET",
        )
    };
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))
        .map_err(|error| unreachable(root_cause(&error)))?;
    endpoint.connect().await.map_err(|error| unreachable(root_cause(&error)))
}

/// Runs one conversation, for at most `limit`.
///
/// # Errors
/// That of the conversation, or that it took too long.
pub(in crate::cli) fn block_on<T>(
    limit: Duration,
    conversation: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let timed = async { tokio::time::timeout(limit, conversation).await };
    runtime()?.block_on(timed).unwrap_or_else(|_| {
        Err(Failure::new(
            Exit::Unreachable,
            "the daemon does not answer",
            format!("it took the connection, but gave no answer within {} s", limit.as_secs()),
            "bonafide status",
        ))
    })
}

/// The innermost error, which is the one that says something.
fn root_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), root_cause)
}
