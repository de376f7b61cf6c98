//! The body of a request: a message in it is whole soon after its first byte, and what has arrived of it is charged.
//!
//! SECURITY: a message without its last byte costs its sender nothing, and the daemon all the rest until the call ends.

use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::Body;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::body::SizeHint;
use tokio::time::Sleep;
use tonic::Status;

use crate::endpoints::refusals;
use crate::evidence::Principal;
use crate::fairness::ByteBudget;
use crate::fairness::HeldBytes;
use crate::fairness::OverBudget;

/// From the first byte of a message to its last (SPEC: product contract §7).
const MESSAGE_TIME: Duration = Duration::from_secs(2);
/// What a stream is charged is enough for so much of a header and a message.
const FREE: usize = 2 * 1024;
/// The most that waits to be read, but for what a message of the largest size needs.
const UNREAD: usize = 64 * 1024;
/// A flag octet, and the length of the message in four (SPEC: gRPC over HTTP/2, *Length-Prefixed-Message*).
const PREFIX: usize = 5;
/// What a field of a header takes beside its text.
const FIELD: usize = 32;

/// The body of a request.
pub struct RequestBody<B = Incoming> {
    body: B,
    held: HeldBytes,
    /// The bytes that are charged until the call ends: those of the header, and those that may wait to be read.
    fixed: usize,
    message: MessageProgress,
    /// When the message that has begun must be whole.
    deadline: Option<Pin<Box<Sleep>>>,
}

/// Where the messages of a body begin and end.
#[derive(Debug, Default)]
struct MessageProgress {
    /// The bytes that have arrived of a message that is not whole, its prefix included.
    arrived: usize,
    length: u32,
}

impl MessageProgress {
    fn feed(&mut self, mut bytes: &[u8]) {
        while let Some((byte, rest)) = bytes.split_first() {
            if self.arrived < PREFIX {
                if self.arrived > 0 {
                    self.length = self.length << 8 | u32::from(*byte);
                }
                self.arrived += 1;
                bytes = rest;
            } else {
                let most = PREFIX + self.length as usize - self.arrived;
                let taken = most.min(bytes.len());
                self.arrived += taken;
                bytes = bytes.get(taken..).unwrap_or_default();
            }
            if self.arrived >= PREFIX && self.arrived == PREFIX + self.length as usize {
                *self = Self::default();
            }
        }
    }
}

