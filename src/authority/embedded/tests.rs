//! What the embedded authority signs, read back by other readers than the ones that wrote it.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::encoding::PublicKeyX509Der;
use aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::KeyPair;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::authority::Authority;
use crate::authority::Chain;
use crate::authority::Order;
use crate::authority::Refused;
use crate::authority::embedded::Embedded;
use crate::authority::embedded::RELEASE_DATE;
use crate::authority::embedded::Settings;
use crate::randomness::SystemRandomness;

const HOUR: Duration = Duration::from_secs(3600);
const CA_TTL: Duration = Duration::from_secs(168 * 3600);

fn release() -> SystemTime {
    UNIX_EPOCH + RELEASE_DATE
}

fn settings() -> Settings {
    Settings { trust_domain: "example.org".parse().unwrap(), ca_ttl: CA_TTL, jwt_issuer: None }
}

fn authority() -> Embedded {
    Embedded::in_memory(settings(), release(), Arc::new(SystemRandomness)).unwrap()
}

fn order(issued: SystemTime, ttl: Duration) -> Order {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    Order {
        id: "spiffe://example.org/payments/api".parse().unwrap(),
        dns: vec!["payments.internal".to_owned()],
        public_key: Bytes::copy_from_slice(public.as_ref()),
        issued,
        not_after: issued + ttl,
    }
}

async fn sign(authority: &Embedded, order: Order) -> Result<Chain, Refused> {
    authority.x509(vec![order]).await.remove(0)
}

#[tokio::test]
async fn openssl_accepts_the_chain_in_strict_mode_for_servers_and_clients() {
    let now = SystemTime::UNIX_EPOCH + RELEASE_DATE + HOUR;
    let authority = authority();
    let chain = sign(&authority, order(now, HOUR)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (root, leaf) = (folder.path().join("root.pem"), folder.path().join("leaf.pem"));
    std::fs::write(&root, pem(&authority.bundle().borrow().x509_authorities[0])).unwrap();
    std::fs::write(&leaf, pem(&chain.certificates[0])).unwrap();
    let at = now.duration_since(UNIX_EPOCH).unwrap().as_secs().to_string();
    for purpose in ["sslserver", "sslclient"] {
        let output = Command::new("openssl")
            .args(["verify", "-x509_strict", "-attime", &at, "-purpose", purpose, "-CAfile"])
            .args([&root, &leaf])
            .output();
        let Ok(output) = output else {
            eprintln!("skipped: openssl_accepts_the_chain_in_strict_mode_for_servers_and_clients: no openssl here");
            return;
        };
        assert!(output.status.success(), "{purpose}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn pem(der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[tokio::test]
async fn a_leaf_that_would_outlive_the_authority_is_cut_to_its_end_and_says_so() {
    let authority = authority();
    let chain = sign(&authority, order(release() + HOUR, 1000 * HOUR)).await.unwrap();
    assert!(chain.clamped);
    assert_eq!(chain.not_after, authority.not_after());
    let (_, leaf) = X509Certificate::from_der(&chain.certificates[0]).unwrap();
    let end = authority.not_after().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(u64::try_from(leaf.validity().not_after.timestamp()).unwrap(), end);
}
