//! Requests that are no gRPC call, and calls of a service that is not here.

use bytes::Bytes;
use http::Request;
use http::Response;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::callers::FakeCallers;
use crate::door;
use crate::door::Door;

const SVIDS: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
const SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
const GRPC: &str = "application/grpc";

/// The response to a request with the security header and an empty message.
async fn respond(door: &Door, method: &str, path: &str, content_type: Option<&str>) -> Response<Incoming> {
    let socket = TokioIo::new(UnixStream::connect(&door.path).await.unwrap());
    let (mut client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), socket).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(format!("http://localhost{path}"));
    request = request.header("workload.spiffe.io", "true").header("te", "trailers");
    if let Some(content_type) = content_type {
        request = request.header("content-type", content_type);
    }
    client.send_request(request.body(Full::new(Bytes::from_static(&[0; 5]))).unwrap()).await.unwrap()
}

fn header<'r>(response: &'r Response<Incoming>, name: &str) -> &'r str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

fn open() -> Door {
    door::open(&FakeCallers::holding(&["spiffe://example.org/web"]), door::limits())
}

#[tokio::test]
async fn a_request_with_another_method_or_content_type_is_no_call() {
    let door = open();
    for (method, content_type, status) in [
        ("GET", Some(GRPC), 405),
        ("PUT", Some(GRPC), 405),
        ("OPTIONS", None, 405),
        ("POST", None, 415),
        ("POST", Some("text/html"), 415),
        ("POST", Some("application/json"), 415),
        ("POST", Some("application/grpc-web"), 415),
        ("POST", Some("text/plain; application/grpc"), 415),
        ("POST", Some(GRPC), 200),
        ("POST", Some("application/grpc+proto"), 200),
        ("POST", Some("application/grpc; charset=utf-8"), 200),
    ] {
        let response = respond(&door, method, SVIDS, content_type).await;
        assert_eq!(response.status(), status, "{method} {content_type:?}");
        assert_eq!(header(&response, "grpc-status"), "", "{method} {content_type:?}");
    }
}

#[tokio::test]
async fn a_path_that_is_not_exactly_a_methods_is_unimplemented() {
    let door = open();
    for path in ["?x", "?", "/", "/x", "%20"].map(|end| format!("{SVIDS}{end}")) {
        let response = respond(&door, "POST", &path, Some(GRPC)).await;
        assert_eq!((response.status().as_u16(), header(&response, "grpc-status")), (200, "12"), "{path}");
    }
}

#[tokio::test]
async fn envoys_sds_call_is_unimplemented_and_says_so() {
    let response = respond(&open(), "POST", SECRETS, Some(GRPC)).await;
    assert_eq!(header(&response, "grpc-status"), "12");
    assert!(header(&response, "grpc-message").starts_with("SDS"), "{response:?}");
}
