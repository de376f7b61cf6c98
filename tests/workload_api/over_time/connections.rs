//! Several calls of one process on one connection.

use std::time::Duration;

use bonafide::agent::reload::ReloadTrigger;
use tonic::Code;

use crate::kernel::FakePid;
use crate::kernel::FakeProcess;
use crate::node::Seen;
use crate::node::TestNode;
use crate::node::workload;

const SECOND: Duration = Duration::from_secs(1);

fn node() -> TestNode {
    TestNode::start(7, &(workload("/web", &["unix:uid:1000"]) + &workload("/metrics", &["unix:uid:1000"])))
}

fn web(node: &TestNode) -> FakePid {
    node.kernel.spawn(FakeProcess { uid: 1000, ..FakeProcess::default() })
}

#[tokio::test(start_paused = true)]
async fn streams_and_calls_of_one_connection_are_answered_side_by_side() {
    let node = node();
    let client = node.client(&web(&node));
    let (mut svids, mut again) = (client.x509_svids().await, client.x509_svids().await);
    let (mut x509, mut jwt) = (client.x509_bundles().await, client.jwt_bundles().await);
    let (first, second) = (svids.update().await, again.update().await);
    assert_eq!(first.svids, second.svids, "all streams of a process have one key for each identity");
    assert_eq!(x509.update().await.bundles.len(), 1);
    assert_eq!(jwt.update().await.bundles.len(), 1);
    let tokens = client.jwt_svids("ledger", "").await.unwrap();
    let ids: Vec<_> = tokens.iter().map(|token| token.spiffe_id.as_str()).collect();
    assert_eq!(ids, ["spiffe://example.org/web", "spiffe://example.org/metrics"]);
    for token in tokens {
        assert_eq!(client.validate("ledger", &token.svid).await.unwrap().spiffe_id, token.spiffe_id);
        assert_eq!(client.validate("other", &token.svid).await.unwrap_err(), Code::InvalidArgument);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_refused_for_an_identity_that_the_process_lost() {
    let node = node();
    let web = web(&node);
    let client = node.client(&web);
    let metrics = "spiffe://example.org/metrics";
    assert_eq!(client.jwt_svids("ledger", metrics).await.unwrap().len(), 1);
    node.reload(&workload("/web", &["unix:uid:1000"]), ReloadTrigger::Asked);
    assert_eq!(client.jwt_svids("ledger", metrics).await.unwrap_err(), Code::PermissionDenied);
    assert_eq!(node.client(&web).jwt_svids("ledger", "").await.unwrap().len(), 1, "a reconnect is decided anew");
}

#[tokio::test(start_paused = true)]
async fn an_exit_ends_every_stream_of_the_connection() {
    let node = node();
    let web = web(&node);
    let client = node.client(&web);
    let (mut svids, mut bundles) = (client.x509_svids().await, client.x509_bundles().await);
    svids.update().await;
    bundles.update().await;
    web.exit();
    assert!(matches!(svids.within(SECOND).await, Some(Seen::End(_))));
    assert!(matches!(bundles.within(SECOND).await, Some(Seen::End(_))));
}
