//! One connection from its first byte to its end: HTTP/2 with its limits, the clocks that close it, and every stream it
//! carries, all in one task. Knows that requests exist, not what they ask.

use std::convert::Infallible;
use std::future::Future;
use std::future::poll_fn;
use std::pin::Pin;
use std::pin::pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use http::Request;
use http::Response;
use hyper::body::Body;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::body::SizeHint;
use hyper::server::conn::http2;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower_service::Service as _;

use crate::endpoints::refusals;
use crate::endpoints::transport::RequestGate;
use crate::endpoints::transport::budgets::Budgets;
use crate::endpoints::transport::budgets::Limits;
use crate::endpoints::transport::budgets::StreamCharge;
use crate::endpoints::transport::wire::Wire;
use crate::entitlement::door::Ended;
use crate::entitlement::door::SecretGate;

const HEADER_LIST: u32 = 8 * 1024;
/// Above the largest request, so that one never waits for a window.
const STREAM_WINDOW: u32 = 80 * 1024;
const CONNECTION_WINDOW: u32 = 160 * 1024;
/// What the engine buffers of a stream beyond the message it was given last: a slow reader costs one update.
const SEND_BUFFER: usize = 8 * 1024;
const PENDING_RESETS: usize = 20;
const LOCAL_ERROR_RESETS: usize = 128;
/// From a request's header to its answer's: its message has to arrive, and a unary answer has to be made.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a connection whose caller has gone may take to say why; with the signal's own way it stays under 100 ms.
const LAST_WORD: Duration = Duration::from_millis(50);
/// How long a connection stays after GOAWAY without a stream, for requests that were sent before the client read it.
const GRACE: Duration = Duration::from_secs(1);

/// Serves one connection until either side ends it, a limit is reached, or `stop`.
pub(super) async fn serve(
    wire: Wire,
    gate: Arc<SecretGate>,
    routes: Routes,
    budgets: Budgets,
    stop: CancellationToken,
) {
    let limits = budgets.limits().clone();
    let mut ended = gate.connection().closed();
    let traffic = Arc::new(Traffic::default());
    let streams = Streams::default();
    let requests = Requests { gate, routes, budgets, traffic: traffic.clone() };
    let mut http = pin!(engine(&streams, &limits).serve_connection(TokioIo::new(wire), requests));
    let mut running = FuturesUnordered::new();
    let mut patience = Patience { since: Instant::now(), first_request: limits.first_request, idle: limits.idle };
    let mut going_away = false;
    let linger = loop {
        tokio::select! {
            biased;
            ended = &mut ended => break if ended == Ended::Stopping { limits.drain } else { LAST_WORD },
            () = stop.cancelled() => break limits.drain,
            silent = fell_silent(&traffic, &patience) => {
                if going_away || silent == Silent::BeforeFirstRequest {
                    break Duration::ZERO;
                }
                // SPEC: RFC 9113 §6.8: the engine sends GOAWAY with the largest stream number and a PING. Once the PING is
                // acknowledged, it sends GOAWAY with the last stream, and closes when every stream has ended.
                http.as_mut().graceful_shutdown();
                going_away = true;
                patience = Patience { since: Instant::now(), idle: GRACE, ..patience };
            }
            result = poll_fn(|cx| drive(http.as_mut(), &streams, &mut running, cx)) => return log_end(result),
        }
    };
    http.as_mut().graceful_shutdown();
    let rest = poll_fn(|cx| drive(http.as_mut(), &streams, &mut running, cx));
    if let Ok(result) = tokio::time::timeout(linger, rest).await {
        log_end(result);
    }
}

fn engine(streams: &Streams, limits: &Limits) -> http2::Builder<Streams> {
    let mut engine = http2::Builder::new(streams.clone());
    engine
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_LIST)
        .max_concurrent_streams(limits.streams_per_connection)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(LOCAL_ERROR_RESETS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .auto_date_header(false);
    engine
}

/// How long nobody may ask anything, counted from `since` at the earliest.
struct Patience {
    since: Instant,
    first_request: Duration,
    idle: Duration,
}

#[derive(PartialEq, Eq)]
enum Silent {
    BeforeFirstRequest,
    Idle,
}

