//! Other readers than ours take an authority's own certificate for what it is.

use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::sync::Arc;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::UnixTime;
use webpki::EndEntityCert;
use webpki::KeyUsage;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::HOUR;
use super::life;
use super::local;
use super::order;
use super::own_certificate;
use super::release;
use super::signer;
use super::trust_domain;
use crate::authority::signing::certificates;
use crate::authority::signing::key::SignatureForm;
use crate::authority::signing::key::SigningKey;
use crate::authority::signing::life::Life;
use crate::identity::x509_profile::lint_authority;
use crate::identity::x509_profile::to_be_signed;
use crate::randomness::SystemRandomness;

/// A root, a leaf of it, and the leaf of another root.
async fn chains() -> [Bytes; 3] {
    let [key, other] = [local(SignatureForm::Asn1), local(SignatureForm::Asn1)];
    let [own, of_other] = [own_certificate(&key), own_certificate(&other)];
    let leaf = signer(Arc::new(key), &own).sign(&order(&["web.internal"])).await.unwrap().certificates.remove(0);
    let stranger = signer(Arc::new(other), &of_other).sign(&order(&["web.internal"])).await.unwrap();
    [own.der, leaf, stranger.certificates[0].clone()]
}

#[test]
fn x509_parser_and_the_lint_take_an_authority() {
    let key = local(SignatureForm::Asn1);
    for not_after in [release() + 168 * HOUR, release() + 30 * 365 * 24 * HOUR] {
        let life = Life { not_after, ..life() };
        let der = certificates::self_signed(&key, &trust_domain(), life, &SystemRandomness).unwrap();
        assert_eq!(lint_authority(&to_be_signed(&der).unwrap(), &trust_domain()), Ok(()));
        let (rest, root) = X509Certificate::from_der(&der).unwrap();
        assert!(rest.is_empty());
        root.verify_signature(None).unwrap();
        assert_eq!(root.public_key().raw, key.public_key());
        assert_eq!(root.validity().not_after.timestamp(), seconds(not_after));
        assert_eq!(root.raw_serial().len(), 17);
        assert!(root.is_ca());
    }
}

#[tokio::test]
async fn webpki_takes_an_authority_as_the_root_of_its_leaves_and_of_no_others() {
    let chains = chains().await.map(|der| CertificateDer::from(der.to_vec()));
    let [root, leaf, stranger] = &chains;
    let anchors = [webpki::anchor_from_trusted_cert(root).unwrap()];
    let verify = |leaf: &CertificateDer<'_>, at: SystemTime| {
        let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap());
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        let leaf = EndEntityCert::try_from(leaf).unwrap();
        leaf.verify_for_usage(algorithms, &anchors, &[], at, KeyUsage::server_auth(), None, None).map(|_| ())
    };
    assert_eq!(verify(leaf, release()), Ok(()));
    assert!(verify(leaf, release() + 2 * HOUR).is_err());
    assert!(verify(stranger, release()).is_err());
}

#[tokio::test]
async fn openssl_takes_an_authority_as_the_root_of_its_leaves_and_shows_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let [root, leaf, stranger] = ["root.pem", "leaf.pem", "stranger.pem"].map(|name| folder.path().join(name));
    for (path, der) in [&root, &leaf, &stranger].into_iter().zip(chains().await) {
        let text = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64.encode(der));
        std::fs::write(path, text).unwrap();
    }
    let Ok(shown) = openssl(&["x509", "-noout", "-text", "-nameopt", "RFC2253", "-in"], &root) else {
        eprintln!(
            "skipped: openssl_takes_an_authority_as_the_root_of_its_leaves_and_shows_what_it_says: no openssl here"
        );
        return;
    };
    let shown = String::from_utf8(shown.stdout).unwrap();
    let shown: Vec<_> = shown.lines().map(str::trim).collect();
    for lines in [
        ["X509v3 Subject Alternative Name:", "URI:spiffe://example.org"],
        ["X509v3 Key Usage: critical", "Certificate Sign, CRL Sign"],
        ["X509v3 Basic Constraints: critical", "CA:TRUE"],
    ] {
        assert!(shown.windows(2).any(|pair| pair == lines), "{lines:?} is not in {shown:#?}");
    }
    for begins in ["Issuer: CN=bonafide authority 01", "Subject: CN=bonafide authority 01"] {
        assert!(shown.iter().any(|line| line.starts_with(begins)), "{begins:?} is not in {shown:#?}");
    }
    let (at, root) = (seconds(release()).to_string(), root.display().to_string());
    let verify = ["verify", "-x509_strict", "-check_ss_sig", "-attime", &at, "-CAfile", &root];
    let verified = |path: &Path| openssl(&verify, path).unwrap();
    for path in [Path::new(&root), &leaf] {
        let output = verified(path);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(!verified(&stranger).status.success());
}

fn openssl(arguments: &[&str], file: &Path) -> std::io::Result<Output> {
    Command::new("openssl").args(arguments).arg(file).output()
}

fn seconds(time: SystemTime) -> i64 {
    i64::try_from(time.duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}
