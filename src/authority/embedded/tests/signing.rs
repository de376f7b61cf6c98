//! What the authority signs, read back by other readers than the ones that wrote it.

use std::collections::HashSet;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use futures_util::future::FutureExt;
use proptest::prelude::*;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::CA_TTL;
use super::HOUR;
use super::authority;
use super::entry;
use super::moment;
use super::order;
use super::order_for;
use super::release;
use super::seconds;
use super::settings;
use super::sign;
use super::token;
use crate::authority::Authority;
use crate::authority::EmbeddedSettings;
use crate::authority::NoAuthority;
use crate::authority::Refused;
use crate::authority::TokenOrder;
use crate::authority::Validity;
use crate::authority::embedded::Embedded;
use crate::randomness::SystemRandomness;

#[tokio::test]
async fn openssl_accepts_the_chain_in_strict_mode_for_servers_and_clients() {
    let now = release() + HOUR;
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

#[tokio::test]
async fn openssl_reads_the_subject_in_order_and_a_wildcard_as_one_label() {
    let mut entry = Arc::unwrap_or_clone(entry(&["*.payments.internal", "payments.internal"]));
    entry.terms.subject = "O=Example,C=DE".parse().unwrap();
    let (now, authority) = (release() + HOUR, authority());
    let chain = sign(&authority, order_for(Arc::new(entry), now, HOUR)).await.unwrap();
    let leaf = chain.certificates[0].to_vec().into();
    let leaf = webpki::EndEntityCert::try_from(&leaf).unwrap();
    for (name, is_ours) in [
        ("a.payments.internal", true),
        ("payments.internal", true),
        ("a.b.payments.internal", false),
        ("ledger.internal", false),
    ] {
        assert_eq!(leaf.verify_is_valid_for_subject_name(&name.try_into().unwrap()).is_ok(), is_ours, "{name}");
    }
    let folder = tempfile::tempdir().unwrap();
    let (root, leaf) = (folder.path().join("root.pem"), folder.path().join("leaf.pem"));
    std::fs::write(&root, pem(&authority.bundle().borrow().x509_authorities[0])).unwrap();
    std::fs::write(&leaf, pem(&chain.certificates[0])).unwrap();
    let openssl = |arguments: &[&str]| Command::new("openssl").args(arguments).arg(&leaf).output();
    let Ok(shown) = openssl(&["x509", "-noout", "-subject", "-nameopt", "RFC2253", "-in"]) else {
        eprintln!("skipped: openssl_reads_the_subject_in_order_and_a_wildcard_as_one_label: no openssl here");
        return;
    };
    assert_eq!(String::from_utf8_lossy(&shown.stdout), "subject=CN=*.payments.internal,O=Example,C=DE\n");
    let (at, root) = (seconds(now).to_string(), root.display().to_string());
    let verify = ["verify", "-x509_strict", "-attime", &at, "-CAfile", &root, "-verify_hostname"];
    let verified = |name: &str| openssl(&[&verify[..], &[name]].concat()).unwrap().status.success();
    assert!(verified("a.payments.internal") && verified("payments.internal"));
    assert!(!verified("a.b.payments.internal") && !verified("ledger.internal"));
}

#[tokio::test]
async fn without_a_dns_name_the_subject_is_empty_and_the_names_are_critical() {
    let now = release() + HOUR;
    let chain = sign(&authority(), order_for(entry(&[]), now, HOUR)).await.unwrap();
    let (_, leaf) = X509Certificate::from_der(&chain.certificates[0]).unwrap();
    assert!(leaf.subject().iter().next().is_none());
    assert!(leaf.subject_alternative_name().unwrap().unwrap().critical);
}

fn pem(der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[tokio::test]
async fn a_leaf_says_what_was_ordered_and_nothing_else() {
    let now = release() + HOUR;
    let chain = sign(&authority(), order(now, HOUR)).await.unwrap();
    let (_, leaf) = X509Certificate::from_der(&chain.certificates[0]).unwrap();
    assert_eq!(leaf.validity().not_before.timestamp(), seconds(now) - 60);
    assert_eq!(leaf.validity().not_after.timestamp(), seconds(now + HOUR));
    assert_eq!(leaf.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect::<String>(), chain.serial);
    let names: Vec<_> = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
    let expected = [GeneralName::URI("spiffe://example.org/payments/api"), GeneralName::DNSName("payments.internal")];
    assert_eq!(names, expected);
    assert_eq!(leaf.subject().to_string(), "CN=payments.internal");
    assert!(!leaf.subject_alternative_name().unwrap().unwrap().critical);
    assert!(!chain.clamped);
}

#[tokio::test]
async fn a_leaf_that_would_outlive_the_authority_is_cut_to_its_end_and_says_so() {
    let authority = authority();
    let chain = sign(&authority, order(release() + HOUR, 1000 * HOUR)).await.unwrap();
    assert!(chain.clamped);
    assert_eq!(chain.not_after, authority.not_after().unwrap());
}

#[tokio::test]
async fn an_authority_that_has_cut_an_svid_short_is_ending_from_then_on() {
    let authority = authority();
    let (now, ends) = (release() + HOUR, authority.not_after().unwrap());
    sign(&authority, order(now, HOUR)).await.unwrap();
    assert_eq!(authority.validity(now), Some(Validity::Valid));
    authority.jwt(token(now, 1000 * HOUR)).await.unwrap();
    assert_eq!(authority.validity(now), Some(Validity::Ending { ends }));
    assert_eq!(authority.validity(now - HOUR), Some(Validity::Valid), "the clock was set back to before that");
    sign(&authority, order(now - HOUR, 1000 * HOUR)).await.unwrap();
    assert_eq!(authority.validity(now - HOUR), Some(Validity::Ending { ends }));
}

/// Attack 101. The lint stands behind the clamp: with the clamp returning what was wanted, nothing is signed at all.
#[test]
fn no_leaf_and_no_token_ends_after_the_authority_does() {
    let authority = authority();
    let ends = (seconds(authority.not_after().unwrap()), authority.not_after().unwrap());
    proptest!(|(begins in 0_u64..170 * 3600, nanos in 0_u32..1_000_000_000, ttl in 1_u64..u64::MAX / 4)| {
        let issued = release() + Duration::new(begins, nanos);
        let mut order = order(issued, Duration::ZERO);
        order.not_after = issued.checked_add(Duration::from_secs(ttl)).unwrap_or(issued);
        let mut token = token(issued, Duration::ZERO);
        token.not_after = order.not_after;
        match sign(&authority, order).now_or_never().unwrap() {
            Ok(chain) => {
                let (_, leaf) = X509Certificate::from_der(&chain.certificates[0]).unwrap();
                prop_assert!(leaf.validity().not_after.timestamp() <= ends.0);
                prop_assert_eq!(leaf.validity().not_after.timestamp(), seconds(chain.not_after));
                prop_assert!(issued < ends.1);
            }
            Err(refused) => prop_assert!(matches!(refused, Refused::OutsideLife(_))),
        }
        if let Ok(token) = authority.jwt(token).now_or_never().unwrap() {
            prop_assert!(claims(&token.compact)["exp"].as_i64().unwrap() <= ends.0);
        }
    });
}

#[tokio::test]
async fn signing_stops_outside_the_authoritys_life_and_resumes_within_it() {
    let authority = authority();
    let wrong = [release() - HOUR, UNIX_EPOCH, authority.not_after().unwrap(), authority.not_after().unwrap() + HOUR];
    for wrong in wrong {
        let refused = sign(&authority, order(wrong, HOUR)).await.unwrap_err();
        assert!(matches!(refused, Refused::OutsideLife(_)), "{refused}");
        let refused = authority.jwt(token(wrong, HOUR)).await.unwrap_err();
        assert!(matches!(refused, Refused::OutsideLife(_)), "{refused}");
        assert!(sign(&authority, order(release() + HOUR, HOUR)).await.is_ok());
        assert!(authority.jwt(token(release() + HOUR, HOUR)).await.is_ok());
    }
}

#[test]
fn no_authority_is_made_by_a_clock_that_is_before_the_release() {
    let made = Embedded::in_memory(settings(), moment(release() - Duration::from_secs(1)), Arc::new(SystemRandomness));
    assert!(matches!(made, Err(NoAuthority::ClockBeforeRelease)));
}

/// Attack 97, where it counts: the signing key itself refuses.
#[tokio::test]
async fn what_breaks_the_profile_is_not_signed() {
    let mut foreign = order(release(), HOUR);
    foreign.id = "spiffe://other.test/payments/api".parse().unwrap();
    let refused = sign(&authority(), foreign).await.unwrap_err();
    assert_eq!(refused, Refused::BugLint("its SPIFFE ID is of another trust domain".to_owned()));
    let mut unwritable = order(release(), HOUR);
    unwritable.entry = entry(&["bücher.example"]);
    assert!(matches!(sign(&authority(), unwritable).await, Err(Refused::BugLint(_))));
}

/// Attack 102.
#[tokio::test]
async fn ten_thousand_leaves_have_ten_thousand_serials_of_128_random_bits() {
    let authority = authority();
    let one = order(release(), HOUR);
    let mut serials = HashSet::new();
    let (mut always_set, mut never_set) = (u128::MAX, 0);
    for _ in 0..10_000 {
        let serial = sign(&authority, one.clone()).await.unwrap().serial;
        assert_eq!((serial.len(), &serial[..2]), (34, "01"));
        let random = u128::from_str_radix(&serial[2..], 16).unwrap();
        always_set &= random;
        never_set |= random;
        assert!(serials.insert(serial));
    }
    assert_eq!((always_set, never_set), (0, u128::MAX));
}

#[tokio::test]
async fn the_authoritys_certificate_is_the_only_root_with_the_configured_life() {
    let authority = authority();
    let bundle = authority.bundle().borrow().clone();
    let [root] = bundle.x509_authorities.as_slice() else { panic!("{bundle:?}") };
    let (_, root) = X509Certificate::from_der(root).unwrap();
    assert_eq!(root.validity().not_before.timestamp(), seconds(release()) - 48 * 3600);
    assert_eq!(root.validity().not_after.timestamp(), seconds(release() + CA_TTL));
    let usage = root.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.key_cert_sign() && !usage.value.digital_signature());
    let names = &root.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.as_slice(), [GeneralName::URI("spiffe://example.org")]);
    assert!(root.subject().iter_common_name().next().is_some());
}

