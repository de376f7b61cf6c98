//! The small HTTP/1.1 server of the operator's doors: one request per connection, no body, little time. Knows no
//! question.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use futures_util::stream::unfold;
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
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::TcpListenerStream;

use crate::endpoints::transport::listener::Listener as UnixSocket;

/// A whole answer.
pub(in crate::endpoints) type Answer = Response<Full<Bytes>>;

/// Connections served at once; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 32;
/// The longest head of a request.
const MAX_HEAD: usize = 16 * 1024;
/// From the accept to the end of the request's head.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// After a failed accept (no descriptor left), so that the loop does not spin.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Looks for the name of a Unix socket, so that it is back within two seconds.
const NAME_CHECK: Duration = Duration::from_secs(1);

/// Where a door for this machine listens.
#[derive(Debug)]
pub enum HttpListener {
    /// On loopback.
    Loopback(TcpListener),
    /// On a Unix socket.
    Unix(UnixSocket),
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
    A: Future<Output = Answer> + Send + 'static,
{
    let limit = HEAD_TIME * 2;
    match listener {
        HttpListener::Loopback(listener) => {
            accept(TcpListenerStream::new(listener).map_ok(|stream| one_request(stream, answer.clone(), limit))).await;
        }
        HttpListener::Unix(listener) => {
            accept(connections_on(listener).map_ok(|stream| one_request(stream, answer.clone(), limit))).await;
        }
    }
}

/// The connections that arrive at `listener`, whose name is kept.
pub(in crate::endpoints) fn connections_on(listener: UnixSocket) -> impl Stream<Item = io::Result<UnixStream>> + Unpin {
    let mut name_check = tokio::time::interval(NAME_CHECK);
    name_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Box::pin(unfold((listener, name_check), |(mut listener, mut name_check)| async move {
        loop {
            tokio::select! {
                biased;
                _ = name_check.tick() => {
                    if let Err(error) = listener.keep_name() {
                        tracing::warn!(%error, "a socket of the operator has lost its name");
                    }
                }
                accepted = listener.socket().accept() => {
                    return Some((accepted.map(|(stream, _)| stream), (listener, name_check)));
                }
            }
        }
    }))
}

/// Runs every connection that comes in, so many at once; runs until it is dropped, and all connections with it.
pub(in crate::endpoints) async fn accept<C>(mut incoming: impl Stream<Item = io::Result<C>> + Unpin)
where
    C: Future<Output = ()> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        while connections.try_join_next().is_some() {}
        match incoming.next().await {
            Some(Ok(connection)) => {
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "cannot accept a connection of the operator");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
            None => return,
        }
    }
}

/// Reads one request from `io`, answers it and closes, all within `limit`.
pub(in crate::endpoints) async fn one_request<I, F, A>(io: I, answer: F, limit: Duration)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Parts) -> A + Send + Sync,
    A: Future<Output = Answer> + Send,
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
        .serve_connection(TokioIo::new(io), service);
    if let Ok(Err(error)) = tokio::time::timeout(limit, pin!(connection)).await {
        tracing::debug!(%error, "a connection of the operator ended early");
    }
}

/// An answer with a body of one kind.
pub(in crate::endpoints) fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    answer
}
