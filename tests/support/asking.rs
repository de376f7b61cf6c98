//! Requests to the Workload API, for every client that the tests make of the generated one.

use tonic::Request;

/// A request with the security header.
pub(crate) fn asking<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}
