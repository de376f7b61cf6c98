//! The SPIFFE Workload API: a codec. It turns requests into questions about a process, and what the process has into
//! messages; it decides nothing and never learns why.

mod messages;
pub mod proto;
mod security_header;

use std::sync::Arc;

use futures_util::Stream;
use futures_util::StreamExt as _;
use http::Request;
use http::Response;
use tonic::Status;
use tonic::body::Body;

use crate::endpoints::grpc;
use crate::endpoints::refusals;
use crate::endpoints::transport::http2::RequestBody;
use crate::endpoints::workload_api::messages::JwtQuestion;
use crate::endpoints::workload_api::proto::JwtBundlesRequest;
use crate::endpoints::workload_api::proto::JwtsvidRequest;
use crate::endpoints::workload_api::proto::ValidateJwtsvidRequest;
use crate::endpoints::workload_api::proto::X509BundlesRequest;
use crate::endpoints::workload_api::proto::X509svidRequest;
use crate::endpoints::workload_api::security_header::require_security_header;
use crate::entitlement::door::Ended;
use crate::entitlement::door::SecretGate;
use crate::entitlement::door::Subject;

/// The name of the service on the wire.
pub const SERVICE: &str = "SpiffeWorkloadAPI";
/// The largest request of most calls, and of those with audiences or a token, in bytes (SPEC: product contract §7).
const MAX_REQUEST: usize = 4 * 1024;
const MAX_TOKEN_REQUEST: usize = 20 * 1024;

/// Answers a call of the Workload API that came by this gate.
pub(in crate::endpoints) async fn answer(
    method: &str,
    request: Request<RequestBody>,
    gate: SecretGate,
) -> Response<Body> {
    let answered = match require_security_header(request.headers()) {
        Ok(()) => call(method, request, gate).await,
        Err(refused) => Err(refused),
    };
    answered.unwrap_or_else(Status::into_http)
}

async fn call(method: &str, request: Request<RequestBody>, gate: SecretGate) -> Result<Response<Body>, Status> {
    let subject = subject(&gate);
    Ok(match method {
        "FetchX509SVID" => {
            let X509svidRequest {} = grpc::message(request, MAX_REQUEST).await?;
            many(subject.x509_svids(), move |update| messages::x509_svids(update.open(&gate)))
        }
        "FetchX509Bundles" => {
            let X509BundlesRequest {} = grpc::message(request, MAX_REQUEST).await?;
            many(subject.x509_bundles(), messages::x509_bundles)
        }
        "FetchJWTSVID" => {
            let asked: JwtsvidRequest = grpc::message(request, MAX_TOKEN_REQUEST).await?;
            let asked = JwtQuestion::try_from(asked)?;
            let svids = subject.jwt_svids(asked.audiences, asked.id).await.map_err(refusals::ended)?;
            grpc::one(&messages::jwt_svids(svids.open(&gate)))
        }
        "FetchJWTBundles" => {
            let JwtBundlesRequest {} = grpc::message(request, MAX_REQUEST).await?;
            many(subject.jwt_bundles(), messages::jwt_bundles)
        }
        "ValidateJWTSVID" => {
            let asked: ValidateJwtsvidRequest = grpc::message(request, MAX_TOKEN_REQUEST).await?;
            let (audience, token) = messages::token_to_validate(asked)?;
            let valid = subject.validate_jwt(audience, token).await.map_err(refusals::not_validated)?;
            grpc::one(&messages::valid_token(valid))
        }
        // SPEC: Workload API §7: an endpoint without the profile answers so on both.
        "FetchWITSVID" | "FetchWITBundles" => return Err(Status::unimplemented("WIT-SVIDs are not supported")),
        _ => return Err(Status::unimplemented("the Workload API has no such call")),
    })
}

fn many<T: 'static, M: prost::Message + 'static>(
    updates: impl Stream<Item = Result<T, Ended>> + Send + 'static,
    message: impl Fn(T) -> M + Send + 'static,
) -> Response<Body> {
    grpc::many(updates.map(move |update| update.map(&message).map_err(refusals::ended)))
}

fn subject(gate: &SecretGate) -> Arc<dyn Subject> {
    Arc::clone(gate.connection()).subject()
}
