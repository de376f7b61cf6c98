//! Strict verification of JWT-SVIDs (SPEC: JWT-SVID §2 to §4). Everything in a token but its signature is an attacker's
//! text until the signature is verified, and no error repeats a byte of it.

use std::ops::Deref;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Map;
use serde_json::Value;

use crate::identity::bundle::Bundle;
use crate::identity::bundle::JwtAuthority;
use crate::identity::bundle::MAX_KEY_ID;
use crate::identity::jose::algorithm::Algorithm;
use crate::identity::jose::json;
use crate::identity::jose::json::InvalidJson;
use crate::identity::spiffe_id::SpiffeId;

/// The most bytes that a token may have.
pub const MAX_TOKEN: usize = 16 * 1024;

/// How far the clocks of issuer and verifier may lie apart: a token is taken this long before its `nbf` and after its
/// `exp` (SPEC: JWT-SVID appendix A allows some leeway).
pub const LEEWAY: Duration = Duration::from_secs(30);

/// The last second of the year 9999: a time past it is a mistake or a trick.
const MAX_TIME: f64 = 253_402_300_799.0;

/// A token whose signature, audience and times were verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// `sub`
    pub id: SpiffeId,
    /// All claims. INVARIANT: `sub`, `aud` and `exp` are among them and have their types.
    pub claims: Map<String, Value>,
}

/// Why a token is not valid. Repeats nothing of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// More than [`MAX_TOKEN`] bytes.
    #[error("the token has more than {MAX_TOKEN} bytes")]
    TooLong,
    /// Not three parts with dots between them: for example JSON, or an encrypted token of five parts.
    #[error("the token is not a signed token in compact form")]
    NotCompact,
    /// A part is not base64url, or padded.
    #[error("the token's {part} is not base64url")]
    Base64 {
        /// `header`, `claims` or `signature`.
        part: &'static str,
    },
    /// A part is not a JSON object that can be read in one way only.
    #[error("the token's {part} cannot be read: {why}")]
    Json {
        /// `header` or `claims`.
        part: &'static str,
        /// Why.
        why: InvalidJson,
    },
    /// `alg` is missing, not text, or none of the nine.
    #[error("alg is none of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and ES512")]
    Algorithm,
    /// The header has another parameter than `alg`, `kid` and `typ`.
    #[error("the header has a parameter other than alg, kid and typ")]
    HeaderParameter,
    /// `typ` is there and neither `JWT` nor `JOSE`.
    #[error("typ is neither JWT nor JOSE")]
    Type,
    /// `kid` is there and not a text of 1 to [`MAX_KEY_ID`] bytes.
    #[error("kid is not a text of 1 to {MAX_KEY_ID} bytes")]
    KeyId,
    /// `sub` is missing or not the SPIFFE ID of a workload.
    #[error("sub is not the SPIFFE ID of a workload")]
    Subject,
    /// Nothing is known of the trust domain of `sub`.
    #[error("there is no bundle of the trust domain of sub")]
    UnknownTrustDomain,
    /// The trust domain of `sub` has no key of that `kid` for that `alg`.
    #[error("the trust domain of sub has no key with this kid for this alg")]
    UnknownKey,
    /// There is no `kid`, and the trust domain of `sub` has not exactly one key for that `alg`.
    #[error("there is no kid, and the trust domain of sub has {keys} keys for this alg")]
    AmbiguousKey {
        /// How many fit.
        keys: usize,
    },
    /// The signature is not by that key.
    #[error("the signature does not verify")]
    Signature,
    /// A claim is missing or of a wrong type.
    #[error("the claim {claim:?} is missing or malformed")]
    Claim {
        /// Which.
        claim: &'static str,
    },
    /// The audience is not among `aud`.
    #[error("the token is for another audience")]
    Audience,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
}

