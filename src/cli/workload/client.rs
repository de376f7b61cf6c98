//! The public socket as any other client sees it.

use std::error::Error as _;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use tonic::Code;
use tonic::IntoRequest;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::Streaming;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::transport::Endpoint;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::cli::operator::client::runtime;
use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::words::printable;
use crate::endpoints::workload_api::proto::spiffe_workload_api_client::SpiffeWorkloadApiClient;

/// The largest answer that is taken: many identities, each with the bundles of many trust domains.
const MAX_ANSWER: usize = 64 << 20;

type Api = SpiffeWorkloadApiClient<Channel>;

/// A client of the Workload API.
pub(in crate::cli) struct Client(Api);

impl Client {
    /// Connects to the workload socket.
    ///
    /// # Errors
    /// [`Failure`] when nothing listens there.
    pub(in crate::cli) async fn connect(socket: &Path) -> Result<Self, Failure> {
        Ok(Self(Api::new(connect(socket).await?).max_decoding_message_size(MAX_ANSWER)))
    }

    /// The one answer to a question, or the refusal as it came.
    ///
    /// # Errors
    /// [`Status`]
    pub(in crate::cli) async fn ask<Q, A>(
        &mut self,
        question: Q,
        call: impl AsyncFnOnce(&mut Api, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, Status> {
        Ok(call(&mut self.0, with_header(question)).await?.into_inner())
    }

    /// The one answer to a question.
    ///
    /// # Errors
    /// [`Failure`] when it is refused.
    pub(in crate::cli) async fn one<Q, A>(
        &mut self,
        question: Q,
        call: impl AsyncFnOnce(&mut Api, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, Failure> {
        self.ask(question, call).await.map_err(|status| refused(&status))
    }

    /// The first of a stream of answers.
    ///
    /// # Errors
    /// [`Failure`] when it is refused, or ends before.
    pub(in crate::cli) async fn first<Q, A>(
        &mut self,
        question: Q,
        call: impl AsyncFnOnce(&mut Api, Request<Q>) -> Result<Response<Streaming<A>>, Status>,
    ) -> Result<A, Failure> {
        let mut answers = self.one(question, call).await?;
        let first = answers.message().await.map_err(|status| refused(&status))?;
        first.ok_or_else(|| not_understood("a stream that ended before its first message"))
    }
}

/// A request as the workload socket takes it, whatever the service (SPEC: SPIFFE Workload Endpoint, the security header).
pub(in crate::cli) fn with_header<Q>(question: Q) -> Request<Q> {
    let mut request = question.into_request();
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

/// Connects to the workload socket, for any service on it.
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

/// A refusal by the daemon as a failure of the command.
pub(in crate::cli) fn refused(status: &Status) -> Failure {
    let why = printable(&status.source().map_or_else(|| status.message().to_owned(), root_cause));
    let explain = decision_in(status.message()).map_or_else(
        || "bonafide status".to_owned(),
        |decision| format!("bonafide explain --denial {decision} (as root)"),
    );
    match status.code() {
        Code::PermissionDenied => Failure::new(Exit::Denied, "the daemon gave this process nothing", why, explain),
        Code::InvalidArgument => {
            Failure::new(Exit::Usage, "the daemon did not take the question", why, "bonafide help fetch jwt")
        }
        Code::Unavailable if decision_in(status.message()).is_some() => {
            Failure::new(Exit::No, "the daemon cannot issue to this process now", why, explain)
        }
        _ => {
            let next = "bonafide status, or name the workload socket with --socket";
            Failure::new(Exit::Unreachable, "the daemon gave no answer", why, next)
        }
    }
}

/// The daemon answered, but not as the standard says.
pub(in crate::cli) fn not_understood(what: &str) -> Failure {
    let next = "bonafide version, and restart the daemon after an upgrade";
    Failure::new(Exit::No, "the daemon's answer is not understood", printable(what), next)
}

/// The certificates that lie in `der` one after the other (SPEC: Workload API, `X509SVID`).
///
/// # Errors
/// [`Failure`] when there is anything else.
pub(in crate::cli) fn certificates(mut der: &[u8]) -> Result<Vec<&[u8]>, Failure> {
    let mut certificates = Vec::new();
    while !der.is_empty() {
        let (rest, _) =
            X509Certificate::from_der(der).map_err(|error| not_understood(&format!("a certificate: {error}")))?;
        let (one, after) = der.split_at(der.len() - rest.len());
        certificates.push(one);
        der = after;
    }
    Ok(certificates)
}

/// The `d-…` in a refusal.
fn decision_in(message: &str) -> Option<&str> {
    let id = message.rsplit_once("(")?.1.strip_suffix(')')?;
    let digits = id.strip_prefix("d-")?;
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// The innermost error, which is the one that says something.
fn root_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), root_cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_leads_to_its_explanation() {
        let denied = refused(&Status::permission_denied("no identity issued (d-7f31c2a90b4e)"));
        assert_eq!(denied.exit, Exit::Denied);
        assert_eq!(denied.next, "bonafide explain --denial d-7f31c2a90b4e (as root)");
        assert_eq!(refused(&Status::unavailable("no identity issued (d-7f31c2a90b4e)")).exit, Exit::No);
        assert_eq!(refused(&Status::unavailable("broken pipe")).exit, Exit::Unreachable);
        assert_eq!(decision_in("no identity issued (d-; rm -rf)"), None);
    }
}
