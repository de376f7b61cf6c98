//! The SPIFFE bundle format: a JWK Set with `use`, a sequence and a refresh hint (SPEC: Trust Domain and Bundle §4).

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde_json::Map;
use serde_json::Value;

use crate::identity::bundle::Because;
use crate::identity::bundle::Bundle;
use crate::identity::bundle::Element;
use crate::identity::bundle::Ignored;
use crate::identity::bundle::JwtAuthority;
use crate::identity::bundle::MAX_BUNDLE;
use crate::identity::bundle::MAX_KEYS;
use crate::identity::bundle::NotABundle;
use crate::identity::bundle::root::Root;
use crate::identity::jose::Algorithm;
use crate::identity::jose::PublicKey;
use crate::identity::jose::json;
use crate::identity::trust_domain::TrustDomain;

/// What a refresh hint is clamped to, in seconds: a minute to a day.
const REFRESH_HINT: std::ops::RangeInclusive<u64> = 60..=86_400;

const X509_SVID: &str = "x509-svid";
const JWT_SVID: &str = "jwt-svid";
const WIT_SVID: &str = "wit-svid";

/// Reads a bundle of `trust_domain`, and what of it had to be ignored: a single element that cannot be used does not
/// take the others with it (SPEC: Trust Domain and Bundle §4.1.3, §4.2).
pub(super) fn read(trust_domain: TrustDomain, bytes: &[u8]) -> Result<(Bundle, Vec<Ignored>), NotABundle> {
    let document = json::object(bytes, MAX_BUNDLE)?;
    let Some(Value::Array(keys)) = document.get("keys") else { return Err(NotABundle::NoKeys) };
    if keys.len() > MAX_KEYS {
        return Err(NotABundle::TooManyKeys { keys: keys.len() });
    }
    let mut bundle = Bundle::empty(trust_domain);
    let mut ignored = Vec::new();
    let uses_of = key_id_uses(keys);
    for (index, key) in keys.iter().enumerate() {
        match read_key(key, &uses_of, &mut bundle) {
            Ok(()) => {}
            Err(why) => ignored.push(Ignored { element: Element::Key(index), why }),
        }
    }
    let member = |name: &'static str, why| Ignored { element: Element::Member(name), why };
    bundle.sequence = document.get("spiffe_sequence").and_then(|sequence| {
        let read = sequence.as_u64();
        if read.is_none() {
            ignored.push(member("spiffe_sequence", Because::NotAnInteger));
        }
        read
    });
    bundle.refresh_hint = document.get("spiffe_refresh_hint").and_then(|hint| {
        let read = hint.as_u64().or_else(|| hint.as_i64().map(|_| 0));
        let clamped = read.map(|seconds| seconds.clamp(*REFRESH_HINT.start(), *REFRESH_HINT.end()));
        match clamped {
            None => ignored.push(member("spiffe_refresh_hint", Because::NotAnInteger)),
            Some(used) if read != Some(used) => ignored.push(member("spiffe_refresh_hint", Because::Clamped { used })),
            Some(_) => {}
        }
        clamped
    });
    Ok((bundle, ignored))
}

/// How many keys for tokens have each `kid`. One that two keys share names neither, also across JWT and WIT keys
/// (SPEC: WIT-SVID §6.1).
fn key_id_uses(keys: &[Value]) -> BTreeMap<&str, usize> {
    let mut uses = BTreeMap::new();
    for key in keys.iter().filter(|key| matches!(key["use"].as_str(), Some(JWT_SVID | WIT_SVID))) {
        if let Some(key_id) = key["kid"].as_str() {
            *uses.entry(key_id).or_default() += 1;
        }
    }
    uses
}

fn read_key(key: &Value, uses_of: &BTreeMap<&str, usize>, bundle: &mut Bundle) -> Result<(), Because> {
    let key = key.as_object().ok_or(Because::NotAnObject)?;
    match key.get("use").and_then(Value::as_str) {
        Some(X509_SVID) => {
            let (root, surplus) = x509_authority(key)?;
            if !bundle.x509_authorities.contains(&root) {
                bundle.x509_authorities.push(root);
            }
            // SECURITY: only the first certificate counts; the others are not vouched for (SPEC: X509-SVID §6.2).
            if surplus { Err(Because::SurplusCertificates) } else { Ok(()) }
        }
        Some(JWT_SVID) => {
            bundle.jwt_authorities.push(jwt_authority(key, uses_of)?);
            Ok(())
        }
        Some(WIT_SVID) => Err(Because::WitSvid),
        _ => Err(Because::Use),
    }
}

