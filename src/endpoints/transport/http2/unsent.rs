//! What the HTTP/2 engine was given and has not sent: a secret is kept until its last byte has left, or until the engine
//! has discarded it. Knows bytes, not streams.
//!
//! The engine takes the payload out of the pieces of all streams one after another, and writes it in that order. So two
//! numbers say whether a piece has left: how much payload had been taken when its own end was, and how much has left.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use bytes::Buf;
use bytes::Bytes;

use crate::entitlement::door::OnItsWay;

/// The payload of one connection.
#[derive(Default)]
pub(super) struct Unsent(Mutex<Counts>);

/// INVARIANT: a byte leaves after every byte that was taken before it, and only what was taken from a [`Piece`] leaves.
#[derive(Default)]
struct Counts {
    /// Bytes of all pieces that were made, but for what was discarded.
    given: u64,
    /// Bytes that the engine has taken out of pieces.
    taken: u64,
    /// Bytes that have left.
    left: u64,
    /// The secrets of which the engine takes no more, each with how many bytes had been taken by then.
    ended: Vec<(u64, Vec<OnItsWay>)>,
}

/// A piece of an answer, and the secrets that are in it.
pub(super) struct Piece {
    bytes: Bytes,
    secrets: Vec<OnItsWay>,
    unsent: Arc<Unsent>,
}

impl Unsent {
    /// Notes that so many bytes of payload have left.
    pub(super) fn left(&self, bytes: usize) {
        let mut counts = self.counts();
        counts.left = counts.left.saturating_add(bytes as u64);
        let gone = counts.gone();
        drop(counts);
        drop(gone); // without the lock: each takes another
    }

    /// How many bytes of payload wait for the client.
    pub(super) fn waiting(&self) -> usize {
        let counts = self.counts();
        usize::try_from(counts.given.saturating_sub(counts.left)).unwrap_or(usize::MAX)
    }

    fn given(&self, bytes: usize) {
        let mut counts = self.counts();
        counts.given = counts.given.saturating_add(bytes as u64);
    }

    fn discarded(&self, bytes: usize) {
        let mut counts = self.counts();
        counts.given = counts.given.saturating_sub(bytes as u64);
    }

    fn taken(&self, bytes: usize) {
        let mut counts = self.counts();
        counts.taken = counts.taken.saturating_add(bytes as u64);
    }

    fn ended(&self, secrets: Vec<OnItsWay>) {
        let mut counts = self.counts();
        let end = counts.taken;
        if end > counts.left {
            return counts.ended.push((end, secrets));
        }
        drop(counts);
        drop(secrets);
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn gone(&mut self) -> Vec<(u64, Vec<OnItsWay>)> {
        let gone = self.ended.partition_point(|(end, _)| *end <= self.left);
        if gone == self.ended.len() {
            return std::mem::take(&mut self.ended); // an idle connection holds no memory for it
        }
        self.ended.drain(..gone).collect()
    }
}

impl Piece {
    /// A piece that leaves by the connection of `unsent`.
    pub(super) fn new(bytes: Bytes, secrets: Vec<OnItsWay>, unsent: Arc<Unsent>) -> Self {
        unsent.given(bytes.len());
        Self { bytes, secrets, unsent }
    }

    fn end(&mut self) {
        let secrets = std::mem::take(&mut self.secrets);
        if !secrets.is_empty() {
            self.unsent.ended(secrets);
        }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.unsent.taken(count);
        if !self.bytes.has_remaining() {
            self.end();
        }
    }
}

impl Drop for Piece {
    /// What the engine has not taken by now, it has discarded: the stream was reset.
    fn drop(&mut self) {
        if self.bytes.has_remaining() {
            self.unsent.discarded(self.bytes.remaining());
        }
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A piece of five bytes, and something that is alive as long as its secret is kept.
    fn piece(unsent: &Arc<Unsent>) -> (Piece, Arc<()>) {
        let alive = Arc::new(());
        let secret: OnItsWay = Box::new(Arc::clone(&alive));
        (Piece::new(Bytes::from_static(b"piece"), vec![secret], Arc::clone(unsent)), alive)
    }

    fn is_kept(secret: &Arc<()>) -> bool {
        Arc::strong_count(secret) > 1
    }

    #[test]
    fn a_secret_is_kept_until_its_last_byte_has_left() {
        let unsent = Arc::new(Unsent::default());
        let (mut piece, secret) = piece(&unsent);
        unsent.left(3); // written out of the piece, and taken afterwards
        piece.advance(3);
        assert!(is_kept(&secret));
        piece.advance(2); // copied, and written afterwards
        drop(piece);
        assert!(is_kept(&secret));
        unsent.left(1);
        assert!(is_kept(&secret));
        unsent.left(1);
        assert!(!is_kept(&secret));
        assert_eq!(unsent.counts().ended.capacity(), 0);
    }

    #[test]
    fn what_waits_for_the_client_has_neither_left_nor_been_discarded() {
        let unsent = Arc::new(Unsent::default());
        let ((mut first, _), (mut second, _)) = (piece(&unsent), piece(&unsent));
        assert_eq!(unsent.waiting(), 10);
        first.advance(5);
        assert_eq!(unsent.waiting(), 10);
        unsent.left(4);
        second.advance(1);
        drop((first, second));
        assert_eq!(unsent.waiting(), 2);
        unsent.left(2);
        assert_eq!(unsent.waiting(), 0);
    }

    #[test]
    fn a_secret_is_not_kept_for_what_was_taken_after_it() {
        let unsent = Arc::new(Unsent::default());
        let ((mut first, secret), (mut second, later)) = (piece(&unsent), piece(&unsent));
        first.advance(2);
        second.advance(4); // of another stream, while the first has no window
        first.advance(3);
        second.advance(1);
        unsent.left(9);
        assert!(!is_kept(&secret) && is_kept(&later));
        unsent.left(1);
        assert!(!is_kept(&later));
    }

    #[test]
    fn a_piece_that_is_discarded_waits_only_for_what_was_taken_of_it() {
        let unsent = Arc::new(Unsent::default());
        let (untouched, secret) = piece(&unsent);
        drop(untouched);
        assert!(!is_kept(&secret));
        let (mut begun, secret) = piece(&unsent);
        begun.advance(2);
        drop(begun);
        unsent.left(1);
        assert!(is_kept(&secret));
        unsent.left(1);
        assert!(!is_kept(&secret));
    }
}
