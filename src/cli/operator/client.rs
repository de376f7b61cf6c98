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
use rustix::net::AddressFamily;
use rustix::net::SocketAddrUnix;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use rustix::net::sockopt::Timeout;
use rustix::process::geteuid;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::endpoints::admin::reports::ErrorReport;

/// The longest answer that is read.
const MAX_ANSWER: usize = 64 << 20;
/// How long the daemon may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// How long it may take to do something: a reload resolves names.
const WORK_TIME: Duration = Duration::from_secs(60);

/// Puts one question. `no_answer` says what it means when the daemon has no report but a problem.
///
/// # Errors
/// [`Failure`] when there is no report: the daemon cannot be reached, lets us not in, or says why not.
pub(in crate::cli) fn ask<R: DeserializeOwned>(
    socket: &Path,
    method: Method,
    question: &str,
    no_answer: impl FnOnce(ErrorReport) -> Failure,
) -> Result<R, Failure> {
    let runtime = runtime()?;
    let limit = if method == Method::GET { ANSWER_TIME } else { WORK_TIME };
    let timed = async { tokio::time::timeout(limit, exchange(socket, method, question)).await };
    let answered = runtime.block_on(timed).unwrap_or(Err(Failed::TooSlow(limit)));
    let (status, body) = answered.map_err(|failed| failed.explain(socket))?;
    let unreadable = |error: serde_json::Error| Failed::NotAnswered(error.to_string()).explain(socket);
    if status == StatusCode::OK {
        return serde_json::from_slice(&body).map_err(unreadable);
    }
    Err(no_answer(serde_json::from_slice(&body).map_err(unreadable)?))
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
    TooSlow(Duration),
    NotAnswered(String),
}

impl Failed {
    fn explain(self, socket: &Path) -> Failure {
        let socket = socket.display();
        let unreachable = format!("the daemon cannot be reached at {socket}");
        let only = "only root, the daemon's own user and the group named in [admin] may ask, on the host or in the \
                    daemon's own container"
            .to_owned();
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
            // The admin socket closes on root whom the daemon cannot attest: in a container, or without CAP_SYS_PTRACE.
            Self::Closed if geteuid().is_root() => Failure::new(
                Exit::Unreachable,
                format!("what listens at {socket} closed the connection without an answer"),
                "it is not the daemon's admin socket, the daemon is stopping, or this is another container than the \
                 daemon's",
                "see why in the daemon's log; ask on the host or in its container, or name the socket with --admin-socket",
            ),
            Self::Closed => Failure::new(
                Exit::Denied,
                format!("the daemon closed the connection at {socket} without an answer"),
                only,
                "sudo bonafide ...",
            ),
            Self::TooSlow(limit) => Failure::new(
                Exit::Unreachable,
                "the daemon does not answer",
                format!("it took the question, but gave no answer within {} s", limit.as_secs()),
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

/// Waits for room in the listen queue, which others may have filled: a connect that does not block fails then.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(socket)?;
    let stream = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::sockopt::set_socket_timeout(&stream, Timeout::Send, Some(ANSWER_TIME))?;
    rustix::net::connect(&stream, &address)?;
    let stream = std::os::unix::net::UnixStream::from(stream);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

async fn exchange(socket: &Path, method: Method, question: &str) -> Result<(StatusCode, Bytes), Failed> {
    let stream = connect(socket).map_err(Failed::Connect)?;
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
