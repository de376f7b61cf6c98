//! A client of the Workload API. The daemon and its limit are asked by the same library in the same steps, so that the
//! difference is the server's.

use std::path::Path;
use std::time::Duration;

use bonafide::endpoints::workload_api::proto::JwtsvidRequest;
use bonafide::endpoints::workload_api::proto::JwtsvidResponse;
use bonafide::endpoints::workload_api::proto::ValidateJwtsvidRequest;
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

use crate::limit::framed;

pub(crate) const FETCH_X509: &str = "FetchX509SVID";
pub(crate) const FETCH_TOKEN: &str = "FetchJWTSVID";
pub(crate) const VALIDATE: &str = "ValidateJWTSVID";
const AUDIENCE: &str = "ledger";

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

pub(crate) async fn fetch_token(channel: &Channel) -> Result<String, Status> {
    let mut response = ask_for_token(channel).await?;
    Ok(response.svids.pop().ok_or_else(|| Status::not_found("a response without a token"))?.svid)
}

pub(crate) async fn validate(channel: &Channel, token: String) -> Result<(), Status> {
    let request = ValidateJwtsvidRequest { audience: AUDIENCE.to_owned(), svid: token };
    SpiffeWorkloadApiClient::new(channel.clone()).validate_jwtsvid(with_security_header(request)).await.map(drop)
}

/// The server's answer to each call, in its gRPC frame, by the name of the call.
pub(crate) async fn answers(socket: &Path) -> Result<[(&'static str, Vec<u8>); 3], Box<dyn std::error::Error>> {
    let channel = connect(socket).await?;
    let (svid, _) = open_stream(&channel).await?;
    let token = ask_for_token(&channel).await?;
    let request = ValidateJwtsvidRequest { audience: AUDIENCE.to_owned(), svid: token.svids[0].svid.clone() };
    let valid = SpiffeWorkloadApiClient::new(channel).validate_jwtsvid(with_security_header(request)).await?;
    Ok([(FETCH_X509, framed(&svid)), (FETCH_TOKEN, framed(&token)), (VALIDATE, framed(&valid.into_inner()))])
}

async fn ask_for_token(channel: &Channel) -> Result<JwtsvidResponse, Status> {
    let request = JwtsvidRequest { audience: vec![AUDIENCE.to_owned()], spiffe_id: String::new() };
    let response = SpiffeWorkloadApiClient::new(channel.clone()).fetch_jwtsvid(with_security_header(request)).await?;
    Ok(response.into_inner())
}

/// SPEC: SPIFFE Workload Endpoint §3.
fn with_security_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}
