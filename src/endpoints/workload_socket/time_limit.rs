//! Ends the calls of services that need no identity: their streams would hold a place as long as their callers like.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::Request;
use http::Response;
use hyper::body::Body as HttpBody;
use hyper::body::Frame;
use hyper::body::SizeHint;
use tokio::sync::oneshot;
use tokio::time::Sleep;
use tokio::time::sleep;
use tonic::Status;
use tonic::body::Body;

use crate::endpoints::grpc::failed;

/// A request whose messages end with its answer: a service that still waits for more ends, too.
pub(in crate::endpoints::workload_socket) struct UntilAnswered<B> {
    body: B,
    answer: oneshot::Receiver<Infallible>,
}

/// Goes with the answer to a request.
pub(in crate::endpoints::workload_socket) struct AnswerEnd {
    _sender: oneshot::Sender<Infallible>,
}

/// An answer that ends with `Unavailable` at its deadline.
struct UntilDeadline {
    body: Body,
    deadline: Pin<Box<Sleep>>,
    has_ended: bool,
    _answer: AnswerEnd,
}

/// Lets the messages of a request end with its answer.
pub(in crate::endpoints::workload_socket) fn until_answered<B>(
    request: Request<B>,
) -> (Request<UntilAnswered<B>>, AnswerEnd) {
    let (end, answer) = oneshot::channel();
    (request.map(|body| UntilAnswered { body, answer }), AnswerEnd { _sender: end })
}

impl AnswerEnd {
    /// Lets an answer end after `limit`, counted from now (SPEC: product contract §7).
    pub(in crate::endpoints::workload_socket) fn after(
        self,
        limit: Duration,
        answer: Response<Body>,
    ) -> Response<Body> {
        let until = |body| UntilDeadline { body, deadline: Box::pin(sleep(limit)), has_ended: false, _answer: self };
        answer.map(|body| Body::new(until(body)))
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for UntilAnswered<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if Pin::new(&mut self.answer).poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl HttpBody for UntilDeadline {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        if self.deadline.as_mut().poll(cx).is_ready() {
            (self.has_ended, self.body) = (true, Body::empty());
            return Poll::Ready(Some(Ok(Frame::trailers(over()))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn over() -> HeaderMap {
    failed(&Status::unavailable("the stream has been open as long as [limits] idle says; open another one"))
}
