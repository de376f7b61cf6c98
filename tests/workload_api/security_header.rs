//! The header that keeps browsers and tricked HTTP clients out (WEP-05, WEP-06, Q5, Q21, attack 69).

use tonic::Code;
use tonic::Status;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use crate::callers::FakeCallers;
use crate::door;
use crate::door::Door;

const METHODS: [&str; 7] = [
    "/SpiffeWorkloadAPI/FetchX509SVID",
    "/SpiffeWorkloadAPI/FetchX509Bundles",
    "/SpiffeWorkloadAPI/FetchJWTSVID",
    "/SpiffeWorkloadAPI/FetchJWTBundles",
    "/SpiffeWorkloadAPI/ValidateJWTSVID",
    "/SpiffeWorkloadAPI/FetchWITSVID",
    "/SpiffeWorkloadAPI/FetchWITBundles",
];
/// What the probes of other agents and `grpcurl list` call.
const WITHOUT_HEADER: [&str; 4] = [
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
const NAME: &str = "workload.spiffe.io";

/// Asks with an empty message.
async fn ask(door: &Door, method: &'static str, values: &[&'static str], name: &'static str) -> Result<(), Status> {
    let mut client: Grpc<Channel> = Grpc::new(door.channel().await);
    client.ready().await.unwrap();
    let mut metadata = MetadataMap::new();
    for value in values {
        metadata.append(name, value.parse().unwrap());
    }
    let request = tonic::Request::from_parts(metadata, tonic::Extensions::default(), ());
    let codec = ProstCodec::<(), ()>::default();
    let answers = client.server_streaming(request, PathAndQuery::from_static(method), codec).await?;
    answers.into_inner().message().await.map(drop)
}

/// The code of the answer.
async fn code(door: &Door, method: &'static str, values: &[&'static str], name: &'static str) -> Code {
    ask(door, method, values, name).await.map_or_else(|refused| refused.code(), |()| Code::Ok)
}

#[tokio::test]
async fn every_method_of_the_workload_api_refuses_a_request_without_the_header() {
    let door = door::open(&FakeCallers::holding(&["spiffe://example.org/web"]), door::limits());
    let wrong: [(&[&str], &str); 8] = [
        (&[], NAME),
        (&["false"], NAME),
        (&["True"], NAME),
        (&["TRUE"], NAME),
        (&["1"], NAME),
        (&[""], NAME),
        (&["true", "true"], NAME),
        (&["true"], "workload-spiffe-io"),
    ];
    for method in METHODS {
        for (values, name) in wrong {
            assert_eq!(code(&door, method, values, name).await, Code::InvalidArgument, "{method} {name}: {values:?}");
        }
    }
}

#[tokio::test]
async fn health_and_reflection_are_served_without_the_header() {
    let door = door::open(&FakeCallers::holding(&["spiffe://example.org/web"]), door::limits());
    for method in WITHOUT_HEADER {
        let refused = ask(&door, method, &[], NAME).await.err().map(|status| status.message().to_owned());
        let empty_question = method.contains("reflection").then(|| "invalid MessageRequest".to_owned());
        assert_eq!(refused, empty_question, "{method}");
    }
}

/// WAPI-04: there is no protobuf package.
#[tokio::test]
async fn the_service_has_its_bare_name_only() {
    let door = door::open(&FakeCallers::holding(&["spiffe://example.org/web"]), door::limits());
    let method = "/spiffe.workload.SpiffeWorkloadAPI/FetchX509SVID";
    assert_eq!(code(&door, method, &["true"], NAME).await, Code::Unimplemented);
}
