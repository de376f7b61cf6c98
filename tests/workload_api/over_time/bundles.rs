//! Bundles while a node runs: its own authority's, and those of the trust domains that it believes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bonafide::authority::Authority as _;
use bonafide::authority::TokenOrder;
use bonafide::authority::embedded::Embedded;
use bonafide::authority::embedded::EmbeddedSettings;
use bonafide::endpoints::workload_api::proto::X509svidResponse;
use bonafide::randomness::SystemRandomness;
use bonafide::time::Clock as _;
use tonic::Code;

use crate::kernel::FakePid;
use crate::kernel::FakeProcess;
use crate::node::ConfigFolder;
use crate::node::Configuration;
use crate::node::Seen;
use crate::node::Setup;
use crate::node::TestNode;
use crate::node::Updates;
use crate::node::workload;

const SECOND: Duration = Duration::from_secs(1);
const OWN: &str = "spiffe://example.org";
const PARTNER: &str = "spiffe://partner.test";

fn web(node: &TestNode) -> FakePid {
    node.kernel.spawn(FakeProcess { uid: 1000, ..FakeProcess::default() })
}

/// What comes within a second.
async fn soon<M>(updates: &mut Updates<M>) -> M {
    match updates.within(SECOND).await {
        Some(Seen::Update(update)) => update,
        Some(Seen::End(code)) => panic!("the stream ended with {code}"),
        None => panic!("nothing came"),
    }
}

/// The authority of a partner.
fn partner(node: &TestNode) -> Embedded {
    let settings = EmbeddedSettings {
        trust_domain: "partner.test".parse().unwrap(),
        ca_ttl: Duration::from_secs(24 * 3600),
        jwt_issuer: None,
    };
    Embedded::in_memory(settings, node.clock.now(), Arc::new(SystemRandomness)).unwrap()
}

fn document(authority: &Embedded) -> String {
    String::from_utf8(authority.bundle().borrow().to_spiffe_json().to_vec()).unwrap()
}

/// A node whose user 1000 sees the bundle of a partner once there is one in its file.
fn federated() -> (TestNode, ConfigFolder) {
    let folder = ConfigFolder::new(&federation());
    let node = TestNode::with(Setup { configuration: Configuration::Files(&folder), ..Setup::default() });
    (node, folder)
}

fn federation() -> String {
    let entry = workload("/web", &["unix:uid:1000"]);
    format!("{entry}federates_with = [\"partner.test\"]\n[[federation]]\n{PARTNER_TABLE}")
}

const PARTNER_TABLE: &str = "trust_domain = \"partner.test\"\nbundle_file = \"partner.json\"\n";

fn x509_bundle(authority: &Embedded) -> BTreeMap<String, Vec<u8>> {
    [(PARTNER.to_owned(), authority.bundle().borrow().x509_der_concatenated().to_vec())].into()
}

fn foreign(update: &X509svidResponse) -> BTreeMap<String, Vec<u8>> {
    update.federated_bundles.iter().map(|(name, bundle)| (name.clone(), bundle.to_vec())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_new_key_of_the_authority_reaches_every_stream_within_a_second() {
    let node = TestNode::start(7, &workload("/web", &["unix:uid:1000"]));
    let client = node.client(&web(&node));
    let (mut svids, mut x509) = (client.x509_svids().await, client.x509_bundles().await);
    let mut jwt = client.jwt_bundles().await;
    let (svid, _, old_keys) = (svids.update().await, x509.update().await, jwt.update().await);
    let old_token = client.jwt_svids("ledger", "").await.unwrap().remove(0).svid;
    node.authority.rotate(node.clock.now());
    let with_both = soon(&mut svids).await.svids.remove(0).bundle;
    assert!(with_both.starts_with(&svid.svids[0].bundle) && with_both.len() > svid.svids[0].bundle.len());
    assert_eq!(soon(&mut x509).await.bundles[OWN], with_both);
    assert_ne!(soon(&mut jwt).await.bundles[OWN], old_keys.bundles[OWN]);
    let new_token = client.jwt_svids("ledger", "").await.unwrap().remove(0).svid;
    for token in [old_token, new_token] {
        assert_eq!(client.validate("ledger", &token).await.unwrap().spiffe_id, format!("{OWN}/web"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_partners_bundle_reaches_whom_it_concerns_when_its_file_changes() {
    let (node, folder) = federated();
    let client = node.client(&web(&node));
    let (mut svids, mut bundles) = (client.x509_svids().await, client.x509_bundles().await);
    assert_eq!(foreign(&svids.update().await), BTreeMap::new(), "there is no such file yet");
    assert_eq!(bundles.update().await.bundles.len(), 1);
    for partner in [partner(&node), partner(&node)] {
        folder.write("partner.json", &document(&partner));
        assert_eq!(foreign(&soon(&mut svids).await), x509_bundle(&partner));
        assert_eq!(soon(&mut bundles).await.bundles[PARTNER], x509_bundle(&partner)[PARTNER]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_partners_token_is_valid_as_long_as_the_partner_is_believed() {
    let (node, folder) = federated();
    let partner = partner(&node);
    let order = TokenOrder {
        id: format!("{PARTNER}/client").parse().unwrap(),
        audiences: vec!["ledger".to_owned()],
        issued: node.clock.now(),
        not_after: node.clock.now() + 300 * SECOND,
        token_id: "1".to_owned(),
    };
    let token = partner.jwt(order).await.unwrap().compact;
    let client = node.client(&web(&node));
    let mut keys = client.jwt_bundles().await;
    keys.update().await;
    assert_eq!(client.validate("ledger", &token).await.unwrap_err(), Code::InvalidArgument);
    folder.write("partner.json", &document(&partner));
    assert!(soon(&mut keys).await.bundles.contains_key(PARTNER));
    assert_eq!(client.validate("ledger", &token).await.unwrap().spiffe_id, format!("{PARTNER}/client"));
    folder.write_main(&workload("/web", &["unix:uid:1000"]));
    assert!(!soon(&mut keys).await.bundles.contains_key(PARTNER));
    assert_eq!(client.validate("ledger", &token).await.unwrap_err(), Code::InvalidArgument);
}