/// Resolves when nobody has asked anything for too long. Nobody tells it of a request: it looks when the time could be
/// over, which costs a connection less than to be woken twice for each.
async fn fell_silent(traffic: &Traffic, patience: &Patience) -> Silent {
    loop {
        let (deadline, silent) = match *traffic.now() {
            Now::AwaitingFirstRequest => (patience.since + patience.first_request, Silent::BeforeFirstRequest),
            Now::Open(_) => (Instant::now() + patience.idle, Silent::Idle),
            Now::Silent { since } => (since.max(patience.since) + patience.idle, Silent::Idle),
        };
        if deadline <= Instant::now() {
            return silent;
        }
        tokio::time::sleep_until(deadline).await;
    }
}

fn log_end(result: hyper::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(why = %error, cause = std::error::Error::source(&error).map(tracing::field::display), "connection ended");
    }
}

/// Polls the HTTP/2 engine and the streams it has handed out.
fn drive<C>(
    mut http: Pin<&mut C>,
    streams: &Streams,
    running: &mut FuturesUnordered<BoxFuture<'static, ()>>,
    cx: &mut Context<'_>,
) -> Poll<hyper::Result<()>>
where
    C: Future<Output = hyper::Result<()>>,
{
    loop {
        if let Poll::Ready(result) = http.as_mut().poll(cx) {
            return Poll::Ready(result);
        }
        running.extend(streams.take());
        if !matches!(running.poll_next_unpin(cx), Poll::Ready(Some(()))) {
            return Poll::Pending;
        }
    }
}

/// Where the engine puts the streams it opens. No task is made for them: they live and die with the connection.
#[derive(Debug, Clone, Default)]
struct Streams(Arc<Mutex<Vec<Opened>>>);

struct Opened(BoxFuture<'static, ()>);

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Opened(..)")
    }
}

impl Streams {
    fn take(&self) -> impl Iterator<Item = BoxFuture<'static, ()>> + use<> {
        let opened = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        opened.into_iter().map(|opened| opened.0)
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Opened(Box::pin(stream)));
    }
}

/// What goes on on a connection.
#[derive(Debug, Default)]
struct Traffic(Mutex<Now>);

#[derive(Debug, Clone, Copy, Default)]
enum Now {
    #[default]
    AwaitingFirstRequest,
    /// How many streams are open.
    Open(usize),
    /// None is, any more.
    Silent { since: Instant },
}

impl Traffic {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open stream; counted until dropped.
struct OpenStream {
    traffic: Arc<Traffic>,
    _charge: Option<StreamCharge>,
}

impl OpenStream {
    fn count(traffic: &Arc<Traffic>, charge: Option<StreamCharge>) -> Self {
        let mut now = traffic.now();
        *now = Now::Open(if let Now::Open(streams) = *now { streams + 1 } else { 1 });
        drop(now);
        Self { traffic: traffic.clone(), _charge: charge }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut now = self.traffic.now();
        *now = match *now {
            Now::Open(streams @ 2..) => Now::Open(streams - 1),
            _ => Now::Silent { since: Instant::now() },
        };
    }
}

/// The requests of one connection.
struct Requests {
    gate: Arc<SecretGate>,
    routes: Routes,
    budgets: Budgets,
    traffic: Arc<Traffic>,
}

impl hyper::service::Service<Request<Incoming>> for Requests {
    type Response = Response<Counted>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let charge = match self.budgets.stream(self.gate.connection().principal()) {
            Ok(charge) => charge,
            Err(why) => {
                let open = OpenStream::count(&self.traffic, None);
                let refused = refusals::over_budget(why).into_http();
                return Box::pin(std::future::ready(Ok(refused.map(|body| Counted { body, _open: open }))));
            }
        };
        let open = OpenStream::count(&self.traffic, Some(charge));
        request.extensions_mut().insert(RequestGate(self.gate.clone()));
        let answer = tokio::time::timeout(ANSWER, self.routes.clone().call(request));
        Box::pin(async move {
            let response = match answer.await {
                Ok(response) => response?,
                Err(_) => refusals::too_slow().into_http(),
            };
            Ok(response.map(|body| Counted { body, _open: open }))
        })
    }
}

/// A response body that holds its stream's charge.
struct Counted {
    body: tonic::body::Body,
    _open: OpenStream,
}

impl Body for Counted {
    type Data = bytes::Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, tonic::Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
