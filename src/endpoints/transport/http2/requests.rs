//! The requests of one connection: each is charged, is a gRPC call or refused, gets the gate, and has a time for its
//! answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

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
use tonic::service::Routes;
use tower_service::Service as _;

use crate::endpoints::refusals;
use crate::endpoints::transport::budgets::Budgets;
use crate::endpoints::transport::http2::activity::Activity;
use crate::endpoints::transport::http2::activity::OpenStream;
use crate::entitlement::door::SecretGate;

/// From a request's header to its answer's: its message has to arrive, and a unary answer has to be made.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The gate of the connection that a request came by. It is among the request's extensions: it leads to the subject, and
/// opens secrets.
#[derive(Debug, Clone)]
pub struct RequestGate(pub Arc<SecretGate>);

/// The services of a door, for one connection.
pub(super) struct GrpcRequests {
    pub(super) gate: Arc<SecretGate>,
    pub(super) routes: Routes,
    pub(super) budgets: Budgets,
    pub(super) activity: Arc<Activity>,
}

impl hyper::service::Service<Request<Incoming>> for GrpcRequests {
    type Response = Response<CountedBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let charge = self.budgets.stream(self.gate.connection().principal());
        let (charge, refused) = match charge {
            Ok(charge) => (Some(charge), not_a_grpc_call(&request)),
            Err(why) => (None, Some(refusals::over_budget(why).into_http())),
        };
        let open = self.activity.open(charge);
        if let Some(refused) = refused {
            return Box::pin(std::future::ready(Ok(refused.map(|body| CountedBody { body, _open: open }))));
        }
        request.extensions_mut().insert(RequestGate(Arc::clone(&self.gate)));
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.routes.clone().call(request));
        Box::pin(async move {
            let response = match answer.await {
                Ok(response) => response?,
                Err(_) => refusals::too_slow().into_http(),
            };
            Ok(response.map(|body| CountedBody { body, _open: open }))
        })
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

/// A response body; its stream is counted as open until it is dropped.
pub(super) struct CountedBody {
    body: Body,
    _open: OpenStream,
}

impl hyper::body::Body for CountedBody {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
