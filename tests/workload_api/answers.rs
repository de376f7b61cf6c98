//! What the five RPCs answer.

use bonafide::endpoints::workload_api::proto::JwtBundlesRequest;
use bonafide::endpoints::workload_api::proto::JwtsvidRequest;
use bonafide::endpoints::workload_api::proto::ValidateJwtsvidRequest;
use bonafide::endpoints::workload_api::proto::WitBundlesRequest;
use bonafide::endpoints::workload_api::proto::WitsvidRequest;
use bonafide::endpoints::workload_api::proto::X509BundlesRequest;
use bonafide::endpoints::workload_api::proto::X509svidRequest;
use bonafide::entitlement::door::Ended;
use bonafide::readiness::Severity;
use prost_types::value::Kind;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::asking::asking;
use crate::callers::DECISION;
use crate::callers::FakeCallers;
use crate::callers::TOKEN;
use crate::callers::update;
use crate::door;

const WEB: &str = "spiffe://example.org/web";
const API: &str = "spiffe://example.org/api";

/// WAPI-06, 20, 21, 25, 26: every message is the whole state, all mandatory fields set, foreign bundles keyed by SPIFFE ID.
#[tokio::test]
async fn a_stream_of_x509_svids_carries_the_whole_state_now_and_at_every_change() {
    let callers = FakeCallers::holding(&[WEB, API]);
    let door = door::open(&callers, door::limits());
    let mut stream = door.client().await.fetch_x509svid(asking(X509svidRequest {})).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(first.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect::<Vec<_>>(), [WEB, API]);
    assert_eq!(first.svids[0].x509_svid, "00I", "leaf and intermediate, one after the other");
    assert_eq!(first.svids[0].x509_svid_key, "0K");
    assert_eq!(first.svids[1].bundle, "0B");
    assert_eq!(first.federated_bundles.keys().collect::<Vec<_>>(), ["spiffe://partner.test"]);

    callers.change(Ok(update(&[API], 1)));
    let second = stream.message().await.unwrap().unwrap();
    assert_eq!(second.svids.len(), 1);
    assert_eq!(second.federated_bundles, first.federated_bundles);
}

