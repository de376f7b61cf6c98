//! The small HTTP/1.1 server of the operator's doors: one request per connection, no body, little time. Knows no
//! question.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::StreamExt;
use futures_util::TryStreamExt;
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
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::wrappers::UnixListenerStream;

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

/// Where a door for this machine listens: a loopback address or a Unix socket, never anywhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// `127.0.0.1:9090` or `[::1]:9090`
    Loopback(SocketAddr),
    /// `unix:/run/bonafide/metrics.sock`
    Unix(PathBuf),
}

/// Why a text is not a [`ListenAddress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidListenAddress {
    /// Neither form.
    #[error("is no address; write \"127.0.0.1:9090\" or \"unix:/run/bonafide/metrics.sock\"")]
    Form,
    /// An address that other machines reach.
    #[error("is reached by other machines; write a loopback address, for example \"127.0.0.1:9090\"")]
    NotLoopback,
}

impl FromStr for ListenAddress {
    type Err = InvalidListenAddress;

    fn from_str(text: &str) -> Result<Self, InvalidListenAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").filter(|rest| rest.starts_with('/')).unwrap_or(path);
            let absolute = path.starts_with('/') && !path.starts_with("//");
            return if absolute { Ok(Self::Unix(path.into())) } else { Err(InvalidListenAddress::Form) };
        }
        let address: SocketAddr = text.parse().map_err(|_| InvalidListenAddress::Form)?;
        if address.ip().is_loopback() { Ok(Self::Loopback(address)) } else { Err(InvalidListenAddress::NotLoopback) }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A bound [`ListenAddress`].
#[derive(Debug)]
pub enum Listener {
    /// On loopback.
    Tcp(TcpListener),
    /// On a Unix socket, which whoever bound it also removes.
    Unix(UnixListener),
}

/// Answers every connection on `listener` by `answer`; runs until it is dropped, and its connections with it.
pub(in crate::endpoints) async fn serve<F, A>(listener: Listener, answer: F)
where
    F: Fn(Parts) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    let limit = HEAD_TIME * 2;
    match listener {
        Listener::Tcp(listener) => {
            accept(TcpListenerStream::new(listener).map_ok(|stream| one_request(stream, answer.clone(), limit))).await;
        }
        Listener::Unix(listener) => {
            accept(UnixListenerStream::new(listener).map_ok(|stream| one_request(stream, answer.clone(), limit))).await;
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_for_this_machine_listens_nowhere_else() {
        for text in ["127.0.0.1:9090", "[::1]:9090", "127.8.8.8:1", "unix:/run/a.sock"] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
        for text in ["0.0.0.0:9090", "[::]:9090", "192.0.2.1:80", "[::ffff:127.0.0.1]:80"] {
            assert_eq!(text.parse::<ListenAddress>(), Err(InvalidListenAddress::NotLoopback), "{text}");
        }
        for text in ["", "localhost:80", "9090", "127.0.0.1", "unix:", "unix:a.sock", "unix://run/a", "/run/a.sock"] {
            assert_eq!(text.parse::<ListenAddress>(), Err(InvalidListenAddress::Form), "{text}");
        }
    }
}