#[tokio::test]
async fn a_certificate_past_2049_is_still_a_certificate() {
    let long = EmbeddedSettings { ca_ttl: HOUR * 24 * 365 * 30, ..settings() };
    let authority = Embedded::in_memory(long, moment(release()), Arc::new(SystemRandomness)).unwrap();
    let root = authority.bundle().borrow().x509_authorities[0].clone();
    let (_, root) = X509Certificate::from_der(&root).unwrap();
    assert!(root.validity().not_after.is_generalizedtime());
    assert!(!root.validity().not_before.is_generalizedtime());
    assert!(sign(&authority, order(release(), HOUR)).await.is_ok());
}

#[tokio::test]
async fn a_token_has_exactly_the_header_and_the_claims_of_the_standard() {
    let authority = authority();
    let token = authority.jwt(token(release() + Duration::from_millis(1500), HOUR)).await.unwrap();
    let parts: Vec<_> = token.compact.split('.').collect();
    let key_id = authority.bundle().borrow().jwt_authorities[0].key_id().to_owned();
    assert_eq!(json(parts[0]), serde_json::json!({"alg": "ES256", "kid": key_id, "typ": "JWT"}));
    let begins = seconds(release()) + 1;
    let expected = serde_json::json!({
        "sub": "spiffe://example.org/payments/api",
        "aud": ["ledger"],
        "iat": begins,
        "exp": begins + 3600,
        "jti": "5f3a",
    });
    assert_eq!(json(parts[1]), expected);
    assert_eq!(BASE64URL.decode(parts[2]).unwrap().len(), 64);
    assert_eq!(seconds(token.not_after), begins + 3600);
}

