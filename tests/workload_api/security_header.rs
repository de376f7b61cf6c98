//! The header that keeps browsers and tricked HTTP clients out (WEP-05, WEP-06, Q5, Q21, attack 69).

use tonic::Code;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use crate::callers::FakeCallers;
use crate::door;
use crate::door::Door;

const METHODS: [&str; 11] = [
    "/SpiffeWorkloadAPI/FetchX509SVID",
    "/SpiffeWorkloadAPI/FetchX509Bundles",
    "/SpiffeWorkloadAPI/FetchJWTSVID",
    "/SpiffeWorkloadAPI/FetchJWTBundles",
    "/SpiffeWorkloadAPI/ValidateJWTSVID",
    "/SpiffeWorkloadAPI/FetchWITSVID",
    "/SpiffeWorkloadAPI/FetchWITBundles",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Asks with an empty message; the code of the answer.
async fn code(door: &Door, method: &'static str, values: &[&'static str], name: &'static str) -> Code {
    let mut client: Grpc<Channel> = Grpc::new(door.channel().await);
    client.ready().await.unwrap();
    let mut metadata = MetadataMap::new();
    for value in values {
        metadata.append(name, value.parse().unwrap());
    }
    let request = tonic::Request::from_parts(metadata, tonic::Extensions::default(), ());
    let codec = ProstCodec::<(), ()>::default();
    match client.server_streaming(request, PathAndQuery::from_static(method), codec).await {
        Err(refused) => refused.code(),
        Ok(answer) => match answer.into_inner().message().await {
            Err(refused) => refused.code(),
            Ok(_) => Code::Ok,
        },
    }
}

#[tokio::test]
async fn every_method_refuses_a_request_without_the_exact_header() {
    let door = door::open(&FakeCallers::holding(&["spiffe://example.org/web"]), door::limits());
    const NAME: &str = "workload.spiffe.io";
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
    assert_eq!(code(&door, "/grpc.health.v1.Health/Check", &["true"], NAME).await, Code::Ok);
}

/// WAPI-04: there is no protobuf package.
#[tokio::test]
async fn the_service_has_its_bare_name_only() {
    let door = door::open(&FakeCallers::holding(&["spiffe://example.org/web"]), door::limits());
    let method = "/spiffe.workload.SpiffeWorkloadAPI/FetchX509SVID";
    assert_eq!(code(&door, method, &["true"], "workload.spiffe.io").await, Code::Unimplemented);
}
