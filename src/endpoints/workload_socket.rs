//! The services of the workload socket: the Workload API with its security header, gRPC health and reflection without it,
//! and the refusal of Envoy's SDS.

use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;

use crate::endpoints::grpc_health::GrpcHealth;
use crate::endpoints::sds::SdsRefusal;
use crate::endpoints::workload_api;
use crate::endpoints::workload_api::MAX_REQUEST;
use crate::endpoints::workload_api::proto;
use crate::readiness::Readiness;

/// The services of the workload socket.
///
/// SECURITY: health and reflection hold nothing that a local user may not know, and existing probes send no header.
///
/// # Errors
/// The compiled definitions are not definitions; a build that is broken.
pub fn routes(readiness: &Readiness) -> Result<Routes, tonic_reflection::server::Error> {
    let health = HealthServer::new(GrpcHealth::of(workload_api::SERVICE, readiness));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(workload_api::routes()
        .add_service(health.max_decoding_message_size(MAX_REQUEST))
        .add_service(reflection().build_v1()?.max_decoding_message_size(MAX_REQUEST))
        .add_service(reflection().build_v1alpha()?.max_decoding_message_size(MAX_REQUEST))
        .add_service(SdsRefusal::default())
        .prepare())
}
