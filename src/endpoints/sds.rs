//! The refusal of Envoy's secret discovery service (SDS), which this daemon does not serve: a status for the proxy, and a
//! log line for the operator.

use std::convert::Infallible;
use std::future::Ready;
use std::future::ready;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use http::Request;
use http::Response;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower_service::Service;

use crate::endpoints::transport::http2::RequestGate;

/// A proxy that is refused asks again every few seconds; the log gets one line in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(3600);

/// Answers every SDS call with `Unimplemented`.
#[derive(Debug, Clone, Default)]
pub(in crate::endpoints) struct SdsRefusal {
    logged: Arc<Mutex<Option<Instant>>>,
}

impl SdsRefusal {
    fn is_due(&self, now: Instant) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let due = logged.is_none_or(|last| now.duration_since(last) >= LOG_INTERVAL);
        if due {
            *logged = Some(now);
        }
        due
    }
}

impl NamedService for SdsRefusal {
    const NAME: &'static str = "envoy.service.secret.v3.SecretDiscoveryService";
}

impl Service<Request<Body>> for SdsRefusal {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if self.is_due(Instant::now()) {
            let gate = request.extensions().get::<RequestGate>();
            let uid = gate.map(|gate| gate.0.connection().principal().uid);
            tracing::warn!(uid, "a proxy asked for SDS, which is not supported; this is logged once an hour");
        }
        let refused = Status::unimplemented("SDS is not supported; this socket serves the SPIFFE Workload API");
        ready(Ok(refused.into_http()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refused_proxy_is_logged_once_an_hour() {
        let (refusal, start) = (SdsRefusal::default(), Instant::now());
        let after = |minutes: u64| start + Duration::from_secs(60 * minutes);
        let lines = (0..180).filter(|minutes| refusal.clone().is_due(after(*minutes)));
        assert_eq!(lines.collect::<Vec<_>>(), [0, 60, 120]);
    }
}
