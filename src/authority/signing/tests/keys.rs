//! What a key signs, and what one that fails leaves behind.

use std::sync::Arc;

use aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1;
use aws_lc_rs::signature::UnparsedPublicKey;
use futures_util::future::FutureExt;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::DistantKey;
use super::life;
use super::local;
use super::new_key;
use super::order;
use super::own_certificate;
use super::signer;
use super::token;
use super::trust_domain;
use crate::authority::keys::KeyId;
use crate::authority::order::Refused;
use crate::authority::signing::certificates;
use crate::authority::signing::certificates::OwnCertificate;
use crate::authority::signing::key::LocalKey;
use crate::authority::signing::key::SignatureForm;
use crate::authority::signing::key::SigningKey;
use crate::authority::signing::linting::LintingKey;
use crate::authority::signing::linting::Signs;
use crate::authority::signing::tokens::JwtSigner;
use crate::authority::signing::tokens::jwt_authority;
use crate::identity::PrivateKey;
use crate::identity::x509_profile::IssuedBy;
use crate::identity::x509_profile::ProfileViolation;
use crate::identity::x509_profile::lint_authority;
use crate::identity::x509_profile::lint_leaf;
use crate::identity::x509_profile::to_be_signed;
use crate::randomness::SystemRandomness;

/// Every certificate that differs from a good one in one octet.
fn spoiled(good: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..good.len()).flat_map(move |at| {
        [0x01, 0x04, 0x80].map(|bit| {
            let mut spoiled = good.to_vec();
            spoiled[at] ^= bit;
            spoiled
        })
    })
}

fn verdict(linted: Result<(), ProfileViolation>) -> Result<(), Refused> {
    linted.map_err(|violation| Refused::BugLint(violation.to_string()))
}

#[tokio::test]
async fn every_leaf_is_linted_over_exactly_the_bytes_that_are_signed() {
    let key = Arc::new(DistantKey::new(SignatureForm::Asn1));
    let own = own_certificate(&key.key);
    let leaf = signer(key.clone(), &own).sign(&order(&["web.internal"])).await.unwrap().certificates.remove(0);
    let good = to_be_signed(&leaf).unwrap();
    assert_eq!(key.signed(), [&good[..]]);

    let signs = Signs::Leaves { key_id: own.key_id.clone(), not_after: own.life.not_after };
    let linting = LintingKey::new(key.clone() as Arc<dyn SigningKey>, trust_domain(), signs);
    let issuer = IssuedBy { trust_domain: &trust_domain(), key_id: &own.key_id, not_after: own.life.not_after };
    let (mut signed, mut refused) = (0, 0);
    for bytes in spoiled(&good) {
        match (linting.certificate(&bytes).await, verdict(lint_leaf(&bytes, &issuer))) {
            (Ok(certificate), Ok(())) => {
                signed += 1;
                assert_eq!(key.signed(), [&bytes[..]]);
                assert!(certificate.windows(bytes.len()).any(|window| window == bytes));
            }
            (Err(refusal), Err(violation)) => {
                refused += 1;
                assert_eq!(refusal, violation);
                assert!(key.signed().is_empty());
            }
            differ => panic!("{differ:?}"),
        }
    }
    assert!(signed > 100 && refused > 100, "{signed} signed, {refused} refused");
}

#[test]
fn every_authority_is_linted_over_exactly_the_bytes_that_are_signed() {
    let key = local(SignatureForm::Asn1);
    let good = to_be_signed(&own_certificate(&key).der).unwrap();
    let linting = LintingKey::new(&key, trust_domain(), Signs::Itself);
    let (_, public) = key.public_key().split_at(key.public_key().len() - 65);
    let verifies = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public);
    let (mut signed, mut refused) = (0, 0);
    for bytes in spoiled(&good) {
        match (linting.certificate_now(&bytes), verdict(lint_authority(&bytes, &trust_domain()))) {
            (Ok(certificate), Ok(())) => {
                signed += 1;
                let begins = certificate.windows(bytes.len()).position(|window| window == bytes).unwrap();
                // Behind them: the algorithm, and the head of the bit string.
                let signature = &certificate[begins + bytes.len() + 12 + 3..];
                verifies.verify(&bytes, signature).unwrap();
            }
            (Err(refusal), Err(violation)) => {
                refused += 1;
                assert_eq!(refusal, violation);
            }
            differ => panic!("{differ:?}"),
        }
    }
    assert!(signed > 100 && refused > 100, "{signed} signed, {refused} refused");
}

#[test]
fn a_leaf_is_no_certificate_that_a_key_makes_of_itself_and_the_reverse() {
    let key = local(SignatureForm::Asn1);
    let own = own_certificate(&key);
    let leaf = signer(Arc::new(key), &own).sign(&order(&[])).now_or_never().unwrap().unwrap();
    let leaf = to_be_signed(&leaf.certificates[0]).unwrap();
    let key = local(SignatureForm::Asn1);
    let itself = LintingKey::new(&key, trust_domain(), Signs::Itself);
    assert!(matches!(itself.certificate_now(&leaf), Err(Refused::BugLint(_))));
    let signs = Signs::Leaves { key_id: own.key_id, not_after: own.life.not_after };
    let leaves = LintingKey::new(&key, trust_domain(), signs);
    let own = to_be_signed(&own.der).unwrap();
    assert!(matches!(leaves.certificate_now(&own), Err(Refused::BugLint(_))));
}

