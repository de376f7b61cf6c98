//! Questions to the running daemon over its admin socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::Request;
use http::StatusCode;
use http_body_util::BodyExt;
use http_body_util::Empty;
use http_body_util::Limited;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::endpoints::admin::reports::Problem;

/// The longest answer that is read.
const MAX_ANSWER: usize = 64 << 20;
/// How long the daemon may take; a reload resolves names.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// What the daemon said.
#[derive(Debug)]
pub(in crate::cli) enum Answer<R> {
    /// The report that was asked for.
    Report(R),
    /// Why there is none.
    Problem(Problem),
}

/// Puts one question.
///
/// # Errors
/// [`Failure`] when there is no answer: the daemon cannot be reached, or lets us not in.
pub(in crate::cli) fn ask<R: DeserializeOwned>(
    socket: &Path,
    method: Method,
    question: &str,
) -> Result<Answer<R>, Failure> {
    let runtime = runtime()?;
    let timed = async { tokio::time::timeout(ANSWER_TIME, exchange(socket, method, question)).await };
    let (status, body) =
        runtime.block_on(timed).unwrap_or(Err(Failed::TooSlow)).map_err(|failed| failed.explain(socket))?;
    let unreadable = |error: serde_json::Error| Failed::NotAnswered(error.to_string()).explain(socket);
    if status == StatusCode::OK {
        serde_json::from_slice(&body).map(Answer::Report).map_err(unreadable)
    } else {
        serde_json::from_slice(&body).map(Answer::Problem).map_err(unreadable)
    }
}

/// A runtime for one question.
///
/// # Errors
/// [`Failure`] when this machine has no descriptor left for it.
pub(in crate::cli) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Failure::new(Exit::Unreachable, "cannot ask the daemon", error.to_string(), "ulimit -n; bonafide status")
    })
}

enum Failed {
    Connect(io::Error),
    Closed,
    TooSlow,
    NotAnswered(String),
}

impl Failed {
    fn explain(self, socket: &Path) -> Failure {
        let socket = socket.display();
        let unreachable = format!("the daemon cannot be reached at {socket}");
        let only = "only root, the daemon's own user and the group named in [admin] may ask".to_owned();
        match self {
            Self::Connect(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Failure::new(Exit::Denied, "the daemon's admin socket is not for this user", only, "sudo bonafide ...")
            }
            Self::Connect(error) if error.kind() == io::ErrorKind::NotFound => Failure::new(
                Exit::Unreachable,
                unreachable,
                "there is no such socket: the daemon does not run, or listens elsewhere",
                "systemctl status bonafide, or name the socket with --admin-socket or --config",
            ),
            Self::Connect(error) => {
                Failure::new(Exit::Unreachable, unreachable, error.to_string(), "systemctl status bonafide")
            }
            Self::Closed => Failure::new(
                Exit::Denied,
                format!("the daemon closed the connection at {socket} without an answer"),
                only,
                "sudo bonafide ..., or journalctl -u bonafide if that was root",
            ),
            Self::TooSlow => Failure::new(
                Exit::Unreachable,
                "the daemon does not answer",
                format!("it took the question, but gave no answer within {} s", ANSWER_TIME.as_secs()),
                "systemctl status bonafide",
            ),
            Self::NotAnswered(why) => Failure::new(
                Exit::Unreachable,
                format!("what answers at {socket} is not this version of the daemon"),
                why,
                "bonafide version, and restart the daemon after an upgrade",
            ),
        }
    }
}

async fn exchange(socket: &Path, method: Method, question: &str) -> Result<(StatusCode, Bytes), Failed> {
    let stream = UnixStream::connect(socket).await.map_err(Failed::Connect)?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| Failed::NotAnswered(error.to_string()))?;
    // Ends with the runtime, which ends with the answer.
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(question)
        .header(http::header::HOST, "bonafide")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failed::NotAnswered(error.to_string()))?;
    let answer = sender
        .send_request(request)
        .await
        .map_err(|error| if error.is_parse() { Failed::NotAnswered(error.to_string()) } else { Failed::Closed })?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    Ok((status, body.map_err(|error| Failed::NotAnswered(error.to_string()))?.to_bytes()))
}
