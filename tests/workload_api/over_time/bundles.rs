//! Bundles while a node runs: its own authority's, and those of the trust domains that it believes.

use std::time::Duration;

use bonafide::agent::reload::ReloadTrigger;
use bonafide::evidence::Undecided;
use tonic::Code;

use crate::kernel::FakeProcess;
use crate::node::Client;
use crate::node::Configuration;
use crate::node::Folder;
use crate::node::Seen;
use crate::node::Setup;
use crate::node::TestNode;
use crate::node::Updates;
use crate::node::workload;

const OWN: &str = "spiffe://example.org";
const PARTNER: &str = "spiffe://partner.test";

fn user(node: &TestNode, uid: u32) -> Client {
    node.client(&node.kernel.spawn(FakeProcess { uid, gid: uid, ..FakeProcess::default() }))
}

/// What comes within a second.
async fn soon<M>(updates: &mut Updates<M>) -> M {
    match updates.within(Duration::from_secs(1)).await {
        Some(Seen::Update(update)) => update,
        Some(Seen::End(code)) => panic!("the stream ended with {code}"),
        None => panic!("nothing came"),
    }
}

/// A node whose user 1000 sees the bundle of a partner once `partner.json` in the folder has one.
fn federated() -> (TestNode, Folder) {
    let folder = Folder::default();
    let tables = format!(
        "{}federates_with = [\"partner.test\"]\n[[federation]]\ntrust_domain = \"partner.test\"\nbundle_file = {:?}\n",
        workload("/web", &["unix:uid:1000"]),
        folder.path("partner.json")
    );
    (TestNode::start(7, &tables), folder)
}

/// The partner, whose user 2000 is its `/client`.
fn partner() -> TestNode {
    let client = workload("/client", &["unix:uid:2000"]);
    let configuration = Configuration::Tables(&client);
    TestNode::with(Setup { trust_domain: "partner.test", configuration, ..Setup::default() })
}

/// The header of a token, which names its key.
fn key_id(token: &str) -> &str {
    token.split('.').next().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_new_key_of_the_authority_reaches_every_stream_within_a_second() {
    let node = TestNode::start(7, &workload("/web", &["unix:uid:1000"]));
    let web = user(&node, 1000);
    let (mut svids, mut x509, mut jwt) = (web.x509_svids().await, web.x509_bundles().await, web.jwt_bundles().await);
    let (old, _, old_keys) = (svids.update().await, x509.update().await, jwt.update().await);
    let old_token = web.jwt_svids("ledger", "").await.unwrap().remove(0).svid;
    node.rotate(None, false).unwrap();
    let both = soon(&mut svids).await.svids.remove(0).bundle;
    assert!(both.starts_with(&old.svids[0].bundle) && both.len() > old.svids[0].bundle.len());
    assert_eq!(soon(&mut x509).await.bundles[OWN], both);
    assert_ne!(soon(&mut jwt).await.bundles[OWN], old_keys.bundles[OWN]);
    tokio::time::sleep(Duration::from_secs(11)).await;
    let new_token = web.jwt_svids("ledger", "").await.unwrap().remove(0).svid;
    assert_ne!(key_id(&old_token), key_id(&new_token));
    for token in [old_token, new_token] {
        assert_eq!(web.validate("ledger", &token).await.unwrap().spiffe_id, format!("{OWN}/web"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_partners_bundle_reaches_its_streams_when_its_file_changes() {
    let ((node, folder), partner) = (federated(), partner());
    let (web, client) = (user(&node, 1000), user(&partner, 2000));
    let (mut svids, mut bundles) = (web.x509_svids().await, web.x509_bundles().await);
    let mut its_own = client.x509_bundles().await;
    assert!(svids.update().await.federated_bundles.is_empty(), "there is no such file yet");
    assert_eq!(bundles.update().await.bundles.len(), 1);
    for _ in 0..2 {
        let published = its_own.update().await.bundles.remove(PARTNER).unwrap();
        folder.write("partner.json", &partner.authority.document());
        assert_eq!(soon(&mut svids).await.federated_bundles[PARTNER], published);
        assert_eq!(soon(&mut bundles).await.bundles[PARTNER], published);
        partner.rotate(None, false).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_partners_token_is_valid_while_the_partner_is_believed() {
    let ((node, folder), partner) = (federated(), partner());
    let token = user(&partner, 2000).jwt_svids("ledger", "").await.unwrap().remove(0).svid;
    let web = user(&node, 1000);
    let mut keys = web.jwt_bundles().await;
    keys.update().await;
    assert_eq!(web.validate("ledger", &token).await.unwrap_err(), Code::InvalidArgument);
    folder.write("partner.json", &partner.authority.document());
    assert!(soon(&mut keys).await.bundles.contains_key(PARTNER));
    assert_eq!(web.validate("ledger", &token).await.unwrap().spiffe_id, format!("{PARTNER}/client"));
    node.reload(&workload("/web", &["unix:uid:1000"]), ReloadTrigger::Asked);
    assert!(!soon(&mut keys).await.bundles.contains_key(PARTNER));
    assert_eq!(web.validate("ledger", &token).await.unwrap_err(), Code::InvalidArgument);
}

/// SPEC: product contract §7: what an attestation found is used again for a short while.
#[tokio::test(start_paused = true)]
async fn a_decision_serves_validations_for_eight_seconds_and_nothing_that_is_handed_out() {
    let node = TestNode::start(7, &workload("/web", &["unix:uid:1000"]));
    for validations in [7, 9] {
        let process = node.kernel.spawn(FakeProcess { uid: 1000, gid: 1000, ..FakeProcess::default() });
        let web = node.client(&process);
        let token = web.jwt_svids("ledger", "").await.unwrap().remove(0).svid;
        process.fail(Undecided::OutOfDescriptors);
        let mut answers = Vec::new();
        for _ in 0..validations {
            tokio::time::sleep(Duration::from_secs(1)).await;
            answers.push(web.validate("ledger", &token).await.map(drop));
        }
        let expected = (1..=validations).map(|second| if second < 8 { Ok(()) } else { Err(Code::Unavailable) });
        assert!(answers.into_iter().eq(expected));
        assert_eq!(web.jwt_svids("ledger", "").await.unwrap_err(), Code::Unavailable);
    }
}