#[tokio::test]
async fn a_key_that_fails_to_sign_gives_unavailable_and_no_certificate_and_no_token() {
    let pulled_out = || Refused::Unavailable("the token was pulled out".to_owned());
    let key = DistantKey { fails: true, ..DistantKey::new(SignatureForm::Asn1) };
    let own = own_certificate(&key.key);
    assert_eq!(signer(Arc::new(key), &own).sign(&order(&[])).await.unwrap_err(), pulled_out());
    let key = DistantKey { fails: true, ..DistantKey::new(SignatureForm::FixedWidth) };
    let tokens = JwtSigner::new(Arc::new(key), None, life()).unwrap();
    assert_eq!(tokens.sign(&token()).await.unwrap_err(), pulled_out());
}

#[tokio::test]
async fn a_signature_of_the_wrong_form_is_put_on_nothing() {
    let wrong = || Refused::Unavailable("its signature has the wrong form".to_owned());
    let (for_tokens, for_certificates) = (local(SignatureForm::FixedWidth), local(SignatureForm::Asn1));
    let own = certificates::self_signed(&for_tokens, &trust_domain(), life(), &SystemRandomness);
    assert_eq!(own.unwrap_err(), wrong());
    let own = own_certificate(&for_certificates);
    assert_eq!(signer(Arc::new(for_tokens), &own).sign(&order(&[])).await.unwrap_err(), wrong());
    let tokens = JwtSigner::new(Arc::new(for_certificates), None, life()).unwrap();
    assert_eq!(tokens.sign(&token()).await.unwrap_err(), wrong());
}

#[tokio::test]
async fn a_key_that_answers_later_signs_certificates_and_tokens() {
    let key = Arc::new(DistantKey::new(SignatureForm::Asn1));
    let own = own_certificate(&key.key);
    let chain = signer(key, &own).sign(&order(&[])).await.unwrap();
    let (_, leaf) = X509Certificate::from_der(&chain.certificates[0]).unwrap();
    let (_, root) = X509Certificate::from_der(&own.der).unwrap();
    leaf.verify_signature(Some(root.public_key())).unwrap();

    let key = Arc::new(DistantKey::new(SignatureForm::FixedWidth));
    let signed = JwtSigner::new(key.clone(), None, life()).unwrap().sign(&token()).await.unwrap();
    let jwk = jwt_authority(key.public_key()).unwrap().jwk();
    let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(jwk.into()).unwrap();
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    rules.validate_exp = false;
    rules.set_audience(&["ledger"]);
    let key = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
    jsonwebtoken::decode::<serde_json::Value>(&signed.compact, &key, &rules).unwrap();
}

#[tokio::test]
async fn a_chain_names_the_key_that_signed_it_by_the_first_octets_of_its_key_id() {
    let key = local(SignatureForm::Asn1);
    let own = own_certificate(&key);
    let chain = signer(Arc::new(key), &own).sign(&order(&[])).await.unwrap();
    let first: String = own.key_id[..8].iter().map(|octet| format!("{octet:02x}")).collect();
    assert_eq!(chain.issuer.to_string(), first);
    assert_eq!(chain.issuer, own.key());
}

#[test]
fn a_key_id_of_any_length_names_its_key() {
    let own = own_certificate(&local(SignatureForm::Asn1));
    for (key_id, name) in [
        (&b""[..], 0),
        (b"\x01", 0x0100_0000_0000_0000),
        (b"\x00\x01", 0x0001_0000_0000_0000),
        (b"\x01\x02\x03\x04\x05\x06\x07", 0x0102_0304_0506_0700),
        (b"\x01\x02\x03\x04\x05\x06\x07\x08", 0x0102_0304_0506_0708),
        (b"\x01\x02\x03\x04\x05\x06\x07\x08\x09", 0x0102_0304_0506_0708),
    ] {
        let own = OwnCertificate { key_id: key_id.to_vec(), ..own.clone() };
        assert_eq!(own.key(), KeyId(name), "{key_id:?}");
    }
}

#[test]
fn only_a_p256_key_is_taken_up() {
    let of_another_curve = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    for der in [of_another_curve.serialized_der().to_vec(), b"no key".to_vec(), Vec::new()] {
        assert!(LocalKey::new(&PrivateKey::from_pkcs8(der), SignatureForm::Asn1).is_none());
    }
    assert!(LocalKey::new(&new_key(), SignatureForm::FixedWidth).is_some());
}

#[test]
fn debug_shows_nothing_of_a_key_but_its_public_half() {
    let key = local(SignatureForm::Asn1);
    let expected = format!("LocalKey {{ public: {:?}, .. }}", key.public_key());
    assert_eq!(format!("{key:?}"), expected);
    let own = own_certificate(&key);
    let shown = format!("{:?}", signer(Arc::new(key), &own));
    assert_eq!(shown, format!("X509Signer {{ id: {:?}, life: {:?}, .. }}", own.key(), own.life));
    let tokens = JwtSigner::new(Arc::new(local(SignatureForm::FixedWidth)), None, life()).unwrap();
    assert_eq!(format!("{tokens:?}"), format!("JwtSigner {{ life: {:?}, .. }}", life()));
}
