//! The executor that the HTTP/2 engine hands its streams to, and the poll of both.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::task::Context;
use std::task::Poll;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::io::AsyncWrite;

use crate::endpoints::transport::http2::turn::TurnBuffer;
use crate::fairness::OutOfBytes;

/// So many streams end in one turn: what they answered leaves together, and then another connection has its turn.
const ENDED_TOGETHER: usize = 8;

/// Why a connection did not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    /// The engine gave up.
    #[error(transparent)]
    Engine(#[from] hyper::Error),
    /// Something could not leave.
    #[error(transparent)]
    Output(#[from] io::Error),
    /// The client does not read, and there are no bytes to keep more for it.
    #[error(transparent)]
    OutOfBytes(#[from] OutOfBytes),
}

/// Takes the future of every stream that the engine opens, and spawns no task for it.
#[derive(Clone, Default)]
pub(super) struct StreamExecutor(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

/// The open streams of one connection.
pub(super) struct RunningStreams {
    opened: StreamExecutor,
    running: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl StreamExecutor {
    /// An executor, and the streams that it was given.
    pub(super) fn new() -> (Self, RunningStreams) {
        let executor = Self::default();
        (executor.clone(), RunningStreams { opened: executor, running: FuturesUnordered::new() })
    }

    fn opened(&self) -> MutexGuard<'_, Vec<BoxFuture<'static, ()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        self.opened().push(Box::pin(stream));
    }
}

impl fmt::Debug for StreamExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamExecutor(..)")
    }
}

impl RunningStreams {
    /// One turn: polls the engine, and then the streams until none of them can go on, or as many have ended as may in a
    /// turn. Streams that ended may have given the engine something to do, so that is polled again. At the end of the turn
    /// what the engine has written leaves.
    pub(super) fn poll_with<C, S>(
        &mut self,
        mut engine: Pin<&mut C>,
        output: &TurnBuffer<S>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ConnectionError>>
    where
        C: Future<Output = hyper::Result<()>>,
        S: AsyncWrite + Unpin,
    {
        let mut ended = 0;
        loop {
            if let Poll::Ready(result) = engine.as_mut().poll(cx) {
                return Poll::Ready(result.map_err(ConnectionError::from));
            }
            self.running.extend(std::mem::take(&mut *self.opened.opened()));
            let before = ended;
            while ended < ENDED_TOGETHER && matches!(self.running.poll_next_unpin(cx), Poll::Ready(Some(()))) {
                ended += 1;
            }
            if ended == before {
                break;
            }
        }
        if ended == ENDED_TOGETHER {
            cx.waker().wake_by_ref();
        }
        // A socket that takes no more wakes this task when it does.
        match output.poll_leave(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }
}
