//! What the HTTP/2 engine reads and writes: header blocks are bounded and their authority is legal, control frames are
//! charged, and DATA is what the gate is asked before. Knows frames, not requests.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use tokio::io::AsyncRead;
use tokio::io::ReadBuf;
use tokio::time::Instant;

use crate::endpoints::transport::Abort;
use crate::endpoints::transport::gate::Framing;
use crate::endpoints::transport::http2::authority_filter::AuthorityFilter;
use crate::endpoints::transport::http2::frame_budget::FrameBudget;
use crate::endpoints::transport::http2::frames::FrameScanner;
use crate::endpoints::transport::http2::frames::Scanned;
use crate::endpoints::transport::http2::unsent::Unsent;

const READ_AT_ONCE: usize = 4096;

/// The frames of one connection. Messages are in DATA alone: a status leaves whether or not a secret may.
pub(super) struct Http2Framing {
    unsent: Arc<Unsent>,
    scanner: FrameScanner,
    filter: AuthorityFilter,
    budget: FrameBudget,
    /// Filtered, and the engine has had `taken` bytes of it.
    filtered: Vec<u8>,
    taken: usize,
}

impl Http2Framing {
    /// The frames that carry what was given to the engine.
    pub(super) fn carrying(unsent: Arc<Unsent>) -> Self {
        let (filter, budget) = (AuthorityFilter::default(), FrameBudget::full(Instant::now()));
        Self { unsent, scanner: FrameScanner::default(), filter, budget, filtered: Vec::new(), taken: 0 }
    }

    fn filter(&mut self, bytes: &[u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        let passed = self.filter.feed(bytes, &mut self.filtered)?;
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
}

impl Framing for Http2Framing {
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.filtered.is_empty() {
            let mut bytes = [0; READ_AT_ONCE];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.filter(read.filled()).map_err(Abort::Protocol)?;
        }
        self.hand_on(buffer);
        Poll::Ready(Ok(()))
    }

    fn carries_message(&self, parts: &[&[u8]]) -> bool {
        let (mut scanner, mut found) = (self.scanner, Scanned::default());
        parts.iter().for_each(|part| scanner.scan(part, &mut found));
        found.data
    }

    fn sent(&mut self, parts: &[&[u8]], mut bytes: usize) {
        let mut found = Scanned::default();
        for part in parts {
            let now = part.len().min(bytes);
            self.scanner.scan(part.get(..now).unwrap_or_default(), &mut found);
            bytes -= now;
        }
        self.budget.earn(found.frames);
        self.unsent.left(found.payload);
    }
}
