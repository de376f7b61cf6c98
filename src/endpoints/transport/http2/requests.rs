//! The requests of one connection: each is charged, given the gate, and has a time for its answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Request;
use http::Response;
use hyper::body::Body;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::body::SizeHint;
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
        let charge = match self.budgets.stream(self.gate.connection().principal()) {
            Ok(charge) => charge,
            Err(why) => {
                let open = self.activity.open(None);
                let refused = refusals::over_budget(why).into_http();
                return Box::pin(std::future::ready(Ok(refused.map(|body| CountedBody { body, _open: open }))));
            }
        };
        let open = self.activity.open(Some(charge));
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

/// A response body; its stream is counted as open until it is dropped.
pub(super) struct CountedBody {
    body: tonic::body::Body,
    _open: OpenStream,
}

impl Body for CountedBody {
    type Data = bytes::Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, tonic::Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
