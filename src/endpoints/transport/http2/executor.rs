//! The executor that the HTTP/2 engine hands its streams to, and the poll of both.

use std::fmt;
use std::future::Future;
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
    /// Polls the engine, and then the streams until none of them can go on. A stream that ended may have given the engine
    /// something to do, so that is polled again.
    pub(super) fn poll_with<C>(&mut self, mut engine: Pin<&mut C>, cx: &mut Context<'_>) -> Poll<hyper::Result<()>>
    where
        C: Future<Output = hyper::Result<()>>,
    {
        loop {
            if let Poll::Ready(result) = engine.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            self.running.extend(std::mem::take(&mut *self.opened.opened()));
            if !matches!(self.running.poll_next_unpin(cx), Poll::Ready(Some(()))) {
                return Poll::Pending;
            }
        }
    }
}
