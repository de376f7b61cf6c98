//! The bytes of one connection, checked in both directions: who wrote what comes in, and whether the caller is still
//! what it was when a secret goes out. Knows frames, not requests.

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
use tokio::time::Instant;

use crate::endpoints::transport::acceptor::AttributedStream;
use crate::endpoints::transport::authority_filter::AuthorityFilter;
use crate::endpoints::transport::authority_filter::Violation;
use crate::endpoints::transport::frame_budget::FrameBudget;
use crate::endpoints::transport::frame_budget::TooManyControlFrames;
use crate::endpoints::transport::frames::FrameScanner;
use crate::endpoints::transport::frames::Scanned;
use crate::entitlement::door::Ended;
use crate::entitlement::door::SecretGate;

const READ_AT_ONCE: usize = 4096;

/// Why a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    /// Another process wrote to it.
    #[error("another process wrote to the connection")]
    ForeignWriter,
    /// The caller is not any more what its permits were decided for.
    #[error("the caller may not receive a secret any more")]
    Secret(Ended),
    /// It is no HTTP/2 that may pass.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// It sends more control frames than it may.
    #[error(transparent)]
    ControlFrames(#[from] TooManyControlFrames),
}

impl From<Cut> for io::Error {
    fn from(cut: Cut) -> Self {
        Self::new(io::ErrorKind::ConnectionAborted, cut)
    }
}

/// One connection's bytes.
pub struct Wire {
    stream: Box<dyn AttributedStream>,
    gate: Arc<SecretGate>,
    inbound: AuthorityFilter,
    /// Filtered, not yet taken by the HTTP/2 engine, which has had `taken` bytes of it.
    filtered: Vec<u8>,
    taken: usize,
    outbound: FrameScanner,
    budget: FrameBudget,
}

impl Wire {
    /// Puts the checks around `stream`.
    #[must_use]
    pub fn new(stream: Box<dyn AttributedStream>, gate: Arc<SecretGate>) -> Self {
        Self {
            stream,
            gate,
            inbound: AuthorityFilter::default(),
            filtered: Vec::new(),
            taken: 0,
            outbound: FrameScanner::default(),
            budget: FrameBudget::full(Instant::now()),
        }
    }

    fn filter(&mut self, bytes: &[u8]) -> Result<(), Cut> {
        let passed = self.inbound.feed(bytes, &mut self.filtered)?;
        Ok(self.budget.spend(passed.control, passed.resets, Instant::now())?)
    }

    fn hand_on(&mut self, buffer: &mut ReadBuf<'_>) {
        let waiting = self.filtered.get(self.taken..).unwrap_or_default();
        let now = waiting.len().min(buffer.remaining());
        buffer.put_slice(waiting.get(..now).unwrap_or_default());
        self.taken += now;
        if self.taken == self.filtered.len() {
            (self.filtered, self.taken) = (Vec::new(), 0); // an idle connection holds no memory for it
        }
    }

    /// SECURITY: between the moment when a message with a key was made and the moment when its bytes leave, the caller
    /// may have become another program. So whatever leaves with payload of DATA in it is preceded by a fresh proof,
    /// the rest of a message that a slow reader took in parts included.
    fn may_leave(&self, parts: &[&[u8]]) -> Result<(), Cut> {
        let (mut scanner, mut found) = (self.outbound, Scanned::default());
        parts.iter().for_each(|part| scanner.scan(part, &mut found));
        if found.data { self.gate.check().map_err(Cut::Secret) } else { Ok(()) }
    }

    fn left(&mut self, parts: &[&[u8]], mut bytes: usize) {
        let mut found = Scanned::default();
        for part in parts {
            let now = part.len().min(bytes);
            self.outbound.scan(part.get(..now).unwrap_or_default(), &mut found);
            bytes -= now;
        }
        self.budget.earn(found.frames);
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.filtered.is_empty() {
            let mut bytes = [0; READ_AT_ONCE];
            let mut read = ReadBuf::new(&mut bytes);
            let Some(writer) = ready!(Pin::new(&mut *self.stream).poll_read_from(cx, &mut read))? else {
                return Poll::Ready(Ok(()));
            };
            self.gate.connection().check_writer(writer).map_err(|_| Cut::ForeignWriter)?;
            self.filter(read.filled())?;
        }
        self.hand_on(buffer);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.may_leave(&[bytes])?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.left(&[bytes], written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let slices: Vec<&[u8]> = parts.iter().map(|part| &**part).collect();
        self.may_leave(&slices)?;
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, parts))?;
        self.left(&slices, written);
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
