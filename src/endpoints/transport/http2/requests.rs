//! The requests of one connection: each is charged, is a gRPC call or refused, gets the gate, and has a time for its
//! answer. The answer leaves in pieces, each with the secrets in it.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::body::SizeHint;
use tonic::Status;
use tonic::body::Body;

use crate::endpoints::refusals;
use crate::endpoints::transport::http2::activity::Activity;
use crate::endpoints::transport::http2::activity::OpenStream;
use crate::endpoints::transport::http2::body::RequestBody;
use crate::endpoints::transport::http2::unsent::Piece;
use crate::endpoints::transport::http2::unsent::Unsent;
use crate::entitlement::door::SecretGate;
use crate::fairness::Budgets;
use crate::fairness::OverBudget;
use crate::fairness::budgets::StreamCharge;

/// From a request's header to its answer's: its message has to arrive, and a unary answer has to be made.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What answers the gRPC calls of a door.
pub trait GrpcServices: Send + Sync + fmt::Debug {
    /// Answers a call that came by this gate.
    fn answer(&self, request: Request<RequestBody>, gate: SecretGate) -> BoxFuture<'static, Response<Body>>;
}

/// The gate of the connection that a request came by. It is among the request's extensions: it leads to the subject, and
/// opens secrets.
#[derive(Debug, Clone)]
pub struct RequestGate(pub SecretGate);

/// The services of a door, for one connection.
pub(super) struct GrpcRequests {
    pub(super) gate: SecretGate,
    pub(super) services: Arc<dyn GrpcServices>,
    pub(super) budgets: Budgets,
    pub(super) activity: Arc<Activity>,
    pub(super) unsent: Arc<Unsent>,
}

impl hyper::service::Service<Request<Incoming>> for GrpcRequests {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (charge, admitted) = match self.charge(request) {
            Ok((charge, request)) => (Some(charge), not_a_grpc_call(&request).map_or(Ok(request), Err)),
            Err(why) => (None, Err(refusals::over_budget(why).into_http())),
        };
        let gate = self.gate.for_next_answer();
        let answer = Answer { gate: gate.clone(), unsent: Arc::clone(&self.unsent), _open: self.activity.open(charge) };
        let response = match admitted {
            Ok(request) => tokio::time::timeout(ANSWER_TIMEOUT, self.services.answer(request, gate)),
            Err(refused) => return Box::pin(std::future::ready(Ok(refused.map(|body| AnswerBody { body, answer })))),
        };
        Box::pin(async move {
            let response = response.await.unwrap_or_else(|_| refusals::too_slow().into_http());
            Ok(response.map(|body| AnswerBody { body, answer }))
        })
    }
}

impl GrpcRequests {
    fn charge(&self, request: Request<Incoming>) -> Result<(StreamCharge, Request<RequestBody>), OverBudget> {
        let principal = self.gate.connection().principal();
        let charge = self.budgets.stream(principal, self.activity.is_open())?;
        let (head, body) = request.into_parts();
        let body = RequestBody::new(&head.headers, body, self.budgets.bytes(), principal)?;
        Ok((charge, Request::from_parts(head, body)))
    }
}

/// The answer to a request that is no gRPC call.
///
/// SPEC: gRPC over HTTP/2, *Requests*: POST, a content type that begins with `application/grpc`, and a path without a
/// query. SECURITY: a browser sends none of these content types without a preflight, which is no POST.
fn not_a_grpc_call<B>(request: &Request<B>) -> Option<Response<Body>> {
    let refused = |status| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        Some(response)
    };
    if request.method() != Method::POST {
        return refused(StatusCode::METHOD_NOT_ALLOWED);
    }
    if !request.headers().get(CONTENT_TYPE).is_some_and(is_grpc) {
        return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let query = request.uri().query();
    query.map(|_| Status::unimplemented("the path of a gRPC call has no query").into_http())
}

fn is_grpc(content_type: &HeaderValue) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let Some((kind, rest)) = content_type.as_bytes().split_at_checked(GRPC.len()) else { return false };
    kind.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// An answer, from its request to its last byte for the engine; its stream is counted as open until it is dropped.
struct Answer {
    gate: SecretGate,
    unsent: Arc<Unsent>,
    _open: OpenStream,
}

impl Answer {
    /// SECURITY: a codec encodes what it opens before it gives out anything else of the same answer. So whatever was
    /// opened up to now is in these bytes.
    fn piece(&self, bytes: Bytes) -> Piece {
        Piece::new(bytes, self.gate.take_opened(), Arc::clone(&self.unsent))
    }
}

impl Drop for Answer {
    /// What was opened for it and is in no piece never leaves.
    fn drop(&mut self) {
        drop(self.gate.take_opened());
    }
}

/// The body of an answer.
pub(super) struct AnswerBody {
    body: Body,
    answer: Answer,
}

impl hyper::body::Body for AnswerBody {
    type Data = Piece;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| Ok(frame?.map_data(|bytes| self.answer.piece(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
