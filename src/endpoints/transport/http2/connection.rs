//! One connection from its first byte to its end: the engine and its limits, and the clocks that close it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::time::Instant;

use crate::endpoints::transport::accept::AdmittedConnection;
use crate::endpoints::transport::gate::GatedStream;
use crate::endpoints::transport::http2::activity::Activity;
use crate::endpoints::transport::http2::activity::IdleLimits;
use crate::endpoints::transport::http2::activity::TimedOut;
use crate::endpoints::transport::http2::activity::idle_timeout;
use crate::endpoints::transport::http2::executor::ConnectionError;
use crate::endpoints::transport::http2::executor::StreamExecutor;
use crate::endpoints::transport::http2::framing::Http2Framing;
use crate::endpoints::transport::http2::requests::GrpcRequests;
use crate::endpoints::transport::http2::requests::GrpcServices;
use crate::endpoints::transport::http2::turn::TurnBuffer;
use crate::endpoints::transport::http2::unsent::Unsent;
use crate::entitlement::door::Connection;
use crate::entitlement::door::Ended;
use crate::evidence::Principal;
use crate::fairness::Budgets;
use crate::fairness::HeldBytes;
use crate::fairness::Limits;

const HEADER_LIST: u32 = 8 * 1024;
/// Above the largest request, so that one never waits for a window. So much of a connection may wait to be read.
const WINDOW: u32 = 80 * 1024;
/// What the engine buffers of a stream beyond the message it was given last: a slow reader costs one update.
const SEND_BUFFER: usize = 8 * 1024;
const PENDING_RESETS: usize = 20;
const LOCAL_ERROR_RESETS: usize = 128;
/// How long a connection whose process has exited may take to send its last status; with the signal's own way it stays
/// under 100 ms.
const CLOSE_GRACE: Duration = Duration::from_millis(50);
/// How long a connection stays after GOAWAY without a stream, for requests that were sent before the client read it.
const GOAWAY_GRACE: Duration = Duration::from_secs(1);

/// Serves one connection until either side ends it, a limit is reached, or the door stops.
pub(super) async fn serve(admitted: AdmittedConnection<dyn Connection>, services: Arc<dyn GrpcServices>) {
    let AdmittedConnection { stream, connection, budgets, stop } = admitted;
    let limits = budgets.limits();
    let mut closed = connection.closed();
    let activity = Arc::new(Activity::default());
    let (executor, mut streams) = StreamExecutor::new();
    let unsent = Arc::new(Unsent::default());
    let mut backlog = Backlog::new(&budgets, connection.principal(), Arc::clone(&unsent));
    let stream = GatedStream::new(stream, connection, Http2Framing::carrying(Arc::clone(&unsent)));
    let requests =
        GrpcRequests { gate: stream.gate().clone(), services, budgets, activity: Arc::clone(&activity), unsent };
    let output = TurnBuffer::new(stream);
    let mut http = pin!(engine(executor, &limits).serve_connection(TokioIo::new(output.clone()), requests));
    let mut idle = IdleLimits { since: Instant::now(), first_request: limits.first_request, idle: limits.idle };
    let mut going_away = false;
    let grace = loop {
        tokio::select! {
            biased;
            ended = &mut closed => break if ended == Ended::Stopping { limits.drain } else { CLOSE_GRACE },
            () = stop.cancelled() => break limits.drain,
            timed_out = idle_timeout(&activity, &idle) => {
                if going_away || timed_out == TimedOut::FirstRequest {
                    break Duration::ZERO;
                }
                // SPEC: RFC 9113 §6.8: the engine sends GOAWAY with the largest stream number and a PING. Once the PING is
                // acknowledged, it sends GOAWAY with the last stream, and closes when every stream has ended.
                http.as_mut().graceful_shutdown();
                going_away = true;
                idle = IdleLimits { since: Instant::now(), idle: GOAWAY_GRACE, ..idle };
            }
            result = poll_fn(|cx| backlog.charge(streams.poll_with(http.as_mut(), &output, cx))) => return log_end(result),
        }
    };
    http.as_mut().graceful_shutdown();
    let rest = poll_fn(|cx| streams.poll_with(http.as_mut(), &output, cx));
    if let Ok(result) = tokio::time::timeout(grace, rest).await {
        log_end(result);
    }
}

/// What waits because the client does not read, charged to its principal.
struct Backlog {
    unsent: Arc<Unsent>,
    held: Option<HeldBytes>,
}

impl Backlog {
    fn new(budgets: &Budgets, principal: Principal, unsent: Arc<Unsent>) -> Self {
        Self { unsent, held: budgets.bytes().hold(principal, 0).ok() }
    }

    /// Charges what waits after a turn. Without bytes for it the connection ends.
    fn charge(&mut self, turn: Poll<Result<(), ConnectionError>>) -> Poll<Result<(), ConnectionError>> {
        let waiting = self.unsent.waiting();
        match self.held.as_mut().map_or(Ok(()), |bytes| bytes.resize(waiting)) {
            Err(why) if turn.is_pending() => Poll::Ready(Err(why.into())),
            _ => turn,
        }
    }
}

fn engine(executor: StreamExecutor, limits: &Limits) -> http2::Builder<StreamExecutor> {
    let mut engine = http2::Builder::new(executor);
    engine
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_LIST)
        .max_concurrent_streams(limits.streams_per_connection)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(LOCAL_ERROR_RESETS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .auto_date_header(false);
    engine
}

fn log_end(result: Result<(), ConnectionError>) {
    if let Err(error) = result {
        tracing::debug!(why = %error, cause = std::error::Error::source(&error).map(tracing::field::display), "connection ended");
    }
}