/// WAPI-28, 45, 46: the own domain is always among the bundles.
#[tokio::test]
async fn bundle_streams_name_the_own_trust_domain() {
    let door = door::open(&FakeCallers::holding(&[WEB]), door::limits());
    let mut client = door.client().await;
    let x509 = client.fetch_x509_bundles(asking(X509BundlesRequest {})).await.unwrap().into_inner().message().await;
    assert_eq!(x509.unwrap().unwrap().bundles["spiffe://example.org"], "0B");
    let jwt = client.fetch_jwt_bundles(asking(JwtBundlesRequest {})).await.unwrap().into_inner().message().await;
    assert_eq!(jwt.unwrap().unwrap().bundles["spiffe://example.org"], r#"{"keys":[]}"#);
}

/// WAPI-22, 41, 42, 43: audiences reach the token, `spiffe_id` chooses one identity, hints are handed on.
#[tokio::test]
async fn jwt_svids_are_for_the_audiences_asked_and_for_one_identity_or_all() {
    let door = door::open(&FakeCallers::holding(&[WEB, API]), door::limits());
    let mut client = door.client().await;
    let mut ask = async |id: &str| {
        let audience = vec!["a".to_owned(), "b".to_owned()];
        client.fetch_jwtsvid(asking(JwtsvidRequest { audience, spiffe_id: id.to_owned() })).await
    };
    let all = ask("").await.unwrap().into_inner().svids;
    assert_eq!(
        all.iter().map(|svid| (&*svid.spiffe_id, &*svid.hint)).collect::<Vec<_>>(),
        [(WEB, "web"), (API, "api")]
    );
    assert_eq!(all[0].svid, "token-for-a+b");
    assert_eq!(ask(API).await.unwrap().into_inner().svids.len(), 1);
    assert_eq!(ask("spiffe://example.org/other").await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(ask("spiffe://Example.org/web").await.unwrap_err().code(), Code::InvalidArgument);
}

/// WAPI-12, 40, 51.
#[tokio::test]
async fn a_mandatory_field_at_its_default_is_an_invalid_argument() {
    let door = door::open(&FakeCallers::holding(&[WEB]), door::limits());
    let mut client = door.client().await;
    let (too_many, long) = (vec!["a".to_owned(); 17], vec!["a".repeat(1025)]);
    for audience in [vec![], vec![String::new()], vec!["a".to_owned(), String::new()], too_many, long] {
        let refused = client.fetch_jwtsvid(asking(JwtsvidRequest { audience, spiffe_id: String::new() })).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    }
    for (audience, svid) in [("", TOKEN), ("a", "")] {
        let request = ValidateJwtsvidRequest { audience: audience.to_owned(), svid: svid.to_owned() };
        assert_eq!(client.validate_jwtsvid(asking(request)).await.unwrap_err().code(), Code::InvalidArgument);
    }
}

/// WAPI-49, 50, Q10, Q11: `aud` is shown as a list however the token has it.
#[tokio::test]
async fn a_valid_token_shows_its_claims_and_an_invalid_one_is_refused() {
    let door = door::open(&FakeCallers::holding(&[WEB]), door::limits());
    let mut client = door.client().await;
    let request = |svid: &str| asking(ValidateJwtsvidRequest { audience: "a".to_owned(), svid: svid.to_owned() });
    let valid = client.validate_jwtsvid(request(TOKEN)).await.unwrap().into_inner();
    assert_eq!(valid.spiffe_id, WEB);
    let claims = valid.claims.unwrap().fields;
    assert_eq!(claims["sub"].kind, Some(Kind::StringValue(WEB.to_owned())));
    assert_eq!(claims["exp"].kind, Some(Kind::NumberValue(1_900_000_000.0)));
    let Some(Kind::ListValue(audiences)) = &claims["aud"].kind else { panic!("{claims:?}") };
    assert_eq!(audiences.values[0].kind, Some(Kind::StringValue("a".to_owned())));
    assert_eq!(client.validate_jwtsvid(request("other")).await.unwrap_err().code(), Code::InvalidArgument);
}

/// WAPI-60.
#[tokio::test]
async fn both_wit_rpcs_are_unimplemented() {
    let door = door::open(&FakeCallers::holding(&[WEB]), door::limits());
    let mut client = door.client().await;
    let svid = client.fetch_witsvid(asking(WitsvidRequest::default())).await.unwrap_err();
    let bundles = client.fetch_wit_bundles(asking(WitBundlesRequest {})).await.unwrap_err();
    assert_eq!((svid.code(), bundles.code()), (Code::Unimplemented, Code::Unimplemented));
}

/// WEP-15, 16, WAPI-24, 29, 48: "no" and "could not find out" differ in their code.
#[tokio::test]
async fn who_has_nothing_is_told_so_on_every_rpc_and_learns_an_id_only() {
    for (ended, code) in
        [(Ended::Denied(DECISION), Code::PermissionDenied), (Ended::Undecided(DECISION), Code::Unavailable)]
    {
        let door = door::open(&FakeCallers::ended(ended), door::limits());
        let mut client = door.client().await;
        let mut x509 = client.fetch_x509svid(asking(X509svidRequest {})).await.unwrap().into_inner();
        let mut bundles = client.fetch_x509_bundles(asking(X509BundlesRequest {})).await.unwrap().into_inner();
        let mut jwt_bundles = client.fetch_jwt_bundles(asking(JwtBundlesRequest {})).await.unwrap().into_inner();
        let request = JwtsvidRequest { audience: vec!["a".to_owned()], spiffe_id: String::new() };
        let refusals = [
            x509.message().await.unwrap_err(),
            bundles.message().await.unwrap_err(),
            jwt_bundles.message().await.unwrap_err(),
            client.fetch_jwtsvid(asking(request)).await.unwrap_err(),
        ];
        for refusal in refusals {
            assert_eq!((refusal.code(), refusal.message()), (code, "no identity issued (d-7f31c2a90b4e)"));
        }
    }
}

/// WAPI-24, 73: a lost identity ends the stream.
#[tokio::test]
async fn a_stream_ends_when_its_identity_does() {
    let callers = FakeCallers::holding(&[WEB]);
    let door = door::open(&callers, door::limits());
    let mut stream = door.client().await.fetch_x509svid(asking(X509svidRequest {})).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    callers.change(Err(Ended::Denied(DECISION)));
    assert_eq!(stream.message().await.unwrap_err().code(), Code::PermissionDenied);
}

/// Health says no more than whether the daemon serves.
#[tokio::test]
async fn health_follows_readiness() {
    let door = door::open(&FakeCallers::holding(&[WEB]), door::limits());
    let mut client = HealthClient::new(door.channel().await);
    let question = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let mut watched = client.watch(question("")).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let authority = door.readiness.register("authority");
    authority.block(Severity::NotReady, "the authority cannot be reached");
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    let status = client.check(question("SpiffeWorkloadAPI")).await.unwrap().into_inner().status();
    assert_eq!(status, ServingStatus::NotServing);
    assert_eq!(client.check(question("entries")).await.unwrap_err().code(), Code::NotFound);
}

/// Attack 80: the size is refused before anything is decoded, and the connection stays.
#[tokio::test]
async fn a_request_of_megabytes_is_refused_and_the_next_one_is_served() {
    let door = door::open(&FakeCallers::holding(&[WEB]), door::limits());
    let mut client = door.client().await;
    let mut ask = async |audience: Vec<String>| {
        client.fetch_jwtsvid(asking(JwtsvidRequest { audience, spiffe_id: String::new() })).await
    };
    assert_eq!(ask(vec!["a".repeat(100); 40_000]).await.unwrap_err().code(), Code::OutOfRange);
    ask(vec!["a".to_owned()]).await.unwrap();
}
