//! All that the engine writes in one turn leaves at once: its answers are ready together, and each write costs a system
//! call, the check before a secret, and a wake-up of the client.
//!
//! The engine writes into [`TurnBuffer`], and [`TurnBuffer::poll_leave`] writes that to the connection when neither the
//! engine nor a stream can go on. What is gathered has not left: it is behind the gate, as what the engine holds is.

use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use zeroize::Zeroize as _;

/// A turn with more output leaves in parts. A slow reader costs this much beside what the engine holds for it.
const MOST: usize = 16 * 1024;

/// The bytes of a connection, gathered by turns. Clones are the same; all of them belong to one task.
#[derive(Debug)]
pub(super) struct TurnBuffer<S>(Arc<Mutex<Gathered<S>>>);

#[derive(Debug)]
struct Gathered<S> {
    stream: S,
    bytes: Vec<u8>,
    left: usize,
}

impl<S> Clone for TurnBuffer<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: AsyncWrite + Unpin> TurnBuffer<S> {
    pub(super) fn new(stream: S) -> Self {
        Self(Arc::new(Mutex::new(Gathered { stream, bytes: Vec::new(), left: 0 })))
    }

    /// Writes what was gathered. `Pending` while the socket takes no more.
    pub(super) fn poll_leave(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.gathered().poll_leave(cx)
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.bytes.get(self.left..).filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.left += written;
        }
        if !self.bytes.is_empty() {
            // SECURITY: keys were in it. An idle connection holds no memory for it.
            self.bytes.zeroize();
            (self.bytes, self.left) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }

    /// How much may be gathered now: nothing while a part of an earlier turn waits for the socket.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.left > 0 || self.bytes.len() >= MOST {
            ready!(self.poll_leave(cx))?;
        }
        Poll::Ready(Ok(MOST - self.bytes.len()))
    }

    fn gather(&mut self, part: &[u8], room: usize) -> usize {
        let taken = part.get(..room).unwrap_or(part);
        if taken.len() > self.bytes.capacity() - self.bytes.len() {
            // SECURITY: what grows would leave a copy of keys behind.
            let mut grown = Vec::with_capacity((self.bytes.len() + taken.len()).next_power_of_two());
            grown.extend_from_slice(&self.bytes);
            self.bytes.zeroize();
            self.bytes = grown;
        }
        self.bytes.extend_from_slice(taken);
        taken.len()
    }
}

impl<S> Drop for Gathered<S> {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TurnBuffer<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.gathered().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TurnBuffer<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut gathered = self.gathered();
        let room = ready!(gathered.poll_room(cx))?;
        Poll::Ready(Ok(gathered.gather(bytes, room)))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut gathered = self.gathered();
        let room = ready!(gathered.poll_room(cx))?;
        let mut taken = 0;
        for part in parts {
            taken += gathered.gather(part, room - taken);
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The turn flushes: until its end there may be more to leave with this.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.gathered();
        ready!(gathered.poll_leave(cx))?;
        Pin::new(&mut gathered.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt as _;
    use tokio::io::AsyncReadExt as _;
    use tokio::io::AsyncWriteExt as _;
    use tokio::io::DuplexStream;
    use tokio::io::duplex;

    use super::*;

    async fn leave(buffer: &TurnBuffer<DuplexStream>) {
        poll_fn(|cx| buffer.poll_leave(cx)).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_written_and_flushed_leaves_at_the_end_of_the_turn_and_together() {
        let (ours, mut theirs) = duplex(1024);
        let mut buffer = TurnBuffer::new(ours);
        for part in [b"one ", b"two "] {
            buffer.write_all(part).await.unwrap();
            buffer.flush().await.unwrap();
        }
        let mut read = [0; 100];
        assert!(theirs.read(&mut read).now_or_never().is_none(), "nothing has left");
        leave(&buffer).await;
        assert_eq!(theirs.read(&mut read).await.unwrap(), 8);
        assert_eq!(buffer.gathered().bytes.capacity(), 0, "an idle connection holds no memory for it");
    }

    #[tokio::test]
    async fn behind_a_reader_that_is_slow_no_second_turn_is_gathered() {
        let (ours, mut theirs) = duplex(3);
        let mut buffer = TurnBuffer::new(ours);
        buffer.write_all(b"first").await.unwrap();
        assert!(poll_fn(|cx| buffer.poll_leave(cx)).now_or_never().is_none());
        assert!(buffer.write_all(b"second").now_or_never().is_none());
        let mut read = [0; 5];
        theirs.read_exact(&mut read[..3]).await.unwrap();
        leave(&buffer).await;
        buffer.write_all(b"second").await.unwrap();
        theirs.read_exact(&mut read[3..]).await.unwrap();
        assert_eq!(&read, b"first");
    }

    #[tokio::test]
    async fn a_turn_holds_no_more_than_its_bound() {
        let (ours, _theirs) = duplex(1);
        let mut buffer = TurnBuffer::new(ours);
        let mut gathered = 0;
        while let Some(taken) = buffer.write(&[7; 1000]).now_or_never() {
            gathered += taken.unwrap();
        }
        assert!((MOST..=MOST + 1).contains(&gathered), "{gathered}");
    }

    #[tokio::test]
    async fn a_shutdown_comes_after_what_was_gathered() {
        let (ours, mut theirs) = duplex(1024);
        let mut buffer = TurnBuffer::new(ours);
        buffer.write_all(b"last").await.unwrap();
        buffer.shutdown().await.unwrap();
        let mut read = Vec::new();
        theirs.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"last");
    }
}