/// The first certificate, and whether there are more.
fn x509_authority(key: &Map<String, Value>) -> Result<(Bytes, bool), Because> {
    let certificates = key.get("x5c").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let [certificate, surplus @ ..] = certificates else { return Err(Because::NoCertificate) };
    // SPEC: RFC 7517 §4.7: standard base64, not base64url, and without line breaks.
    let der = certificate.as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
    let der = der.ok_or(Because::CertificateEncoding)?;
    let root = Root::read(&der)?;
    if PublicKey::from_jwk(key)? != *root.key() {
        return Err(Because::OtherKey);
    }
    Ok((der.into(), !surplus.is_empty()))
}

fn jwt_authority(key: &Map<String, Value>, uses_of: &BTreeMap<&str, usize>) -> Result<JwtAuthority, Because> {
    let key_id = key.get("kid").and_then(Value::as_str).ok_or(Because::NoKeyId)?;
    if uses_of.get(key_id).is_some_and(|uses| *uses > 1) {
        return Err(Because::SharedKeyId);
    }
    let algorithm = match key.get("alg") {
        None => None,
        Some(name) => Some(name.as_str().and_then(Algorithm::from_name).ok_or(Because::Algorithm)?),
    };
    Ok(JwtAuthority::new(key_id, PublicKey::from_jwk(key)?, algorithm)?)
}

