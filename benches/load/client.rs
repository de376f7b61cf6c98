//! A client of the Workload API and of the empty service. Both use the same library and the same steps, so that the
//! difference is the server's.

use std::path::Path;
use std::time::Duration;

use bonafide::endpoints::workload_api::proto::JwtsvidRequest;
use bonafide::endpoints::workload_api::proto::X509svidRequest;
use bonafide::endpoints::workload_api::proto::X509svidResponse;
use bonafide::endpoints::workload_api::proto::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tokio::time::Instant;
use tonic::Request;
use tonic::Status;
use tonic::Streaming;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

pub(crate) async fn connect(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("unix://{}", socket.display()))?.connect().await
}

/// Opens a stream of X509-SVIDs and waits for its first message.
pub(crate) async fn open_stream(channel: &Channel) -> Result<(X509svidResponse, Streaming<X509svidResponse>), Status> {
    let mut client = SpiffeWorkloadApiClient::new(channel.clone());
    let mut stream = client.fetch_x509svid(with_security_header(X509svidRequest {})).await?.into_inner();
    let first = stream.message().await?.ok_or_else(|| Status::unavailable("the stream ended before its first SVID"))?;
    Ok((first, stream))
}

/// The time from connect to the first X509-SVID.
pub(crate) async fn first_svid(socket: &Path) -> Result<Duration, Box<dyn std::error::Error>> {
    let begin = Instant::now();
    let channel = connect(socket).await?;
    open_stream(&channel).await?;
    Ok(begin.elapsed())
}

/// The time from connect to the response of the empty service.
pub(crate) async fn first_empty_call(socket: &Path) -> Result<Duration, Box<dyn std::error::Error>> {
    let begin = Instant::now();
    empty_call(&connect(socket).await?).await?;
    Ok(begin.elapsed())
}

pub(crate) async fn empty_call(channel: &Channel) -> Result<(), Status> {
    HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.map(drop)
}

pub(crate) async fn fetch_token(channel: &Channel) -> Result<(), Status> {
    let request = JwtsvidRequest { audience: vec!["ledger".to_owned()], spiffe_id: String::new() };
    SpiffeWorkloadApiClient::new(channel.clone()).fetch_jwtsvid(with_security_header(request)).await.map(drop)
}

/// SPEC: SPIFFE Workload Endpoint §3.
fn with_security_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}
