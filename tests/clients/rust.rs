//! The crates `spiffe` and `spiffe-rustls`.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use spiffe::JwtSource;
use spiffe::JwtSvid;
use spiffe::SpiffeId;
use spiffe::WorkloadApiClient;
use spiffe::X509Source;
use spiffe_rustls::authorizer;
use spiffe_rustls::mtls_client;
use spiffe_rustls::mtls_server;
use spiffe_rustls_tokio::TlsAcceptor;
use spiffe_rustls_tokio::TlsConnector;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::daemon::Daemon;
use crate::tools::entry;

const ID: &str = "spiffe://example.org/rust";

fn node() -> Daemon {
    Daemon::start(&entry("/rust", &std::env::current_exe().unwrap()))
}

async fn source(node: &Daemon) -> X509Source {
    X509Source::builder().endpoint(node.address()).build().await.unwrap()
}

#[tokio::test]
async fn the_spiffe_crate_sees_an_svid_its_bundle_and_its_rotation() {
    let node = node();
    let source = source(&node).await;
    let first = source.svid().unwrap();
    assert_eq!(first.spiffe_id().to_string(), ID);
    let bundle = source.try_bundle_for_trust_domain(first.spiffe_id().trust_domain()).unwrap();
    assert_eq!(bundle.authorities().len(), 1);
    timeout(Duration::from_secs(9), source.updated().changed()).await.expect("a rotation within 9 s").unwrap();
    let second = source.svid().unwrap();
    assert_eq!(second.spiffe_id(), first.spiffe_id());
    assert_ne!(second.leaf().as_bytes(), first.leaf().as_bytes());
    assert_ne!(second.private_key().as_bytes(), first.private_key().as_bytes());
}

#[tokio::test]
async fn the_spiffe_crate_gets_a_token_that_it_and_the_daemon_verify() {
    let node = node();
    let source = JwtSource::builder().endpoint(node.address()).build().await.unwrap();
    let token = source.fetch_jwt_svid(["ledger"]).await.unwrap();
    assert_eq!(token.spiffe_id().to_string(), ID);
    JwtSvid::parse_and_validate(token.token(), &source, &["ledger"]).unwrap();
    JwtSvid::parse_and_validate(token.token(), &source, &["other"]).unwrap_err();
    let client = WorkloadApiClient::connect_to(node.address()).await.unwrap();
    client.validate_jwt_token("ledger", token.token()).await.unwrap();
    client.validate_jwt_token("other", token.token()).await.unwrap_err();
}

#[tokio::test]
async fn the_spiffe_crate_reads_a_denial_as_no_identity_issued() {
    let node = Daemon::start(&entry("/somebody-else", "/bin/true".as_ref()));
    let client = WorkloadApiClient::connect_to(node.address()).await.unwrap();
    let error = client.fetch_x509_svid().await.unwrap_err();
    assert!(matches!(error, spiffe::WorkloadApiError::NoIdentityIssued), "{error:?}");
}

/// A handshake between a server and a client that have just built their sources.
async fn handshake(node: &Daemon, expected: SpiffeId) -> Result<SpiffeId, String> {
    let config = mtls_server(source(node).await).build().unwrap();
    let acceptor = TlsAcceptor::new(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(async move { acceptor.accept(listener.accept().await.unwrap().0).await });

    let client = mtls_client(source(node).await).authorize(authorizer::exact([expected]).unwrap());
    let connector = TlsConnector::new(Arc::new(client.build().unwrap()));
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("server.invalid").unwrap();
    connector.connect(name, stream).await.map_err(|why| why.to_string())?;
    let (_, client) = served.await.unwrap().map_err(|why| why.to_string())?;
    Ok(client.spiffe_id().unwrap().clone())
}

#[tokio::test]
async fn spiffe_rustls_talks_to_the_right_peer_and_to_no_other() {
    let node = node();
    let id = SpiffeId::new(ID).unwrap();
    assert_eq!(handshake(&node, id.clone()).await, Ok(id));
    handshake(&node, SpiffeId::new("spiffe://example.org/stranger").unwrap()).await.unwrap_err();
}

#[tokio::test]
async fn two_hundred_first_handshakes_of_spiffe_rustls_fail_not_once() {
    let node = node();
    let id = SpiffeId::new(ID).unwrap();
    let mut failed = Vec::new();
    for nth in 0..200 {
        if let Err(why) = handshake(&node, id.clone()).await {
            failed.push((nth, why));
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}
