//! The services of the workload socket: the Workload API with its security header, gRPC health and reflection without it,
//! and the refusal of Envoy's SDS.

mod grpc_health;
mod time_limit;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::future::FutureExt as _;
use http::Request;
use http::Response;
use tonic::body::Body;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tower_service::Service as _;

use crate::endpoints::refusals;
use crate::endpoints::sds::SdsRefusal;
use crate::endpoints::transport::http2::GrpcServices;
use crate::endpoints::transport::http2::RequestBody;
use crate::endpoints::transport::http2::RequestGate;
use crate::endpoints::workload_api;
use crate::endpoints::workload_api::proto;
use crate::endpoints::workload_socket::grpc_health::GrpcHealth;
use crate::endpoints::workload_socket::time_limit::until_answered;
use crate::entitlement::door::SecretGate;
use crate::readiness::Readiness;

/// The largest request of health and reflection (SPEC: product contract §7).
const MAX_REQUEST: usize = 64 * 1024;

/// The services of the workload socket.
#[derive(Clone)]
pub struct WorkloadServices {
    /// All but the Workload API.
    others: Routes,
    /// How long a stream of the others may stay open.
    idle: Arc<dyn Fn() -> Duration + Send + Sync>,
}

impl WorkloadServices {
    /// The services, whose health is that of `readiness`. A stream of health or reflection is open for at most `idle`.
    ///
    /// SECURITY: health and reflection hold nothing that a local user may not know, and existing probes send no header. A
    /// stream keeps its connection from being idle, and nothing else ends one that needs no identity.
    ///
    /// # Errors
    /// The compiled definitions are not definitions; a build that is broken.
    pub fn new(
        readiness: &Readiness,
        idle: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Result<Self, tonic_reflection::server::Error> {
        let health = HealthServer::new(GrpcHealth::of(workload_api::SERVICE, readiness));
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let others = Routes::new(health.max_decoding_message_size(MAX_REQUEST))
            .add_service(reflection().build_v1()?.max_decoding_message_size(MAX_REQUEST))
            .add_service(reflection().build_v1alpha()?.max_decoding_message_size(MAX_REQUEST))
            .add_service(SdsRefusal::default())
            .prepare();
        Ok(Self { others, idle: Arc::new(idle) })
    }
}

impl GrpcServices for WorkloadServices {
    fn answer(&self, mut request: Request<RequestBody>, gate: SecretGate) -> BoxFuture<'static, Response<Body>> {
        let path = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/'));
        if let Some((workload_api::SERVICE, method)) = path {
            let method = method.to_owned();
            return async move { workload_api::answer(&method, request, gate).await }.boxed();
        }
        if let Err(why) = request.body_mut().charge_unread() {
            return std::future::ready(refusals::over_budget(why).into_http()).boxed();
        }
        request.extensions_mut().insert(RequestGate(gate));
        let (request, end) = until_answered(request);
        let (answered, limit) = (self.others.clone().call(request), (self.idle)());
        async move {
            match answered.await {
                Ok(response) => end.after(limit, response),
                Err(never) => match never {},
            }
        }
        .boxed()
    }
}

impl fmt::Debug for WorkloadServices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkloadServices(..)")
    }
}