impl<B> RequestBody<B> {
    /// The body of a request with this header, charged to `principal`.
    ///
    /// # Errors
    /// [`OverBudget::Bytes`]
    pub(super) fn new(
        header: &HeaderMap,
        body: B,
        budget: &ByteBudget,
        principal: Principal,
    ) -> Result<Self, OverBudget> {
        let fields = header.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD);
        let header: usize = fields.sum();
        let held = budget.hold(principal, header.saturating_sub(FREE))?;
        Ok(Self { body, held, fixed: header, message: MessageProgress::default(), deadline: None })
    }

    /// Charges what may arrive before it is read: a service that answers one message after another reads none while the
    /// client reads no answer.
    ///
    /// # Errors
    /// [`OverBudget::Bytes`]
    pub fn charge_unread(&mut self) -> Result<(), OverBudget> {
        let fixed = self.fixed + UNREAD;
        self.held.resize((fixed + self.message.arrived).saturating_sub(FREE))?;
        self.fixed = fixed;
        Ok(())
    }

    /// Charges what has arrived, and begins or ends the time for the rest.
    fn note(&mut self, bytes: &[u8]) -> Result<(), OverBudget> {
        self.message.feed(bytes);
        if self.message.arrived == 0 {
            self.deadline = None;
            return Ok(()); // whoever reads it has all of it now, and answers
        }
        self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(MESSAGE_TIME)));
        Ok(self.held.resize((self.fixed + self.message.arrived).saturating_sub(FREE))?)
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(bytes) = frame.data_ref() {
                    self.note(bytes).map_err(refusals::over_budget)?;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(Status::cancelled("the request was cut off")))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let Some(deadline) = &mut self.deadline else { return Poll::Pending };
                ready!(deadline.as_mut().poll(cx));
                Poll::Ready(Some(Err(refusals::too_slow())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").field("held", &self.held.bytes()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;
    use http_body_util::StreamBody;
    use tokio::sync::mpsc;
    use tokio::time::Instant;
    use tokio_stream::wrappers::UnboundedReceiverStream;
    use tonic::Code;

    use super::*;
    use crate::fairness::ByteLimits;

    const CALLER: Principal = Principal { uid: 1, cgroup: 0 };

    fn body(budget: &ByteBudget) -> (mpsc::UnboundedSender<Vec<u8>>, RequestBody<impl Body<Data = Bytes> + Unpin>) {
        use futures_util::StreamExt as _;
        let (send, receive) = mpsc::unbounded_channel::<Vec<u8>>();
        let frames = UnboundedReceiverStream::new(receive).map(|data| Ok::<_, Infallible>(Frame::data(data.into())));
        (send, RequestBody::new(&HeaderMap::new(), StreamBody::new(frames), budget, CALLER).unwrap())
    }

    fn message(length: usize) -> Vec<u8> {
        [&[0][..], &u32::try_from(length).unwrap().to_be_bytes(), &vec![7; length]].concat()
    }

    fn budget() -> ByteBudget {
        ByteBudget::new(ByteLimits { total: 1 << 20, each: 16 * 1024 })
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_has_two_seconds_from_its_first_byte_and_a_stream_between_messages_has_all_time() {
        let budget = budget();
        let (send, mut body) = body(&budget);
        let patience = Duration::from_secs(3600);
        assert!(tokio::time::timeout(patience, body.frame()).await.is_err(), "nothing has begun");
        let whole = message(10);
        send.send([&whole[..], &whole[..3]].concat()).unwrap();
        body.frame().await.unwrap().unwrap();
        send.send(whole[3..].to_vec()).unwrap();
        body.frame().await.unwrap().unwrap();
        assert!(tokio::time::timeout(patience, body.frame()).await.is_err(), "both are whole");
        let begun = Instant::now();
        for part in whole[..14].chunks(1) {
            send.send(part.to_vec()).unwrap();
            body.frame().await.unwrap().unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let late = body.frame().await.unwrap().unwrap_err();
        assert_eq!((late.code(), begun.elapsed()), (Code::Unavailable, MESSAGE_TIME));
    }

    #[tokio::test]
    async fn what_has_arrived_of_a_message_is_charged_until_the_call_ends() {
        let budget = budget();
        let (send, mut body) = body(&budget);
        let whole = message(6 * 1024);
        send.send(whole[..FREE].to_vec()).unwrap();
        body.frame().await.unwrap().unwrap();
        assert_eq!(budget.used(), 0);
        send.send(whole[FREE..FREE + 1000].to_vec()).unwrap();
        body.frame().await.unwrap().unwrap();
        assert_eq!(budget.used(), 1000);
        drop(body);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_caller_without_bytes_is_refused_by_what_has_arrived_and_by_its_header() {
        let budget = budget();
        let all = budget.hold(CALLER, 16 * 1024).unwrap();
        let (send, mut body) = body(&budget);
        send.send(message(10)).unwrap();
        body.frame().await.unwrap().unwrap();
        send.send(message(FREE)[..FREE + 1].to_vec()).unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap_err().code(), Code::Unavailable);
        let mut header = HeaderMap::new();
        header.insert("x", "y".repeat(FREE).parse().unwrap());
        assert!(RequestBody::new(&header, (), &budget, CALLER).is_err());
        drop(all);
        assert!(RequestBody::new(&header, (), &budget, CALLER).is_ok());
    }

    #[tokio::test]
    async fn every_way_to_cut_messages_ends_where_they_end() {
        let bytes = [message(0), message(1), message(300), message(0), message(70_000)].concat();
        for size in [1, 2, 3, 5, 6, 7, 100, 70_000] {
            let mut progress = MessageProgress::default();
            let (parts, last) = bytes.split_at(bytes.len() - 1);
            parts.chunks(size).for_each(|part| progress.feed(part));
            assert_eq!(progress.arrived, PREFIX + 70_000 - 1);
            progress.feed(last);
            assert_eq!((progress.arrived, progress.length), (0, 0));
        }
        let budget = budget();
        let (_send, mut body) = body(&budget);
        assert!(body.frame().now_or_never().is_none());
    }
}
