//! The small HTTP/1.1 server of the operator's doors: one request per connection, no body, little time. Knows no
//! question.

mod host;
pub(in crate::endpoints) mod places;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
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
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::endpoints::http::host::NotForUs;
use crate::endpoints::http::places::HeldPlace;
use crate::endpoints::http::places::Places;
use crate::endpoints::transport::accept::accept;
use crate::endpoints::transport::acceptor::Acceptor;
use crate::endpoints::transport::listener::Listener;
use crate::endpoints::transport::listener::NotBound;
use crate::endpoints::transport::unix::NamedListener;
use crate::evidence::Principal;
use crate::fairness::Rate;
use crate::fairness::TokenBuckets;
use crate::fairness::Turns;

/// A whole answer.
pub(in crate::endpoints) type HttpAnswer = Response<Full<Bytes>>;

/// How fast a loopback door accepts. More wait in the listen queue: whoever connects in a loop costs a few percent of a
/// core.
const LOOPBACK_RATE: Rate = Rate { burst: 256, refill: Duration::from_micros(250) };
/// How fast a socket of the operator accepts connections of one user. More are closed at once, so that the listen queue
/// stays short for the others.
const OPERATORS_RATE: Rate = Rate { burst: 64, refill: Duration::from_millis(10) };
/// The most users that are told apart.
const MOST_OPERATORS: usize = 256;
/// Whom the connections of loopback are charged to: nothing says whose they are.
const STRANGERS: Principal = Principal::COMMON;
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
    let (limit, places) = (HEAD_TIME * 2, Places::default());
    match listener {
        HttpListener::Loopback(listener) => {
            let answer = move |request| answer_on_loopback(request, answer.clone());
            let admit = |stream| Some((STRANGERS, one_request(stream, answer.clone(), limit, places.take(None)?)));
            serve_each(LoopbackAcceptor::new(listener), admit).await;
        }
        HttpListener::Unix(listener) => {
            let admit = |stream: UnixStream| {
                let uid = stream.peer_cred().ok()?.uid();
                let place = places.take(Some(uid))?;
                Some((Principal::of_uid(uid), one_request(stream, answer.clone(), limit, place)))
            };
            serve_each(OperatorAcceptor::new(listener), admit).await;
        }
    }
}

async fn answer_on_loopback<A: Future<Output = HttpAnswer>>(
    request: Parts,
    respond: impl Fn(Parts) -> A,
) -> HttpAnswer {
    match host::check(&request) {
        Ok(()) => respond(request).await,
        Err(why @ NotForUs::NoHost) => answer(StatusCode::BAD_REQUEST, "text/plain", why.to_string()),
        Err(why @ NotForUs::AnotherHost) => answer(StatusCode::MISDIRECTED_REQUEST, "text/plain", why.to_string()),
    }
}

/// Runs what `admit` makes of each connection, in turns of those whom it is charged to; runs until it is dropped, and all
/// connections with it.
pub(in crate::endpoints) async fn serve_each<A, C>(
    mut acceptor: A,
    admit: impl Fn(A::Incoming) -> Option<(Principal, C)>,
) where
    A: Acceptor,
    C: Future<Output = ()> + Send + 'static,
{
    let turns = Turns::default();
    let admit = |incoming| {
        if let Some((principal, connection)) = admit(incoming) {
            turns.add(principal, |_| connection);
        }
        Ok(())
    };
    futures_util::future::join(accept(&mut acceptor, admit), turns.clone().run(CancellationToken::new())).await;
}

struct LoopbackAcceptor {
    listener: TcpListener,
    rate: TokenBuckets<()>,
    has_token: bool,
}

impl LoopbackAcceptor {
    fn new(listener: TcpListener) -> Self {
        Self { listener, rate: TokenBuckets::new(LOOPBACK_RATE, 1), has_token: false }
    }
}

impl Acceptor for LoopbackAcceptor {
    type Incoming = TcpStream;

    async fn next(&mut self) -> io::Result<TcpStream> {
        let_others_run().await;
        while !self.has_token {
            self.has_token = self.rate.take(&(), Instant::now());
            if !self.has_token {
                tokio::time::sleep(LOOPBACK_RATE.refill).await;
            }
        }
        let (stream, _) = self.listener.accept().await?;
        self.has_token = false;
        Ok(stream)
    }
}

/// SECURITY: a connection loses its place only after it had the chance to read a request that had arrived with it.
async fn let_others_run() {
    tokio::task::yield_now().await;
}

/// Accepts on a Unix socket of the operator, whose name is kept.
pub(in crate::endpoints) struct OperatorAcceptor {
    named: NamedListener,
    nameless: bool,
    rate: TokenBuckets<u32>,
}

impl OperatorAcceptor {
    pub(in crate::endpoints) fn new(listener: Listener) -> Self {
        let rate = TokenBuckets::new(OPERATORS_RATE, MOST_OPERATORS);
        Self { named: NamedListener::new(listener), nameless: false, rate }
    }
}

impl Acceptor for OperatorAcceptor {
    type Incoming = UnixStream;

    async fn next(&mut self) -> io::Result<UnixStream> {
        let_others_run().await;
        loop {
            let Self { named, nameless, rate } = self;
            let checked = |result: Result<(), NotBound>| {
                let was_nameless = std::mem::replace(nameless, result.is_err());
                if let (false, Err(error)) = (was_nameless, result) {
                    tracing::warn!(%error, "a socket of the operator has lost its name");
                }
            };
            let stream = UnixStream::from_std(named.accept(checked).await?.into())?;
            let Ok(peer) = stream.peer_cred() else { continue };
            // SECURITY: root is never turned away for what another process of root's does.
            if peer.uid() == 0 || rate.take(&peer.uid(), Instant::now()) {
                return Ok(stream);
            }
        }
    }
}

/// Reads one request from `io`, answers it and closes, all within `limit` and while it has its place.
pub(in crate::endpoints) async fn one_request<I, F, A>(io: I, answer: F, limit: Duration, place: HeldPlace)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Parts) -> A + Send + Sync,
    A: Future<Output = HttpAnswer> + Send,
{
    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
        place.request_arrived();
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
    tokio::select! {
        biased;
        ended = tokio::time::timeout(limit, connection) => if let Ok(Err(error)) = ended {
            tracing::debug!(%error, "a connection of the operator ended early");
        },
        () = place.lost() => tracing::debug!("a connection of the operator was closed for another"),
    }
}

/// An answer with a body of one kind.
pub(in crate::endpoints) fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> HttpAnswer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    answer
}