#[tokio::test]
async fn another_library_verifies_a_token_with_the_key_in_the_bundle_alone() {
    let (authority, stranger) = (authority(), super::authority());
    let signed = authority.jwt(token(release(), HOUR)).await.unwrap();
    let verifies_with = |authority: &Embedded| {
        let jwk = authority.bundle().borrow().jwt_authorities[0].jwk();
        let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(jwk.into()).unwrap();
        let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
        rules.validate_exp = false;
        rules.set_audience(&["ledger"]);
        let key = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
        jsonwebtoken::decode::<serde_json::Value>(&signed.compact, &key, &rules).is_ok()
    };
    assert!(verifies_with(&authority));
    assert!(!verifies_with(&stranger));
}

#[tokio::test]
async fn a_token_names_the_issuer_that_is_configured_and_has_an_audience() {
    let with_issuer = EmbeddedSettings { jwt_issuer: Some("https://oidc.example.org".to_owned()), ..settings() };
    let authority = Embedded::in_memory(with_issuer, moment(release()), Arc::new(SystemRandomness)).unwrap();
    let signed = authority.jwt(token(release(), HOUR)).await.unwrap();
    assert_eq!(claims(&signed.compact)["iss"], "https://oidc.example.org");
    let nobody = TokenOrder { audiences: vec![], ..token(release(), HOUR) };
    assert!(matches!(authority.jwt(nobody).await, Err(Refused::BugLint(_))));
}

fn claims(compact: &str) -> serde_json::Value {
    json(compact.split('.').nth(1).unwrap())
}

fn json(part: &str) -> serde_json::Value {
    serde_json::from_slice(&BASE64URL.decode(part).unwrap()).unwrap()
}
