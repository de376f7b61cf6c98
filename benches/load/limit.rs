//! The machine's own limit: a bare HTTP/2 server over the same kind of socket, on one thread. No checks, no log; the
//! answers are those of the daemon, byte for byte.

use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::BufMut as _;
use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;
use http::HeaderValue;
use http::Request;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Body;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixListener;
use tokio::process::Child;
use tokio::time::Instant;

use crate::child;
use crate::child::Role;
use crate::client;
use crate::measure::raw::Signer;

/// What the server does for a call besides answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Nothing.
    Nothing,
    /// The least cryptography that the daemon's answer takes: a token's signature, a key with a certificate's
    /// signature, or the verification of a token.
    Cryptography,
}

/// The server in its own process, killed on drop.
pub(crate) struct LimitServer {
    pub(crate) process: Child,
    pub(crate) socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl LimitServer {
    /// Starts a server that gives the answers of the daemon at `like`. Returns after its first response, with the time
    /// until then.
    pub(crate) async fn start(work: Work, like: &Path) -> (Self, Duration) {
        let directory = tempfile::Builder::new().permissions(child::for_all()).tempdir().expect("a directory");
        let socket = directory.path().join("limit.sock");
        for (method, message) in client::answers(like).await.expect("the daemon answers every call") {
            fs::write(directory.path().join(method), message).expect("a file");
        }
        let role = match work {
            Work::Nothing => Role::EmptyLimit,
            Work::Cryptography => Role::Limit,
        };
        let begin = Instant::now();
        let process = child::spawn(role, &socket, None);
        while client::first_svid(&socket).await.is_err() {
            assert!(begin.elapsed() < Duration::from_secs(10), "the limit server does not start");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        (Self { process, socket, _directory: directory }, begin.elapsed())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id().expect("it runs as long as this value lives")
    }
}

struct Limit {
    work: Work,
    signer: Signer,
    svid: Bytes,
    token: Bytes,
    valid: Bytes,
}

/// Serves until this process is killed. The answers lie beside the socket.
pub(crate) async fn serve(socket: &Path, work: Work) -> Result<(), Box<dyn std::error::Error>> {
    let answer = |method: &str| fs::read(socket.with_file_name(method)).map(Bytes::from);
    let limit = Limit {
        work,
        signer: Signer::new(),
        svid: answer(client::FETCH_X509)?,
        token: answer(client::FETCH_TOKEN)?,
        valid: answer(client::VALIDATE)?,
    };
    let limit = Arc::new(limit);
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, child::for_all())?;
    loop {
        let (stream, _) = listener.accept().await?;
        let limit = Arc::clone(&limit);
        let service = service_fn(move |request| answer_to(Arc::clone(&limit), request));
        tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer_to(limit: Arc<Limit>, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    let (head, body) = request.into_parts();
    let asked = body.collect().await;
    std::hint::black_box(&asked);
    let works = limit.work == Work::Cryptography;
    let (message, then) = match head.uri.path().rsplit('/').next() {
        Some(client::FETCH_X509) => {
            if works {
                limit.signer.key_and_signature();
            }
            (&limit.svid, Then::StaysOpen)
        }
        Some(client::VALIDATE) => {
            if works {
                limit.signer.verify();
            }
            (&limit.valid, Then::Ends)
        }
        _ => {
            if works {
                std::hint::black_box(limit.signer.token());
            }
            (&limit.token, Then::Ends)
        }
    };
    let mut response = Response::new(Answer { message: Some(message.clone()), then });
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}

/// A message in its gRPC frame, as the answer has it.
pub(crate) fn framed(message: &impl Message) -> Vec<u8> {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).expect("a message of a few kilobytes"));
    message.encode(&mut frame).expect("the buffer grows");
    frame.into()
}

struct Answer {
    message: Option<Bytes>,
    then: Then,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Ends,
    Ended,
    StaysOpen,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(message) = self.message.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        match self.then {
            Then::StaysOpen => Poll::Pending,
            Then::Ended => Poll::Ready(None),
            Then::Ends => {
                self.then = Then::Ended;
                let status = ("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"));
                Poll::Ready(Some(Ok(Frame::trailers(HeaderMap::from_iter([status])))))
            }
        }
    }
}
