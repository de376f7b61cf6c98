//! The header that a browser or a tricked HTTP client does not send (SPEC: Workload Endpoint §3, §6).

use http::HeaderMap;
use tonic::Status;

const NAME: &str = "workload.spiffe.io";

/// Refuses a request that does not have the header exactly once with exactly `true`.
///
/// # Errors
/// `InvalidArgument`
#[allow(clippy::result_large_err, reason = "the type that every refusal of a call has")]
pub(super) fn require_security_header(headers: &HeaderMap) -> Result<(), Status> {
    let mut values = headers.get_all(NAME).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value.as_bytes() == b"true" => Ok(()),
        _ => Err(Status::invalid_argument("the request must have the metadata \"workload.spiffe.io: true\" once")),
    }
}
