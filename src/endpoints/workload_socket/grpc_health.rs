//! gRPC health (`grpc.health.v1`): whether the daemon serves, and nothing else about it.

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio_stream::wrappers::WatchStream;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::HealthCheckResponse;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::readiness::Readiness;

/// The health of one service and of the daemon, which are the same.
#[derive(Debug)]
pub(in crate::endpoints::workload_socket) struct GrpcHealth {
    service: &'static str,
    readiness: Readiness,
}

impl GrpcHealth {
    pub(in crate::endpoints::workload_socket) fn of(service: &'static str, readiness: &Readiness) -> Self {
        Self { service, readiness: readiness.clone() }
    }

    fn knows(&self, service: &str) -> bool {
        service.is_empty() || service == self.service
    }
}

#[tonic::async_trait]
impl tonic_health::pb::health_server::Health for GrpcHealth {
    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !self.knows(&request.get_ref().service) {
            return Err(Status::not_found("there is no such service"));
        }
        Ok(Response::new(answer(status(&self.readiness))))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        if !self.knows(&request.get_ref().service) {
            let unknown = async { Ok(answer(ServingStatus::ServiceUnknown)) };
            return Ok(Response::new(
                futures_util::stream::once(unknown).chain(futures_util::stream::pending()).boxed(),
            ));
        }
        let readiness = self.readiness.clone();
        let mut last = None;
        let changes = WatchStream::new(self.readiness.watch()).filter_map(move |_| {
            let now = status(&readiness);
            let changed = last.replace(now) != Some(now);
            std::future::ready(changed.then(|| Ok(answer(now))))
        });
        Ok(Response::new(changes.boxed()))
    }
}

fn status(readiness: &Readiness) -> ServingStatus {
    if readiness.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
