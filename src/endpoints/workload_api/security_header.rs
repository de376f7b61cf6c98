//! The header that a browser or a tricked HTTP client does not send (SPEC: Workload Endpoint §3, §6).

use tonic::Request;
use tonic::Status;

const NAME: &str = "workload.spiffe.io";

/// Refuses a request that does not have the header exactly once with exactly `true`.
///
/// # Errors
/// `InvalidArgument`
#[allow(clippy::result_large_err, reason = "the signature of a tonic interceptor")]
pub(super) fn require_security_header(request: Request<()>) -> Result<Request<()>, Status> {
    let mut values = request.metadata().get_all(NAME).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value.as_encoded_bytes() == b"true" => Ok(request),
        _ => Err(Status::invalid_argument("the request must have the metadata \"workload.spiffe.io: true\" once")),
    }
}
