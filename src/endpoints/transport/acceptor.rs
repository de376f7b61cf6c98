//! Where connections come from. An acceptor yields them one by one; what is behind one is asked in steps, so that a user
//! without budget is refused before anything is spent on it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;

use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;

use crate::attestation::kernel::Process;
use crate::attestation::kernel::Unanswered;
use crate::evidence::Credentials;

/// Where connections come from.
pub trait Acceptor: Send {
    /// A connection of which nothing is known yet.
    type Incoming: Send;

    /// The next connection. Cancel safe.
    ///
    /// # Errors
    /// Whatever the kernel says, `EMFILE` among it: the acceptor stays, and is asked again after a pause.
    fn next(&mut self) -> impl Future<Output = io::Result<Self::Incoming>> + Send;
}

/// A connection of which nothing but the user is known.
pub trait IncomingConnection: Send {
    /// The uid that connected.
    ///
    /// # Errors
    /// Whatever the kernel says.
    fn uid(&self) -> io::Result<u32>;

    /// Pins the process that connected.
    ///
    /// # Errors
    /// [`Unanswered`]
    fn identify(self) -> Result<AcceptedConnection, Unanswered>;
}

/// A connection whose process is pinned.
pub struct AcceptedConnection {
    /// Its bytes.
    pub stream: Box<dyn AttributedStream>,
    /// Who connected.
    pub process: Arc<dyn Process>,
}

/// A byte stream of which every read says who wrote what was read.
pub trait AttributedStream: AsyncWrite + Send + Unpin {
    /// Reads bytes of one writer, never of two. `None` at the end of the stream.
    fn poll_read_from(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Option<Credentials>>>;
}
