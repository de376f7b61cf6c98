//! The small HTTP/1.1 server of the operator's doors: one request per connection, no body, little time. Knows no
//! question.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use crate::endpoints::transport::accept::accept;
use crate::endpoints::transport::acceptor::Acceptor;
use crate::endpoints::transport::listener::Listener;
use crate::endpoints::transport::listener::NotBound;
use crate::endpoints::transport::unix::NamedListener;

/// A whole answer.
pub(in crate::endpoints) type HttpAnswer = Response<Full<Bytes>>;

/// Connections served at once; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 32;
/// The longest head of a request.
const MAX_HEAD: usize = 16 * 1024;
/// From the accept to the end of the request's head.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// Where a door of the operator listens.
#[derive(Debug)]
pub enum HttpListener {
    /// On loopback.
    Loopback(TcpListener),
    /// On a Unix socket.
    Unix(Listener),
}

impl HttpListener {
    /// Listens on a loopback address.
    ///
    /// # Errors
    /// What the kernel says; and `InvalidInput` for an address that other machines reach.
    pub async fn loopback(address: SocketAddr) -> io::Result<Self> {
        if !address.ip().is_loopback() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "other machines reach this address"));
        }
        TcpListener::bind(address).await.map(Self::Loopback)
    }
}

/// Answers every connection on `listener` by `answer`; runs until it is dropped, and its connections with it.
pub(in crate::endpoints) async fn serve<F, A>(listener: HttpListener, answer: F)
where
    F: Fn(Parts) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = HttpAnswer> + Send + 'static,
{
    let limit = HEAD_TIME * 2;
    match listener {
        HttpListener::Loopback(listener) => {
            serve_each(LoopbackAcceptor(listener), |stream| Some(one_request(stream, answer.clone(), limit))).await;
        }
        HttpListener::Unix(listener) => {
            let acceptor = OperatorAcceptor::new(listener);
            serve_each(acceptor, |stream| Some(one_request(stream, answer.clone(), limit))).await;
        }
    }
}

/// Runs what `admit` makes of each connection; runs until it is dropped, and all connections with it.
pub(in crate::endpoints) async fn serve_each<A, C>(mut acceptor: A, admit: impl Fn(A::Incoming) -> Option<C>)
where
    A: Acceptor,
    C: Future<Output = ()> + Send + 'static,
{
    accept(&mut acceptor, &mut JoinSet::new(), MAX_CONNECTIONS, admit).await;
}

struct LoopbackAcceptor(TcpListener);

impl Acceptor for LoopbackAcceptor {
    type Incoming = TcpStream;

    async fn next(&mut self) -> io::Result<TcpStream> {
        self.0.accept().await.map(|(stream, _)| stream)
    }
}

/// Accepts on a Unix socket of the operator, whose name is kept.
pub(in crate::endpoints) struct OperatorAcceptor {
    named: NamedListener,
    nameless: bool,
}

impl OperatorAcceptor {
    pub(in crate::endpoints) fn new(listener: Listener) -> Self {
        Self { named: NamedListener::new(listener), nameless: false }
    }
}

impl Acceptor for OperatorAcceptor {
    type Incoming = UnixStream;

    async fn next(&mut self) -> io::Result<UnixStream> {
        let Self { named, nameless } = self;
        let checked = |result: Result<(), NotBound>| {
            let was_nameless = std::mem::replace(nameless, result.is_err());
            if let (false, Err(error)) = (was_nameless, result) {
                tracing::warn!(%error, "a socket of the operator has lost its name");
            }
        };
        named.accept(checked).await
    }
}

/// Reads one request from `io`, answers it and closes, all within `limit`.
pub(in crate::endpoints) async fn one_request<I, F, A>(io: I, answer: F, limit: Duration)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Parts) -> A + Send + Sync,
    A: Future<Output = HttpAnswer> + Send,
{
    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
        let answer = answer(request.into_parts().0);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        // A request that has arrived is answered, and a reload done, although its client has closed its side.
        .half_close(true)
        .serve_connection(TokioIo::new(io), service);
    if let Ok(Err(error)) = tokio::time::timeout(limit, pin!(connection)).await {
        tracing::debug!(%error, "a connection of the operator ended early");
    }
}

/// An answer with a body of one kind.
pub(in crate::endpoints) fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> HttpAnswer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    answer
}
