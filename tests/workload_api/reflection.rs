//! What reflection shows: the public services and nothing more (WEP-18, WEP-20, attack 83).

use prost::Message as _;
use prost_types::FileDescriptorProto;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::callers::FakeCallers;
use crate::door;
use crate::door::Door;

async fn reflect(door: &Door, question: MessageRequest) -> MessageResponse {
    let question = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut client = ServerReflectionClient::new(door.channel().await);
    let questions = tokio_stream::once(question);
    let mut answers = client.server_reflection_info(questions).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap().message_response.unwrap()
}

#[tokio::test]
async fn reflection_lists_the_public_services_and_the_standard_methods() {
    let door = door::open(&FakeCallers::holding(&["spiffe://example.org/web"]), door::limits());
    let MessageResponse::ListServicesResponse(list) = reflect(&door, MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list")
    };
    let mut services: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    services.sort_unstable();
    assert_eq!(services, ["SpiffeWorkloadAPI", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"]);

    let symbol = MessageRequest::FileContainingSymbol("SpiffeWorkloadAPI".to_owned());
    let MessageResponse::FileDescriptorResponse(files) = reflect(&door, symbol).await else { panic!("no file") };
    let file = FileDescriptorProto::decode(files.file_descriptor_proto[0].as_slice()).unwrap();
    assert_eq!(file.package, None);
    let methods: Vec<_> = file.service[0].method.iter().map(|method| method.name().to_owned()).collect();
    let standard = [
        "FetchX509SVID",
        "FetchX509Bundles",
        "FetchJWTSVID",
        "FetchJWTBundles",
        "ValidateJWTSVID",
        "FetchWITSVID",
        "FetchWITBundles",
    ];
    assert_eq!(methods, standard);
}