/// Verifies a JWT-SVID for `audience`.
///
/// SECURITY: the trust domain of `sub` alone says which bundle is asked, so that no domain's key vouches for another's
/// workload; the key says which algorithms it may verify, so that `alg` chooses nothing.
///
/// # Errors
/// [`InvalidToken`]
pub fn verify<B: Deref<Target = Bundle>>(
    token: &str,
    audience: &str,
    bundle_of: impl FnOnce(&str) -> Option<B>,
    now: SystemTime,
) -> Result<Verified, InvalidToken> {
    if token.len() > MAX_TOKEN {
        return Err(InvalidToken::TooLong);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(InvalidToken::NotCompact)?;
    let (header, claims) = signed.split_once('.').ok_or(InvalidToken::NotCompact)?;
    if claims.contains('.') {
        return Err(InvalidToken::NotCompact);
    }
    let header = Header::read(header)?;
    let claims = object("claims", claims)?;
    let id: SpiffeId = text(&claims, "sub").and_then(|subject| subject.parse().ok()).ok_or(InvalidToken::Subject)?;

    let bundle = bundle_of(id.trust_domain()).filter(|bundle| id.is_member_of(&bundle.trust_domain));
    let bundle = bundle.ok_or(InvalidToken::UnknownTrustDomain)?;
    let key = header.choose(&bundle.jwt_authorities)?.key();
    let signature = base64("signature", signature)?;
    if !key.verifies(header.algorithm, signed.as_bytes(), &signature) {
        return Err(InvalidToken::Signature);
    }
    check_audience(&claims, audience)?;
    check_times(&claims, now)?;
    Ok(Verified { id, claims })
}

struct Header {
    algorithm: Algorithm,
    key_id: Option<String>,
}

impl Header {
    fn read(part: &str) -> Result<Self, InvalidToken> {
        let header = object("header", part)?;
        // SPEC: JWT-SVID §2.1: the algorithm is checked before anything else.
        let algorithm = text(&header, "alg").and_then(Algorithm::from_name).ok_or(InvalidToken::Algorithm)?;
        // SECURITY: jku, jwk, x5u and x5c would bring the attacker's own key along; crit and b64 would change what is
        // signed. SPEC: JWT-SVID §2 has three parameters, so there is no list of bad ones to keep.
        if header.keys().any(|name| !matches!(name.as_str(), "alg" | "kid" | "typ")) {
            return Err(InvalidToken::HeaderParameter);
        }
        if header.get("typ").is_some_and(|typ| !matches!(typ.as_str(), Some("JWT" | "JOSE"))) {
            return Err(InvalidToken::Type);
        }
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) if (1..=MAX_KEY_ID).contains(&kid.len()) => Some(kid.clone()),
            Some(_) => return Err(InvalidToken::KeyId),
        };
        Ok(Self { algorithm, key_id })
    }

    /// The one key that may have signed. `kid` is a name to compare and nothing else.
    fn choose<'k>(&self, keys: &'k [JwtAuthority]) -> Result<&'k JwtAuthority, InvalidToken> {
        let mut fitting = keys.iter().filter(|key| key.may_verify(self.algorithm));
        if let Some(key_id) = &self.key_id {
            return fitting.find(|key| key.key_id() == key_id).ok_or(InvalidToken::UnknownKey);
        }
        match (fitting.next(), fitting.count()) {
            (Some(only), 0) => Ok(only),
            (first, others) => Err(InvalidToken::AmbiguousKey { keys: usize::from(first.is_some()) + others }),
        }
    }
}

/// SPEC: JWT-SVID §3.2, RFC 7519 §4.1.3: a text or an array of texts, one of them equal to `audience`, byte by byte.
fn check_audience(claims: &Map<String, Value>, audience: &str) -> Result<(), InvalidToken> {
    let malformed = InvalidToken::Claim { claim: "aud" };
    let is_for = match claims.get("aud").ok_or(malformed)? {
        Value::String(one) => one == audience,
        Value::Array(several) if !several.is_empty() && several.iter().all(Value::is_string) => {
            several.iter().any(|one| one == audience)
        }
        _ => return Err(malformed),
    };
    if is_for && !audience.is_empty() { Ok(()) } else { Err(InvalidToken::Audience) }
}

/// SPEC: JWT-SVID §3.3, RFC 7519 §4.1.4 to §4.1.6: `exp` must be there; `nbf` counts where it is; `iat` only informs.
fn check_times(claims: &Map<String, Value>, now: SystemTime) -> Result<(), InvalidToken> {
    let now = match now.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    };
    let leeway = LEEWAY.as_secs_f64();
    time(claims, "iat")?;
    let expires = time(claims, "exp")?.ok_or(InvalidToken::Claim { claim: "exp" })?;
    if now >= expires + leeway {
        return Err(InvalidToken::Expired);
    }
    match time(claims, "nbf")? {
        Some(begins) if now < begins - leeway => Err(InvalidToken::NotYetValid),
        _ => Ok(()),
    }
}

/// A NumericDate (SPEC: RFC 7519 §2), fractions included. Of another type, it is an error and never absent.
fn time(claims: &Map<String, Value>, claim: &'static str) -> Result<Option<f64>, InvalidToken> {
    match claims.get(claim) {
        None => Ok(None),
        Some(value) => match value.as_f64() {
            Some(seconds) if (0.0..=MAX_TIME).contains(&seconds) => Ok(Some(seconds)),
            _ => Err(InvalidToken::Claim { claim }),
        },
    }
}

