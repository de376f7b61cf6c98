//! A byte stream whose every read is checked against the process that connected.

use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;

use crate::attestation::PinnedProcess;
use crate::endpoints::transport::Abort;
use crate::endpoints::transport::acceptor::AttributedStream;
use crate::entitlement::door::Connection;
use crate::evidence::Credentials;

/// Knows who connected.
pub trait KnowsWriter: Send + Sync {
    /// Whether a message of this writer is one of the process that connected.
    fn is_own(&self, writer: Credentials) -> bool;
}

impl<C: Connection + ?Sized> KnowsWriter for C {
    fn is_own(&self, writer: Credentials) -> bool {
        self.check_writer(writer).is_ok()
    }
}

impl KnowsWriter for PinnedProcess {
    fn is_own(&self, writer: Credentials) -> bool {
        self.check_writer(writer).is_ok()
    }
}

/// The bytes of one connection, all written by the process that connected.
///
/// SECURITY: a process can pass its socket to another one, which would then ask with the identity of the first. The
/// connection is cut before a byte of another writer is used.
///
/// What the kernel writes for a process counts as that process's. So whoever shares an io_uring with root, whose requests a
/// thread of the kernel takes from memory (`IORING_SETUP_SQPOLL`), speaks as root: the ring is root's own authority, as the
/// input of a shell of root's would be.
pub struct CheckedStream<C: ?Sized> {
    stream: Box<dyn AttributedStream>,
    connection: Arc<C>,
}

impl<C: KnowsWriter + ?Sized> CheckedStream<C> {
    /// Checks every read of `stream` with `connection`.
    #[must_use]
    pub fn new(stream: Box<dyn AttributedStream>, connection: Arc<C>) -> Self {
        Self { stream, connection }
    }
}

impl<C: KnowsWriter + ?Sized> AsyncRead for CheckedStream<C> {
    /// What is already in `buffer` has passed before; a foreign writer's bytes in it are never reported as filled.
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if let Some(writer) = ready!(Pin::new(&mut *self.stream).poll_read_from(cx, buffer))?
            && !self.connection.is_own(writer)
        {
            buffer.set_filled(before);
            return Poll::Ready(Err(Abort::ForeignWriter.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<C: KnowsWriter + ?Sized> AsyncWrite for CheckedStream<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
