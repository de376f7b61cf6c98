//! A byte stream that a secret leaves only while the check before its bytes passes. Knows no protocol: a [`Framing`] finds
//! the messages in the bytes, and says what may be read.

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

use crate::endpoints::transport::Abort;
use crate::entitlement::door::Connection;
use crate::entitlement::door::SecretGate;

/// Where the messages are in the bytes that a protocol sends, and what of the arriving bytes it lets pass.
pub trait Framing: Send + Unpin {
    /// Reads what may pass; by default everything does.
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(stream).poll_read(cx, buffer)
    }

    /// Whether a message, or a part of one, is in the bytes that are to leave next.
    fn carries_message(&self, parts: &[&[u8]]) -> bool;

    /// Notes that the first `bytes` of `parts` have left.
    fn sent(&mut self, parts: &[&[u8]], bytes: usize);
}

/// A protocol of which every byte counts as a message.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unframed;

impl Framing for Unframed {
    fn carries_message(&self, _: &[&[u8]]) -> bool {
        true
    }

    fn sent(&mut self, _: &[&[u8]], _: usize) {}
}

/// The bytes of one connection, with its gate. The stream makes the gate, so that none is open which no stream asks.
///
/// SECURITY: between the moment when a message with a key was made and the moment when its bytes leave, the caller may
/// have become another program. So a fresh check precedes every write that carries a message, the rest of a message that
/// a slow reader took in parts included.
#[derive(Debug)]
pub struct GatedStream<S, F> {
    stream: S,
    gate: SecretGate,
    framing: F,
}

impl<S, F: Framing> GatedStream<S, F> {
    /// Puts the gate of `connection` before what is written to `stream`.
    #[must_use]
    pub fn new(stream: S, connection: Arc<dyn Connection>, framing: F) -> Self {
        Self { stream, gate: SecretGate::new(connection), framing }
    }

    /// The gate, for the codecs that open secrets.
    #[must_use]
    pub fn gate(&self) -> &SecretGate {
        &self.gate
    }

    fn check(&self, parts: &[&[u8]]) -> Result<(), Abort> {
        if self.framing.carries_message(parts) { self.gate.check().map_err(Abort::Secret) } else { Ok(()) }
    }
}

impl<S: AsyncRead + Unpin, F: Framing> AsyncRead for GatedStream<S, F> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, framing, .. } = &mut *self;
        framing.poll_read(stream, cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin, F: Framing> AsyncWrite for GatedStream<S, F> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(&[bytes])?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.framing.sent(&[bytes], written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let slices: Vec<&[u8]> = parts.iter().map(|part| &**part).collect();
        self.check(&slices)?;
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, parts))?;
        self.framing.sent(&slices, written);
        Poll::Ready(Ok(written))
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
