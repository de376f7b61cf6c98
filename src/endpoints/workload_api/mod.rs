//! The SPIFFE Workload API: a codec. It turns requests into questions about a process, and what the process has into
//! messages; it decides nothing and never learns why.

pub mod codec;
mod messages;
pub mod proto;
mod security_header;

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;

use crate::endpoints::refusals;
use crate::endpoints::transport::http2::RequestGate;
use crate::endpoints::workload_api::proto::JwtBundlesRequest;
use crate::endpoints::workload_api::proto::JwtBundlesResponse;
use crate::endpoints::workload_api::proto::JwtsvidRequest;
use crate::endpoints::workload_api::proto::JwtsvidResponse;
use crate::endpoints::workload_api::proto::ValidateJwtsvidRequest;
use crate::endpoints::workload_api::proto::ValidateJwtsvidResponse;
use crate::endpoints::workload_api::proto::WitBundlesRequest;
use crate::endpoints::workload_api::proto::WitBundlesResponse;
use crate::endpoints::workload_api::proto::WitsvidRequest;
use crate::endpoints::workload_api::proto::WitsvidResponse;
use crate::endpoints::workload_api::proto::X509BundlesRequest;
use crate::endpoints::workload_api::proto::X509BundlesResponse;
use crate::endpoints::workload_api::proto::X509svidRequest;
use crate::endpoints::workload_api::proto::X509svidResponse;
use crate::endpoints::workload_api::proto::spiffe_workload_api_server::SpiffeWorkloadApi;
use crate::endpoints::workload_api::proto::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use crate::endpoints::workload_api::security_header::require_security_header;
use crate::entitlement::door::SecretGate;
use crate::entitlement::door::Subject;

/// The name of the service on the wire.
pub const SERVICE: &str = "SpiffeWorkloadAPI";
/// The largest request, in bytes.
pub const MAX_REQUEST: usize = 64 * 1024;

/// The Workload API alone, for requests with the security header.
#[must_use]
pub fn routes() -> Routes {
    let service = SpiffeWorkloadApiServer::new(WorkloadApi).max_decoding_message_size(MAX_REQUEST);
    Routes::new(InterceptedService::new(service, require_security_header))
}

#[derive(Debug, Clone, Copy)]
struct WorkloadApi;

type Messages<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Messages<X509svidResponse>;
    type FetchX509BundlesStream = Messages<X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<JwtBundlesResponse>;
    type FetchWITSVIDStream = Messages<WitsvidResponse>;
    type FetchWITBundlesStream = Messages<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let gate = gate(&request)?;
        let updates = subject(&gate).x509_svids();
        let updates = updates.map(move |update| Ok(messages::x509_svids(update.map_err(refusals::ended)?.open(&gate))));
        Ok(Response::new(updates.boxed()))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let updates = subject(&gate(&request)?).x509_bundles();
        let messages = updates.map(|update| Ok(messages::x509_bundles(update.map_err(refusals::ended)?)));
        Ok(Response::new(messages.boxed()))
    }

    async fn fetch_jwtsvid(&self, request: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        let gate = gate(&request)?;
        let asked = messages::JwtQuestion::try_from(request.into_inner())?;
        let svids = subject(&gate).jwt_svids(asked.audiences, asked.id).await.map_err(refusals::ended)?;
        Ok(Response::new(messages::jwt_svids(svids.open(&gate))))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let updates = subject(&gate(&request)?).jwt_bundles();
        let messages = updates.map(|update| Ok(messages::jwt_bundles(update.map_err(refusals::ended)?)));
        Ok(Response::new(messages.boxed()))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let subject = subject(&gate(&request)?);
        let (audience, token) = messages::token_to_validate(request.into_inner())?;
        let valid = subject.validate_jwt(audience, token).await.map_err(refusals::not_validated)?;
        Ok(Response::new(messages::valid_token(valid)))
    }

    async fn fetch_witsvid(&self, _: Request<WitsvidRequest>) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(no_wit())
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(no_wit())
    }
}

fn gate<T>(request: &Request<T>) -> Result<SecretGate, Status> {
    let gate = request.extensions().get::<RequestGate>();
    gate.map(|gate| gate.0.clone()).ok_or_else(|| Status::internal("the transport names no connection"))
}

fn subject(gate: &SecretGate) -> Arc<dyn Subject> {
    Arc::clone(gate.connection()).subject()
}

/// SPEC: Workload API §7: an endpoint without the profile answers so on both.
fn no_wit() -> Status {
    Status::unimplemented("WIT-SVIDs are not supported")
}