fn text<'o>(object: &'o Map<String, Value>, name: &str) -> Option<&'o str> {
    object.get(name).and_then(Value::as_str)
}

fn object(part: &'static str, encoded: &str) -> Result<Map<String, Value>, InvalidToken> {
    json::object(&base64(part, encoded)?, MAX_TOKEN).map_err(|why| InvalidToken::Json { part, why })
}

/// SPEC: RFC 7515 §2: no padding, no white space, no other alphabet, no loose bits at the end.
fn base64(part: &'static str, encoded: &str) -> Result<Vec<u8>, InvalidToken> {
    BASE64_URL_SAFE_NO_PAD.decode(encoded).map_err(|_| InvalidToken::Base64 { part })
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa;
    use aws_lc_rs::signature;
    use aws_lc_rs::signature::EcdsaKeyPair;
    use aws_lc_rs::signature::EcdsaSigningAlgorithm;
    use aws_lc_rs::signature::KeyPair;
    use aws_lc_rs::signature::RsaEncoding;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::identity::jose::public_key::PublicKey;
    use crate::identity::trust_domain::TrustDomain;

    const NOW: u64 = 2_000_000_000;

    enum Pair {
        Ec(EcdsaKeyPair),
        Rsa(rsa::KeyPair),
    }

    /// A key of a trust domain and what it makes of headers and claims.
    struct Signer {
        algorithm: Algorithm,
        pair: &'static Pair,
    }

    impl Pair {
        fn ec(curve: &'static EcdsaSigningAlgorithm) -> Self {
            Self::Ec(EcdsaKeyPair::generate(curve).unwrap())
        }

        fn public_key(&self) -> PublicKey {
            let spki = match self {
                Self::Ec(pair) => pair.public_key().as_der(),
                Self::Rsa(pair) => pair.public_key().as_der(),
            };
            PublicKey::from_spki(spki.unwrap().as_ref()).unwrap()
        }
    }

    static P256: LazyLock<Pair> = LazyLock::new(|| Pair::ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING));
    static P384: LazyLock<Pair> = LazyLock::new(|| Pair::ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING));
    static P521: LazyLock<Pair> = LazyLock::new(|| Pair::ec(&signature::ECDSA_P521_SHA512_FIXED_SIGNING));
    static RSA: LazyLock<Pair> = LazyLock::new(|| Pair::Rsa(rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap()));

    impl Signer {
        fn of(algorithm: Algorithm) -> Self {
            let pair = match algorithm {
                Algorithm::Es256 => &P256,
                Algorithm::Es384 => &P384,
                Algorithm::Es512 => &P521,
                _ => &RSA,
            };
            Self { algorithm, pair }
        }

        fn authority(&self) -> JwtAuthority {
            JwtAuthority::new("k", self.pair.public_key(), None).unwrap()
        }

        fn bundle(&self, trust_domain: &str) -> Bundle {
            let trust_domain: TrustDomain = trust_domain.parse().unwrap();
            Bundle { jwt_authorities: vec![self.authority()], ..Bundle::empty(trust_domain) }
        }

        fn signature(&self, message: &[u8]) -> Vec<u8> {
            match self.pair {
                Pair::Ec(pair) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
                Pair::Rsa(pair) => {
                    let padding: &'static dyn RsaEncoding = match self.algorithm {
                        Algorithm::Ps256 => &signature::RSA_PSS_SHA256,
                        Algorithm::Ps384 => &signature::RSA_PSS_SHA384,
                        Algorithm::Ps512 => &signature::RSA_PSS_SHA512,
                        Algorithm::Rs256 => &signature::RSA_PKCS1_SHA256,
                        Algorithm::Rs384 => &signature::RSA_PKCS1_SHA384,
                        _ => &signature::RSA_PKCS1_SHA512,
                    };
                    let mut signed = vec![0; pair.public_modulus_len()];
                    pair.sign(padding, &SystemRandom::new(), message, &mut signed).unwrap();
                    signed
                }
            }
        }

        /// Signs any two texts as header and claims.
        fn token(&self, header: &str, claims: &str) -> String {
            let signed = format!("{}.{}", encoded(header), encoded(claims));
            let signature = BASE64_URL_SAFE_NO_PAD.encode(self.signature(signed.as_bytes()));
            format!("{signed}.{signature}")
        }

        fn header(&self) -> String {
            json!({"alg": self.algorithm.name(), "kid": "k", "typ": "JWT"}).to_string()
        }
    }

    fn encoded(text: &str) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(text)
    }

    fn claims() -> Value {
        json!({"sub": "spiffe://example.org/w1", "aud": ["ledger"], "exp": NOW + 300, "iat": NOW})
    }

    fn claims_with(name: &str, value: Value) -> String {
        let mut claims = claims();
        claims[name] = value;
        claims.to_string()
    }

    fn claims_without(name: &str) -> String {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        claims.to_string()
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Verifies for `ledger` at [`NOW`], against a bundle of example.org with the signer's key.
    fn verdict(signer: &Signer, token: &str) -> Result<Verified, InvalidToken> {
        let bundle = signer.bundle("example.org");
        verify(token, "ledger", |name| (name == "example.org").then_some(&bundle), at(NOW))
    }

    fn es256() -> Signer {
        Signer::of(Algorithm::Es256)
    }

    fn verdict_of_claims(claims: &str) -> Result<Verified, InvalidToken> {
        verdict(&es256(), &es256().token(&es256().header(), claims))
    }

    fn verdict_of_header(header: &str) -> Result<Verified, InvalidToken> {
        verdict(&es256(), &es256().token(header, &claims().to_string()))
    }

    #[test]
    fn a_token_of_each_of_the_nine_algorithms_is_valid() {
        for algorithm in Algorithm::ALL {
            let signer = Signer::of(algorithm);
            let verified = verdict(&signer, &signer.token(&signer.header(), &claims().to_string())).unwrap();
            assert_eq!(verified.id.as_str(), "spiffe://example.org/w1", "{algorithm}");
            assert_eq!(Value::Object(verified.claims), claims(), "{algorithm}");
        }
    }

    #[test]
    fn an_optional_claim_may_be_absent_and_aud_may_have_either_form() {
        for header in
            [r#"{"alg":"ES256"}"#, r#"{"alg":"ES256","typ":"JOSE","kid":"k"}"#, r#" {"kid":"k","alg":"ES256"} "#]
        {
            assert!(verdict_of_header(header).is_ok(), "{header}");
        }
        for claims in [
            claims_without("iat"),
            claims_with("aud", "ledger".into()),
            claims_with("aud", json!(["other", "ledger"])),
            claims_with("exp", json!(NOW as f64 + 0.5)),
            claims_with("nbf", json!(NOW - 1)),
            claims_with("iat", json!(NOW + 3600)),
            claims_with("jti", "j".into()),
            claims_with("nested", json!({"a": [{"b": 1}]})),
        ] {
            assert!(verdict_of_claims(&claims).is_ok(), "{claims}");
        }
    }

    /// Attack 92: what says of itself how it is to be verified.
    #[test]
    fn attack_92_no_alg_outside_the_nine_and_no_alg_of_another_key() {
        for alg in [
            "none",
            "None",
            "",
            "HS256",
            "HS512",
            "EdDSA",
            "Ed25519",
            "ES256K",
            "es256",
            "ES256 ",
            "RSA-OAEP",
            "ML-DSA-44",
        ] {
            let header = json!({"alg": alg, "kid": "k"}).to_string();
            assert_eq!(verdict_of_header(&header), Err(InvalidToken::Algorithm), "{alg}");
            let unsigned = format!("{}.{}.", encoded(&header), encoded(&claims().to_string()));
            assert_eq!(verdict(&es256(), &unsigned), Err(InvalidToken::Algorithm), "{alg}");
        }
        for header in [r#"{"kid":"k"}"#, r#"{"alg":null}"#, r#"{"alg":["ES256"]}"#, r#"{"alg":256}"#] {
            assert_eq!(verdict_of_header(header), Err(InvalidToken::Algorithm), "{header}");
        }
        for of_key in Algorithm::ALL {
            for claimed in Algorithm::ALL.into_iter().filter(|claimed| *claimed != of_key) {
                let signer = Signer::of(of_key);
                let header = json!({"alg": claimed.name(), "kid": "k"}).to_string();
                let refused = verdict(&signer, &signer.token(&header, &claims().to_string()));
                let same_key = of_key.rsa().is_some() && claimed.rsa().is_some();
                let why = if same_key { InvalidToken::Signature } else { InvalidToken::UnknownKey };
                assert_eq!(refused, Err(why), "a key of {of_key}, a header of {claimed}");
            }
        }
    }

    /// Attack 92: the public key as the secret of an HMAC cannot even be tried; a bound key verifies one algorithm.
    #[test]
    fn attack_92_a_bound_key_verifies_its_algorithm_only() {
        let signer = Signer::of(Algorithm::Rs256);
        let bound = JwtAuthority::new("k", signer.pair.public_key(), Some(Algorithm::Ps256)).unwrap();
        let bundle = Bundle { jwt_authorities: vec![bound], ..Bundle::empty("example.org".parse().unwrap()) };
        let verdict = |signer: &Signer| {
            let token = signer.token(&signer.header(), &claims().to_string());
            verify(&token, "ledger", |_| Some(&bundle), at(NOW))
        };
        assert_eq!(verdict(&signer), Err(InvalidToken::UnknownKey));
        assert!(verdict(&Signer::of(Algorithm::Ps256)).is_ok());
    }

    #[test]
    fn attack_92_no_changed_signature_verifies() {
        for algorithm in Algorithm::ALL {
            let signer = Signer::of(algorithm);
            let token = signer.token(&signer.header(), &claims().to_string());
            let (signed, good) = token.rsplit_once('.').unwrap();
            let good = BASE64_URL_SAFE_NO_PAD.decode(good).unwrap();
            let with =
                |signature: &[u8]| verdict(&signer, &format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)));
            assert!(with(&good).is_ok());
            for byte in [0, good.len() / 2, good.len() - 1] {
                let mut flipped = good.clone();
                flipped[byte] ^= 1;
                assert_eq!(with(&flipped), Err(InvalidToken::Signature), "{algorithm}: byte {byte}");
            }
            let zeros = vec![0; good.len()];
            for (what, signature) in [
                ("empty", vec![]),
                ("all zeros", zeros),
                ("all ones", vec![0xff; good.len()]),
                ("cut short", good[1..].to_vec()),
                ("longer", [&good[..], &[0]].concat()),
                ("a zero before", [&[0], &good[..]].concat()),
            ] {
                assert_eq!(with(&signature), Err(InvalidToken::Signature), "{algorithm}: {what}");
            }
        }
    }

    #[test]
    fn attack_92_an_ecdsa_signature_in_the_form_of_x509_is_none() {
        let Pair::Ec(fixed) = es256().pair else { unreachable!("P-256 is a curve") };
        let key = fixed.to_pkcs8v1().unwrap();
        let der = EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_ASN1_SIGNING, key.as_ref()).unwrap();
        let signed = format!("{}.{}", encoded(&es256().header()), encoded(&claims().to_string()));
        let signature = der.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        let token = format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature));
        assert_eq!(verdict(&es256(), &token), Err(InvalidToken::Signature));
    }

    /// Attack 93: a token that brings its own key, or names one elsewhere.
    #[test]
    fn attack_93_a_header_brings_no_key_and_no_rules() {
        let own = Value::Object(es256().pair.public_key().jwk());
        for (name, value) in [
            ("jwk", own),
            ("jku", "https://evil.test/keys".into()),
            ("x5u", "https://evil.test/chain".into()),
            ("x5c", json!(["MIIB"])),
            ("x5t", "AAAA".into()),
            ("x5t#S256", "AAAA".into()),
            ("crit", json!([])),
            ("crit", json!(["exp"])),
            ("b64", false.into()),
            ("b64", true.into()),
            ("zip", "DEF".into()),
            ("cty", "JWT".into()),
            ("enc", "A256GCM".into()),
            ("epk", json!({})),
            ("nonce", "1".into()),
            ("ALG", "none".into()),
            ("", Value::Null),
        ] {
            let mut header = json!({"alg": "ES256", "kid": "k", "typ": "JWT"});
            header[name] = value;
            assert_eq!(verdict_of_header(&header.to_string()), Err(InvalidToken::HeaderParameter), "{name}");
        }
    }

    #[test]
    fn attack_93_a_kid_is_compared_and_nothing_else() {
        for kid in ["K", "k ", "k\0", "../k", "k' OR '1'='1", "/dev/null", "*", "https://evil.test/k"] {
            let header = json!({"alg": "ES256", "kid": kid}).to_string();
            assert_eq!(verdict_of_header(&header), Err(InvalidToken::UnknownKey), "{kid:?}");
        }
        for kid in [json!(""), json!(null), json!(1), json!(["k"]), json!({"k": 1}), json!("k".repeat(129))] {
            let header = json!({"alg": "ES256", "kid": kid}).to_string();
            assert_eq!(verdict_of_header(&header), Err(InvalidToken::KeyId), "{kid}");
        }
    }

    #[test]
    fn without_a_kid_there_must_be_exactly_one_key_for_the_alg() {
        let signer = es256();
        let token = signer.token(r#"{"alg":"ES256"}"#, &claims().to_string());
        let other = |key_id: &str, pair: &Pair| JwtAuthority::new(key_id, pair.public_key(), None).unwrap();
        let with = |jwt_authorities| {
            let bundle = Bundle { jwt_authorities, ..signer.bundle("example.org") };
            verify(&token, "ledger", |_| Some(&bundle), at(NOW)).map(drop)
        };
        assert_eq!(with(vec![]), Err(InvalidToken::AmbiguousKey { keys: 0 }));
        assert_eq!(with(vec![other("r", &RSA), signer.authority(), other("p", &P384)]), Ok(()));
        let second = Pair::ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING);
        assert_eq!(with(vec![signer.authority(), other("x", &second)]), Err(InvalidToken::AmbiguousKey { keys: 2 }));
    }

    #[test]
    fn a_typ_that_is_there_is_jwt_or_jose() {
        for typ in
            [json!("jwt"), json!("JWT "), json!("wit+jwt"), json!("at+jwt"), json!(""), json!(null), json!(["JWT"])]
        {
            let header = json!({"alg": "ES256", "kid": "k", "typ": typ}).to_string();
            assert_eq!(verdict_of_header(&header), Err(InvalidToken::Type), "{typ}");
        }
    }

    /// Attack 94: claims that one reader sees and another does not.
    #[test]
    fn attack_94_a_name_twice_is_refused_in_header_and_claims_at_any_depth() {
        for header in [
            r#"{"alg":"ES256","alg":"ES256"}"#,
            r#"{"alg":"ES256","kid":"k","kid":"x"}"#,
            r#"{"alg":"ES256","\u0061lg":"none"}"#,
        ] {
            assert!(matches!(verdict_of_header(header), Err(InvalidToken::Json { part: "header", .. })), "{header}");
        }
        let good = claims().to_string();
        let good = good.trim_end_matches('}');
        for more in [
            r#""sub":"spiffe://example.org/admin""#,
            r#""exp":9999999999"#,
            r#""x":{"y":1,"y":1}"#,
            r#""x":[{"y":{"z":1,"z":2}}]"#,
        ] {
            let refused = verdict_of_claims(&format!("{good},{more}}}"));
            assert!(
                matches!(refused, Err(InvalidToken::Json { part: "claims", why: InvalidJson::DuplicateName { .. } })),
                "{more}: {refused:?}"
            );
        }
    }

    #[test]
    fn attack_94_a_claim_that_is_missing_or_of_another_type_is_refused() {
        let time = |name: &str| {
            let wrong =
                [json!("2000000300"), json!(null), json!([NOW]), json!({}), json!(true), json!(-1), json!(1e18)];
            wrong.map(|value| (name.to_owned(), value))
        };
        let aud = [json!(null), json!([]), json!(["ledger", 1]), json!([["ledger"]]), json!({"ledger": 1}), json!(1)];
        let aud = aud.map(|value| ("aud".to_owned(), value));
        for (name, value) in [time("exp"), time("nbf"), time("iat")].concat().into_iter().chain(aud) {
            let refused = verdict_of_claims(&claims_with(&name, value.clone()));
            assert!(
                matches!(refused, Err(InvalidToken::Claim { claim }) if claim == name),
                "{name}: {value}: {refused:?}"
            );
        }
        for claim in ["exp", "aud"] {
            assert_eq!(verdict_of_claims(&claims_without(claim)), Err(InvalidToken::Claim { claim }));
        }
        assert_eq!(verdict_of_claims(&claims_without("sub")), Err(InvalidToken::Subject));
        for sub in [
            json!(null),
            json!(1),
            json!(["spiffe://example.org/w1"]),
            json!("spiffe://example.org"),
            json!("spiffe://example.org/"),
            json!("spiffe://Example.org/w1"),
            json!("https://example.org/w1"),
            json!("spiffe://example.org/a/../w1"),
            json!("w1"),
        ] {
            assert_eq!(verdict_of_claims(&claims_with("sub", sub.clone())), Err(InvalidToken::Subject), "{sub}");
        }
        for claims in ["[]", "null", "\"\"", "", "{", "{}{}", "\u{feff}{}"] {
            assert!(matches!(verdict_of_claims(claims), Err(InvalidToken::Json { part: "claims", .. })), "{claims:?}");
        }
    }

    #[test]
    fn an_audience_is_matched_byte_by_byte() {
        for aud in ["Ledger", "ledger ", "ledge", "ledger2", "https://ledger", "l\u{435}dger", ""] {
            assert_eq!(verdict_of_claims(&claims_with("aud", aud.into())), Err(InvalidToken::Audience), "{aud}");
            assert_eq!(verdict_of_claims(&claims_with("aud", json!([aud]))), Err(InvalidToken::Audience), "{aud}");
        }
        let signer = es256();
        let to_nobody = signer.token(&signer.header(), &claims_with("aud", "".into()));
        let bundle = signer.bundle("example.org");
        assert_eq!(verify(&to_nobody, "", |_| Some(&bundle), at(NOW)), Err(InvalidToken::Audience));
    }

    #[test]
    fn times_have_the_stated_leeway_and_no_more() {
        let leeway = LEEWAY.as_secs();
        assert!(verdict_of_claims(&claims_with("exp", json!(NOW - leeway + 1))).is_ok());
        assert_eq!(verdict_of_claims(&claims_with("exp", json!(NOW - leeway))), Err(InvalidToken::Expired));
        assert_eq!(verdict_of_claims(&claims_with("exp", json!(0))), Err(InvalidToken::Expired));
        assert!(verdict_of_claims(&claims_with("nbf", json!(NOW + leeway))).is_ok());
        assert_eq!(verdict_of_claims(&claims_with("nbf", json!(NOW + leeway + 1))), Err(InvalidToken::NotYetValid));
        let signer = es256();
        let token = signer.token(&signer.header(), &claims_with("nbf", json!(NOW)));
        let bundle = signer.bundle("example.org");
        let before_1970 = UNIX_EPOCH - Duration::from_secs(5);
        assert_eq!(verify(&token, "ledger", |_| Some(&bundle), before_1970), Err(InvalidToken::NotYetValid));
    }

    /// Attack 95: the key of one trust domain under the subject of another.
    #[test]
    fn attack_95_a_key_verifies_subjects_of_its_own_trust_domain_only() {
        let domains = [("example.org", Algorithm::Es256), ("partner.test", Algorithm::Es384)];
        let bundles = domains.map(|(name, algorithm)| Signer::of(algorithm).bundle(name));
        let bundle_of = |name: &str| bundles.iter().find(|bundle| bundle.trust_domain.as_str() == name);
        for (subject, _) in domains {
            for (signed_by, algorithm) in domains {
                let signer = Signer::of(algorithm);
                let claims = claims_with("sub", format!("spiffe://{subject}/w1").into());
                let verdict = verify(&signer.token(&signer.header(), &claims), "ledger", bundle_of, at(NOW));
                assert_eq!(verdict.is_ok(), subject == signed_by, "{subject} by {signed_by}: {verdict:?}");
            }
        }
        let claims = claims_with("sub", "spiffe://stranger.test/w1".into());
        let token = es256().token(&es256().header(), &claims);
        assert_eq!(verify(&token, "ledger", bundle_of, at(NOW)), Err(InvalidToken::UnknownTrustDomain));
        let wrong_answer = verify(&token, "ledger", |_| Some(&bundles[0]), at(NOW));
        assert_eq!(wrong_answer, Err(InvalidToken::UnknownTrustDomain), "whatever the lookup answers");
    }

    #[test]
    fn only_the_compact_form_in_strict_base64url_is_read() {
        let signer = es256();
        let good = signer.token(&signer.header(), &claims().to_string());
        let parts: Vec<&str> = good.split('.').collect();
        let flattened = json!({"protected": parts[0], "payload": parts[1], "signature": parts[2]}).to_string();
        for token in ["", ".", "a.b", &flattened, &format!("{good}.x.y"), &format!("{good}.")] {
            let refused = verdict(&signer, token).unwrap_err();
            assert!(matches!(refused, InvalidToken::NotCompact), "{refused:?}");
        }
        for token in [
            format!(" {good}"),
            format!("{good}\n"),
            format!("{good}="),
            format!("{}=.{}.{}", parts[0], parts[1], parts[2]),
            format!("{}.{}\n.{}", parts[0], parts[1], parts[2]),
            format!("{}.{}+.{}", parts[0], parts[1], parts[2]),
            "Bearer x.y.z".to_owned(),
        ] {
            assert!(matches!(verdict(&signer, &token), Err(InvalidToken::Base64 { .. })), "{token}");
        }
        let detached = format!("{}..{}", parts[0], parts[2]);
        assert!(matches!(verdict(&signer, &detached), Err(InvalidToken::Json { part: "claims", .. })));
    }

    #[test]
    fn a_token_over_the_limit_is_refused_before_it_is_read() {
        let padding = |bytes: usize| claims_with("x", "x".repeat(bytes).into());
        assert!(verdict_of_claims(&padding(11_000)).is_ok());
        assert_eq!(verdict_of_claims(&padding(MAX_TOKEN)), Err(InvalidToken::TooLong));
    }

    #[test]
    fn no_refusal_repeats_the_token() {
        let secret = "s3cr3t";
        let signer = es256();
        for (header, claims) in [
            (json!({"alg": secret}), claims()),
            (json!({"alg": "ES256", "kid": secret}), claims()),
            (json!({"alg": "ES256", "typ": secret}), claims()),
            (json!({"alg": "ES256", secret: 1}), claims()),
            (json!({"alg": "ES256"}), json!({"sub": secret})),
            (json!({"alg": "ES256"}), json!({"sub": format!("spiffe://{secret}/w")})),
            (json!({"alg": "ES256"}), json!({"sub": "spiffe://example.org/w1", "aud": secret, "exp": NOW + 1})),
            (json!({"alg": "ES256"}), json!({"sub": "spiffe://example.org/w1", "aud": "ledger", "exp": secret})),
        ] {
            let refused = verdict(&signer, &signer.token(&header.to_string(), &claims.to_string())).unwrap_err();
            assert!(!format!("{refused} {refused:?}").contains(secret), "{refused}");
        }
    }

    /// The verdict of the `jsonwebtoken` crate, configured to require what a JWT-SVID requires.
    fn second_opinion(token: &str, algorithm: Algorithm, key: &PublicKey) -> bool {
        use jsonwebtoken::Algorithm as Theirs;
        let theirs = match algorithm {
            Algorithm::Es256 => Theirs::ES256,
            Algorithm::Es384 => Theirs::ES384,
            Algorithm::Es512 => unreachable!("the crate does not have it"),
            Algorithm::Ps256 => Theirs::PS256,
            Algorithm::Ps384 => Theirs::PS384,
            Algorithm::Ps512 => Theirs::PS512,
            Algorithm::Rs256 => Theirs::RS256,
            Algorithm::Rs384 => Theirs::RS384,
            Algorithm::Rs512 => Theirs::RS512,
        };
        let mut rules = jsonwebtoken::Validation::new(theirs);
        rules.set_required_spec_claims(&["exp", "aud", "sub"]);
        rules.set_audience(&["ledger"]);
        rules.validate_nbf = true;
        rules.leeway = LEEWAY.as_secs();
        let jwk = serde_json::from_value(Value::Object(key.jwk())).unwrap();
        let key = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
        jsonwebtoken::decode::<Value>(token, &key, &rules).is_ok()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]

        /// Tokens near validity, changed in one or two places and signed anew, or changed after signing.
        #[test]
        fn a_token_that_we_accept_is_accepted_by_a_second_library(
            algorithm in prop::sample::select(Algorithm::ALL.into_iter().filter(|a| *a != Algorithm::Es512).collect::<Vec<_>>()),
            change in prop::sample::select(changes()),
            another in prop::sample::select(changes()),
            flip in prop::option::weighted(0.3, (any::<prop::sample::Index>(), prop::char::range('0', 'z'))),
        ) {
            let signer = Signer::of(algorithm);
            let now = jsonwebtoken::get_current_timestamp();
            let mut claims = json!({"sub": "spiffe://example.org/w1", "aud": ["ledger"], "exp": now + 3600});
            for (name, value) in [change, another] {
                match value {
                    Some(value) => claims[name] = value,
                    None => drop(claims.as_object_mut().unwrap().remove(name)),
                }
            }
            let mut token = signer.token(&signer.header(), &claims.to_string());
            if let Some((place, with)) = flip {
                let at = place.index(token.len());
                token.replace_range(at..=at, with.encode_utf8(&mut [0; 4]));
            }
            let bundle = signer.bundle("example.org");
            if verify(&token, "ledger", |_| Some(&bundle), at(now)).is_ok() {
                prop_assert!(second_opinion(&token, algorithm, &signer.pair.public_key()), "{}", claims);
            }
        }
    }

    fn changes() -> Vec<(&'static str, Option<Value>)> {
        let now = jsonwebtoken::get_current_timestamp();
        let mut changes =
            vec![("x", Some(json!(1))), ("exp", None), ("aud", None), ("sub", None), ("jti", Some(json!("j")))];
        for value in [json!(now + 60), json!(now as f64 + 60.5), json!(now - 60), json!(0), json!("1"), json!(null)] {
            changes.extend(["exp", "nbf", "iat"].map(|name| (name, Some(value.clone()))));
        }
        for value in [json!("ledger"), json!(["x", "ledger"]), json!("x"), json!([]), json!(["ledger", 1]), json!(null)]
        {
            changes.push(("aud", Some(value)));
        }
        for value in [json!("spiffe://example.org/w2"), json!(1), json!("w")] {
            changes.push(("sub", Some(value)));
        }
        changes
    }

    proptest! {
        #[test]
        fn no_text_makes_verification_panic(token in "\\PC{0,200}|[A-Za-z0-9_-]{0,60}\\.[A-Za-z0-9_-]{0,60}\\.[A-Za-z0-9_-]{0,60}") {
            prop_assert!(verdict(&es256(), &token).is_err());
        }
    }
}