/// Writes a bundle as its publisher must: each root in an element of its own, without `kid`; each JWT key with it
/// (SPEC: X509-SVID §6.1, JWT-SVID §6.1); nothing that the standard does not define.
pub(super) fn write(bundle: &Bundle) -> Bytes {
    let roots = bundle.x509_authorities.iter().filter_map(|der| {
        let mut jwk = Root::read(der).ok()?.key().jwk();
        jwk.insert("use".to_owned(), X509_SVID.into());
        jwk.insert("x5c".to_owned(), vec![BASE64_STANDARD.encode(der)].into());
        Some(Value::Object(jwk))
    });
    let tokens = bundle.jwt_authorities.iter().map(|authority| {
        let mut jwk = authority.key().jwk();
        jwk.insert("use".to_owned(), JWT_SVID.into());
        jwk.insert("kid".to_owned(), authority.key_id().into());
        Value::Object(jwk)
    });
    let mut document = Map::from_iter([("keys".to_owned(), roots.chain(tokens).collect())]);
    document.extend(bundle.sequence.map(|sequence| ("spiffe_sequence".to_owned(), sequence.into())));
    document.extend(bundle.refresh_hint.map(|hint| ("spiffe_refresh_hint".to_owned(), hint.into())));
    Value::Object(document).to_string().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::BasicConstraints;
    use rcgen::CertificateParams;
    use rcgen::IsCa;
    use rcgen::KeyPair;
    use rcgen::KeyUsagePurpose;
    use serde_json::json;

    use super::*;
    use crate::identity::bundle::InvalidJwtAuthority;
    use crate::identity::bundle::root::NotARoot;
    use crate::identity::jose::InvalidJson;
    use crate::identity::jose::UnusableKey;

    fn partner() -> TrustDomain {
        "partner.test".parse().unwrap()
    }

    /// A certificate of a fresh key, and that key's JWK members.
    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> (Vec<u8>, Map<String, Value>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        change(&mut params);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        let jwk = PublicKey::from_spki(parsed.public_key().raw).unwrap().jwk();
        (der, jwk)
    }

    fn root_key() -> Value {
        let (der, jwk) = certificate(|_| {});
        let mut jwk = Value::Object(jwk);
        jwk["use"] = X509_SVID.into();
        jwk["x5c"] = json!([BASE64_STANDARD.encode(der)]);
        jwk
    }

    fn token_key(key_id: &str) -> Value {
        let (_, jwk) = certificate(|_| {});
        let mut jwk = Value::Object(jwk);
        jwk["use"] = JWT_SVID.into();
        jwk["kid"] = key_id.into();
        jwk
    }

    fn with(mut key: Value, name: &str, value: Value) -> Value {
        key[name] = value;
        key
    }

    fn without(mut key: Value, name: &str) -> Value {
        key.as_object_mut().unwrap().remove(name);
        key
    }

    fn read_value(document: &Value) -> Result<(Bundle, Vec<Ignored>), NotABundle> {
        read(partner(), document.to_string().as_bytes())
    }

    /// Reads a bundle with a good root, `odd`, and a good key for tokens: the good ones must always be there.
    fn beside_good_keys(odd: Value) -> (Bundle, Vec<Because>) {
        let (bundle, ignored) = read_value(&json!({"keys": [root_key(), odd, token_key("good")]})).unwrap();
        assert!(!bundle.x509_authorities.is_empty(), "the good root is used");
        assert!(bundle.jwt_authorities.iter().any(|key| key.key_id() == "good"), "the good key is used");
        assert!(ignored.iter().all(|ignored| ignored.element == Element::Key(1)), "{ignored:?}");
        (bundle, ignored.into_iter().map(|ignored| ignored.why).collect())
    }

    fn ignored_alone(odd: Value) -> Because {
        let (bundle, ignored) = beside_good_keys(odd);
        assert_eq!((bundle.x509_authorities.len(), bundle.jwt_authorities.len()), (1, 1), "{ignored:?}");
        let [why] = ignored[..] else { panic!("one reason for one element: {ignored:?}") };
        why
    }

    #[test]
    fn a_document_without_an_array_of_keys_is_no_bundle() {
        for document in
            [json!({}), json!({"keys": null}), json!({"keys": {}}), json!({"keys": "x"}), json!({"Keys": []})]
        {
            assert_eq!(read_value(&document), Err(NotABundle::NoKeys), "{document}");
        }
    }

    #[test]
    fn an_empty_set_is_a_bundle_that_believes_nobody() {
        assert_eq!(read_value(&json!({"keys": []})), Ok((Bundle::empty(partner()), vec![])));
    }

    #[test]
    fn a_key_of_no_unknown_or_miswritten_use_is_ignored() {
        assert_eq!(ignored_alone(without(root_key(), "use")), Because::Use);
        for used in [
            json!("sig"),
            json!("future-svid"),
            json!("X509-SVID"),
            json!("JWT-SVID"),
            json!(null),
            json!(["jwt-svid"]),
        ] {
            assert_eq!(ignored_alone(with(root_key(), "use", used.clone())), Because::Use, "{used}");
            assert_eq!(ignored_alone(with(token_key("k"), "use", used.clone())), Because::Use, "{used}");
        }
        assert_eq!(ignored_alone("a text".into()), Because::NotAnObject);
    }

    #[test]
    fn a_key_for_wit_svids_is_left_out_and_is_no_fault() {
        let why = ignored_alone(with(token_key("w"), "use", WIT_SVID.into()));
        assert_eq!(why, Because::WitSvid);
        assert!(!why.is_a_fault());
    }

    #[test]
    fn a_key_of_an_unknown_type_is_ignored() {
        for kty in [json!("AKP"), json!("XYZ"), json!("OKP"), json!("ec"), json!(null)] {
            assert_eq!(
                ignored_alone(with(token_key("k"), "kty", kty.clone())),
                Because::Key(UnusableKey::Type),
                "{kty}"
            );
            assert_eq!(ignored_alone(with(root_key(), "kty", kty)), Because::Key(UnusableKey::Type));
        }
    }

    #[test]
    fn a_root_without_certificate_is_ignored() {
        assert_eq!(ignored_alone(without(root_key(), "x5c")), Because::NoCertificate);
        for x5c in [json!([]), json!(null), json!("MIIB")] {
            assert_eq!(ignored_alone(with(root_key(), "x5c", x5c)), Because::NoCertificate);
        }
    }

    #[test]
    fn of_two_certificates_only_the_first_becomes_a_root() {
        let (first, attacker) = (root_key(), root_key());
        let both = json!([first["x5c"][0], attacker["x5c"][0]]);
        let (bundle, ignored) = beside_good_keys(with(first.clone(), "x5c", both));
        assert_eq!(ignored, [Because::SurplusCertificates]);
        let der = |key: &Value| Bytes::from(BASE64_STANDARD.decode(key["x5c"][0].as_str().unwrap()).unwrap());
        assert!(bundle.x509_authorities.contains(&der(&first)));
        assert!(!bundle.x509_authorities.contains(&der(&attacker)));
    }

    #[test]
    fn a_certificate_in_another_base64_is_ignored() {
        let good = root_key();
        let text = good["x5c"][0].as_str().unwrap();
        let broken_lines = format!("{}\n{}", &text[..64], &text[64..]);
        let url_safe = format!("-_{}", &text[2..]);
        for text in [broken_lines, url_safe, format!("{text}=="), format!(" {text}"), text[..41].to_owned()] {
            assert_eq!(ignored_alone(with(good.clone(), "x5c", json!([text]))), Because::CertificateEncoding);
        }
        assert_eq!(ignored_alone(with(good, "x5c", json!([1]))), Because::CertificateEncoding);
    }

    #[test]
    fn a_certificate_that_is_no_ca_is_ignored() {
        let odd = |change: fn(&mut CertificateParams)| {
            let (der, jwk) = certificate(change);
            with(with(Value::Object(jwk), "use", X509_SVID.into()), "x5c", json!([BASE64_STANDARD.encode(der)]))
        };
        assert_eq!(ignored_alone(odd(|params| params.is_ca = IsCa::NoCa)), Because::Root(NotARoot::NotACa));
        assert_eq!(ignored_alone(odd(|params| params.is_ca = IsCa::ExplicitNoCa)), Because::Root(NotARoot::NotACa));
        let no_sign = |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::CrlSign];
        assert_eq!(ignored_alone(odd(no_sign)), Because::Root(NotARoot::NoKeyCertSign));
        let (der, jwk) = certificate(|_| {});
        let trailing = BASE64_STANDARD.encode([&der[..], &[0]].concat());
        let trailing = with(with(Value::Object(jwk), "use", X509_SVID.into()), "x5c", json!([trailing]));
        assert_eq!(ignored_alone(trailing), Because::Root(NotARoot::NotACertificate));
        assert_eq!(ignored_alone(with(root_key(), "x5c", json!(["AAAA"]))), Because::Root(NotARoot::NotACertificate));
    }

    #[test]
    fn a_root_whose_key_is_not_the_certificates_is_ignored() {
        let other = root_key();
        let swapped = with(with(root_key(), "x", other["x"].clone()), "y", other["y"].clone());
        assert_eq!(ignored_alone(swapped), Because::OtherKey);
        assert_eq!(ignored_alone(without(root_key(), "x")), Because::Key(UnusableKey::Member { member: "x" }));
    }

    #[test]
    fn a_key_for_tokens_without_a_usable_kid_is_ignored() {
        assert_eq!(ignored_alone(without(token_key("k"), "kid")), Because::NoKeyId);
        assert_eq!(ignored_alone(with(token_key("k"), "kid", 7.into())), Because::NoKeyId);
        for bytes in [0, 129] {
            let why = Because::JwtAuthority(InvalidJwtAuthority::KeyId { bytes });
            assert_eq!(ignored_alone(token_key(&"k".repeat(bytes))), why);
        }
    }

    #[test]
    fn of_two_keys_with_one_kid_neither_is_used() {
        for second in [token_key("twice"), with(token_key("twice"), "use", WIT_SVID.into())] {
            let document = json!({"keys": [token_key("twice"), token_key("good"), second]});
            let (bundle, ignored) = read_value(&document).unwrap();
            assert_eq!(bundle.jwt_authorities.iter().map(JwtAuthority::key_id).collect::<Vec<_>>(), ["good"]);
            assert_eq!(ignored[0], Ignored { element: Element::Key(0), why: Because::SharedKeyId });
            assert_eq!(ignored.len(), 2);
        }
    }

    #[test]
    fn a_key_with_private_or_shared_material_is_ignored() {
        for member in ["d", "k", "p", "oth"] {
            let why = Because::Key(UnusableKey::Private { member });
            assert_eq!(ignored_alone(with(token_key("k"), member, "AAAA".into())), why);
            assert_eq!(ignored_alone(with(root_key(), member, "AAAA".into())), why);
        }
        let shared = json!({"kty": "oct", "use": "jwt-svid", "kid": "k", "k": "AAAA"});
        assert_eq!(ignored_alone(shared), Because::Key(UnusableKey::Private { member: "k" }));
    }

    #[test]
    fn a_key_bound_to_an_alg_that_is_unknown_or_not_its_own_is_ignored() {
        assert_eq!(ignored_alone(with(token_key("k"), "alg", "ES256K".into())), Because::Algorithm);
        assert_eq!(ignored_alone(with(token_key("k"), "alg", 1.into())), Because::Algorithm);
        let other = Because::JwtAuthority(InvalidJwtAuthority::Algorithm);
        assert_eq!(ignored_alone(with(token_key("k"), "alg", "RS256".into())), other);
        assert_eq!(ignored_alone(with(token_key("k"), "alg", "ES384".into())), other);
        assert_eq!(beside_good_keys(with(token_key("k"), "alg", "ES256".into())).1, []);
    }

    #[test]
    fn a_name_twice_at_any_depth_is_no_bundle() {
        for text in [
            r#"{"keys":[],"keys":[]}"#.to_owned(),
            r#"{"keys":[{"use":"sig","use":"jwt-svid"}]}"#.to_owned(),
            r#"{"keys":[],"other":{"a":1,"a":2}}"#.to_owned(),
        ] {
            let refused = read(partner(), text.as_bytes());
            assert!(matches!(refused, Err(NotABundle::Json(InvalidJson::DuplicateName { .. }))), "{text}");
        }
    }

    #[test]
    fn a_refresh_hint_is_clamped_and_one_that_is_no_integer_is_ignored() {
        for (hint, used) in [
            (json!(300), Some(300)),
            (json!(0), Some(60)),
            (json!(-1), Some(60)),
            (json!(1_000_000_000_000_u64), Some(86_400)),
            (json!("60"), None),
            (json!(60.5), None),
            (json!(null), None),
        ] {
            let (bundle, ignored) = read_value(&json!({"keys": [], "spiffe_refresh_hint": hint})).unwrap();
            assert_eq!(bundle.refresh_hint, used, "{hint}");
            assert_eq!(ignored.len(), usize::from(hint != json!(300)), "{hint}");
        }
    }

    #[test]
    fn a_sequence_of_64_bits_is_kept_exactly_and_anything_else_ignored() {
        for (text, read) in [
            ("9007199254740993", Some(9_007_199_254_740_993)),
            ("18446744073709551615", Some(u64::MAX)),
            ("0", Some(0)),
            ("18446744073709551616", None),
            ("1.5", None),
            ("-1", None),
            ("\"7\"", None),
        ] {
            let document = format!(r#"{{"keys":[],"spiffe_sequence":{text}}}"#);
            let (bundle, ignored) = super::read(partner(), document.as_bytes()).unwrap();
            assert_eq!(bundle.sequence, read, "{text}");
            assert_eq!(ignored.is_empty(), read.is_some(), "{text}");
        }
    }

    #[test]
    fn too_much_is_refused_whole() {
        let spaces = format!("{{\"keys\":[]{}}}", " ".repeat(MAX_BUNDLE));
        let refused = read(partner(), spaces.as_bytes());
        assert_eq!(refused, Err(NotABundle::Json(InvalidJson::TooLarge { limit: MAX_BUNDLE })));
        let keys = |count: usize| json!({"keys": vec![Value::from(1); count]});
        assert_eq!(read_value(&keys(100_000)), Err(NotABundle::TooManyKeys { keys: 100_000 }));
        assert!(read_value(&keys(MAX_KEYS)).is_ok());
    }

    #[test]
    fn a_document_that_is_not_only_json_is_refused() {
        let utf16: Vec<u8> = "{\"keys\":[]}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for bytes in [&b"\xef\xbb\xbf{\"keys\":[]}"[..], &utf16, b"{\"keys\":[]}x", b"<html>{\"keys\":[]}</html>", b""]
        {
            assert!(matches!(read(partner(), bytes), Err(NotABundle::Json(InvalidJson::Syntax { .. }))));
            assert!(Bundle::from_document(partner(), bytes).is_err());
        }
    }

    #[test]
    fn unknown_members_do_no_harm() {
        let (_, ignored) = beside_good_keys(with(token_key("k"), "x-more", json!({"a": [1]})));
        assert_eq!(ignored, []);
        let (bundle, ignored) =
            read_value(&json!({"keys": [token_key("k")], "x": 1, "trust_domain": "evil.test"})).unwrap();
        assert_eq!((bundle.trust_domain, bundle.jwt_authorities.len(), ignored.len()), (partner(), 1, 0));
        assert_eq!(beside_good_keys(with(root_key(), "kid", "x".into())).1, [], "a kid on a root means nothing");
    }

    #[test]
    fn our_own_root_in_a_foreign_bundle_stays_in_the_foreign_bundle() {
        let ours = root_key();
        let (bundle, ignored) = read_value(&json!({"keys": [ours]})).unwrap();
        assert_eq!((bundle.trust_domain, bundle.x509_authorities.len(), ignored.len()), (partner(), 1, 0));
    }

    #[test]
    fn an_expired_root_is_read() {
        let (der, jwk) = certificate(|params| params.not_after = rcgen::date_time_ymd(2001, 1, 1));
        let key = with(with(Value::Object(jwk), "use", X509_SVID.into()), "x5c", json!([BASE64_STANDARD.encode(&der)]));
        let (bundle, ignored) = read_value(&json!({"keys": [key]})).unwrap();
        assert_eq!((bundle.x509_authorities, ignored), (vec![Bytes::from(der)], vec![]));
    }

    #[test]
    fn a_bundle_is_written_as_a_publisher_must() {
        let document = json!({
            "keys": [root_key(), root_key(), token_key("a")],
            "spiffe_sequence": 7,
            "spiffe_refresh_hint": 300,
        });
        let (bundle, _) = read_value(&document).unwrap();
        let written: Value = serde_json::from_slice(&write(&bundle)).unwrap();
        assert_eq!(written, document, "the same elements, nothing more and nothing less");
        let empty: Value = serde_json::from_slice(&write(&Bundle::empty(partner()))).unwrap();
        assert_eq!(empty, json!({"keys": []}));
    }

    #[test]
    fn the_workload_api_gets_keys_for_tokens_alone_without_use_and_with_alg() {
        let (bundle, _) = read_value(&json!({"keys": [root_key(), token_key("a")]})).unwrap();
        let jwks: Value = serde_json::from_slice(&bundle.jwks_for_workload_api()).unwrap();
        let members: Vec<&String> = jwks["keys"][0].as_object().unwrap().keys().collect();
        assert_eq!(jwks["keys"].as_array().unwrap().len(), 1);
        assert_eq!(members, ["alg", "crv", "kid", "kty", "x", "y"]);
        assert_eq!(Bundle::empty(partner()).jwks_for_workload_api(), r#"{"keys":[]}"#);
    }

    proptest! {
        /// Any document near a bundle is read without panic, and what was read reads the same once written.
        #[test]
        fn a_bundle_survives_writing_and_reading(picks in prop::collection::vec((0..6_usize, 0..8_usize, any::<bool>()), 0..4)) {
            let keys: Vec<Value> = picks.into_iter().map(|(base, member, remove)| {
                let key = if base % 2 == 0 { root_key() } else { token_key(["a", "b", "c"][base / 2]) };
                let name = ["kty", "use", "kid", "x5c", "crv", "x", "alg", "d"][member];
                if remove { without(key, name) } else { with(key, name, "ES256".into()) }
            }).collect();
            let (bundle, _) = read_value(&json!({"keys": keys})).unwrap();
            let (again, ignored) = read(partner(), &write(&bundle)).unwrap();
            prop_assert_eq!((again, ignored), (bundle, vec![]));
        }
    }
}
