//! The executor that the HTTP/2 engine hands its streams to, and the poll of both.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::Wake;
use std::task::Waker;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::task::AtomicWaker;
use tokio::io::AsyncWrite;

use crate::endpoints::transport::http2::turn::TurnBuffer;
use crate::fairness::OutOfBytes;

/// So many streams end in one turn: what they answered leaves together, and then another connection has its turn.
const ENDED_TOGETHER: usize = 8;
/// So often engine and streams are polled in one turn.
const ROUNDS: usize = 16;

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
    turn: Arc<TurnWakes>,
    waker: Waker,
}

/// The wakes of a connection's task: during its turn they are noted, and end no turn.
#[derive(Default)]
struct TurnWakes {
    is_running: AtomicBool,
    woken: AtomicBool,
    task: AtomicWaker,
}

impl TurnWakes {
    fn begin(self: &Arc<Self>, task: &Waker) -> RunningTurn {
        self.task.register(task);
        self.is_running.store(true, Ordering::SeqCst);
        RunningTurn(Arc::clone(self))
    }

    /// Whether something could go on since the last question.
    fn take(&self) -> bool {
        self.woken.swap(false, Ordering::SeqCst)
    }
}

/// A turn, until it is dropped.
struct RunningTurn(Arc<TurnWakes>);

impl Drop for RunningTurn {
    /// RACE: a wake from another thread stores `woken` and then reads `is_running`; this stores `is_running` and then reads
    /// `woken`. So one of the two wakes the task, or both.
    fn drop(&mut self) {
        self.0.is_running.store(false, Ordering::SeqCst);
        if self.0.take() {
            self.0.task.wake();
        }
    }
}

impl Wake for TurnWakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        if !self.is_running.load(Ordering::SeqCst) {
            self.take();
            self.task.wake();
        }
    }
}

impl StreamExecutor {
    /// An executor, and the streams that it was given.
    pub(super) fn new() -> (Self, RunningStreams) {
        let executor = Self::default();
        let turn = Arc::new(TurnWakes::default());
        let waker = Waker::from(Arc::clone(&turn));
        (executor.clone(), RunningStreams { opened: executor, running: FuturesUnordered::new(), turn, waker })
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
    /// One turn: polls the engine and the streams until none of them can go on, or as many have ended as may in a turn. What
    /// streams have given the engine, it writes in the same turn, and all of that leaves at the end.
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
        let (_turn, waker) = (self.turn.begin(cx.waker()), self.waker.clone());
        let cx = &mut Context::from_waker(&waker);
        let mut ended = 0;
        for _ in 0..ROUNDS {
            self.turn.take();
            if let Poll::Ready(result) = engine.as_mut().poll(cx) {
                return Poll::Ready(result.map_err(ConnectionError::from));
            }
            self.running.extend(std::mem::take(&mut *self.opened.opened()));
            while ended < ENDED_TOGETHER && matches!(self.running.poll_next_unpin(cx), Poll::Ready(Some(()))) {
                ended += 1;
                cx.waker().wake_by_ref(); // the engine may have something to write
            }
            if !self.turn.take() {
                break;
            }
            if ended == ENDED_TOGETHER {
                cx.waker().wake_by_ref();
                break;
            }
        }
        // A socket that takes no more wakes this task when it does.
        match output.poll_leave(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }
}
