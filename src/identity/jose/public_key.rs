//! Public keys that verify tokens.

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::signature;
use aws_lc_rs::signature::EcdsaVerificationAlgorithm;
use aws_lc_rs::signature::RsaPublicKeyComponents;
use aws_lc_rs::signature::UnparsedPublicKey;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Map;
use serde_json::Value;
use x509_parser::oid_registry;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::identity::jose::algorithm::Algorithm;

/// How many bits an RSA modulus may have (SPEC: RFC 7518 §3.3, §3.5 sets the least; the most bounds the work of a
/// verification).
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Members of a JWK that belong to a private or a shared key (SPEC: RFC 7518 §6).
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// A public key: EC on P-256, P-384 or P-521, or RSA of 2048 to 8192 bits.
///
/// INVARIANT: a point is on its curve and uncompressed; a modulus and an exponent are odd and without leading zeros.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(Kind);

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Ec { curve: Curve, point: Box<[u8]> },
    Rsa { modulus: Box<[u8]>, exponent: Box<[u8]> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

/// Why something is not a public key that verifies tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnusableKey {
    /// `kty` is missing or neither `EC` nor `RSA`; in a certificate, another key algorithm.
    #[error("its key type is neither EC nor RSA")]
    Type,
    /// Another curve than P-256, P-384 and P-521.
    #[error("its curve is none of P-256, P-384 and P-521")]
    Curve,
    /// A member is missing, not base64url, or not as wide as the curve.
    #[error("{member:?} is missing or malformed")]
    Member {
        /// Which.
        member: &'static str,
    },
    /// The point is not on the curve, or the key is otherwise none.
    #[error("it is not a valid key")]
    NotAKey,
    /// An RSA modulus outside 2048 to 8192 bits.
    #[error("its modulus has {bits} bits; 2048 to 8192 are allowed")]
    RsaSize {
        /// How many it has.
        bits: usize,
    },
    /// It holds private or shared key material.
    #[error("it holds private key material ({member:?}); its publisher must replace that key")]
    Private {
        /// The member that gives it away.
        member: &'static str,
    },
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo, DER.
    ///
    /// # Errors
    /// [`UnusableKey`]
    pub fn from_spki(der: &[u8]) -> Result<Self, UnusableKey> {
        let (rest, spki) = SubjectPublicKeyInfo::from_der(der).map_err(|_| UnusableKey::NotAKey)?;
        if !rest.is_empty() || spki.subject_public_key.unused_bits != 0 {
            return Err(UnusableKey::NotAKey);
        }
        let algorithm = &spki.algorithm.algorithm;
        if *algorithm == oid_registry::OID_KEY_TYPE_EC_PUBLIC_KEY {
            let named = spki.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
            let curve = named.and_then(|oid| Curve::ALL.into_iter().find(|curve| curve.oid() == oid));
            Self::ec(curve.ok_or(UnusableKey::Curve)?, &spki.subject_public_key.data)
        } else if *algorithm == oid_registry::OID_PKCS1_RSAENCRYPTION {
            let (rest, key) = x509_parser::public_key::RSAPublicKey::from_der(&spki.subject_public_key.data)
                .map_err(|_| UnusableKey::NotAKey)?;
            if !rest.is_empty() {
                return Err(UnusableKey::NotAKey);
            }
            let unsigned = |integer: &'_ [u8]| integer.strip_prefix(&[0]).unwrap_or(integer).to_vec();
            Self::rsa(&unsigned(key.modulus), &unsigned(key.exponent))
        } else {
            Err(UnusableKey::Type)
        }
    }

    /// Reads the key members of a JWK (SPEC: RFC 7518 §6.2, §6.3); other members are ignored, but private ones
    /// are refused.
    ///
    /// # Errors
    /// [`UnusableKey`]
    pub fn from_jwk(jwk: &Map<String, Value>) -> Result<Self, UnusableKey> {
        if let Some(member) = PRIVATE_MEMBERS.into_iter().find(|member| jwk.contains_key(*member)) {
            return Err(UnusableKey::Private { member });
        }
        let bytes = |member: &'static str| {
            let text = jwk.get(member).and_then(Value::as_str);
            text.and_then(|text| BASE64_URL_SAFE_NO_PAD.decode(text).ok()).ok_or(UnusableKey::Member { member })
        };
        match jwk.get("kty").and_then(Value::as_str) {
            Some("EC") => {
                let name = jwk.get("crv").and_then(Value::as_str).ok_or(UnusableKey::Member { member: "crv" })?;
                let curve = Curve::ALL.into_iter().find(|curve| curve.name() == name).ok_or(UnusableKey::Curve)?;
                let coordinate = |member: &'static str| match bytes(member)? {
                    full if full.len() == curve.width() => Ok(full),
                    _ => Err(UnusableKey::Member { member }),
                };
                Self::ec(curve, &[&[4][..], &coordinate("x")?, &coordinate("y")?].concat())
            }
            Some("RSA") => Self::rsa(&bytes("n")?, &bytes("e")?),
            _ => Err(UnusableKey::Type),
        }
    }

    fn ec(curve: Curve, point: &[u8]) -> Result<Self, UnusableKey> {
        if point.len() != 1 + 2 * curve.width() {
            return Err(UnusableKey::NotAKey);
        }
        UnparsedPublicKey::new(curve.ecdsa(), point).parse().map_err(|_| UnusableKey::NotAKey)?;
        Ok(Self(Kind::Ec { curve, point: point.into() }))
    }

    fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, UnusableKey> {
        let zeros = modulus.first().map_or(0, |first| first.leading_zeros() as usize);
        let bits = modulus.len() * 8 - zeros;
        if !RSA_BITS.contains(&bits) {
            return Err(UnusableKey::RsaSize { bits });
        }
        // SECURITY: an exponent of 1 makes every signature verify; an even one is no key; a long one makes work.
        let odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
        let minimal = |number: &[u8]| number.first().is_some_and(|first| *first != 0);
        let sound = odd(modulus) && minimal(modulus) && odd(exponent) && minimal(exponent);
        if !sound || exponent.len() > 4 || *exponent == [1] {
            return Err(UnusableKey::NotAKey);
        }
        RsaPublicKeyComponents { n: modulus, e: exponent }
            .to_parsed_public_key(&signature::RSA_PKCS1_2048_8192_SHA256)
            .map_err(|_| UnusableKey::NotAKey)?;
        Ok(Self(Kind::Rsa { modulus: modulus.into(), exponent: exponent.into() }))
    }

    /// Whether this kind of key makes signatures of `algorithm`.
    #[must_use]
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        match &self.0 {
            Kind::Ec { curve, .. } => curve.algorithm() == algorithm,
            Kind::Rsa { .. } => algorithm.rsa().is_some(),
        }
    }

    /// The one algorithm that this kind of key has: that of its curve; an RSA key has six, so `None`.
    #[must_use]
    pub fn only_algorithm(&self) -> Option<Algorithm> {
        match &self.0 {
            Kind::Ec { curve, .. } => Some(curve.algorithm()),
            Kind::Rsa { .. } => None,
        }
    }

    /// Whether `signature`, in the form of RFC 7518 §3.3 to §3.5, is this key's over `message` by `algorithm`; `false`
    /// for an algorithm that does not fit.
    #[must_use]
    pub fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match &self.0 {
            Kind::Ec { curve, point } => {
                curve.algorithm() == algorithm
                    && UnparsedPublicKey::new(curve.ecdsa(), point).verify(message, signature).is_ok()
            }
            Kind::Rsa { modulus, exponent } => algorithm.rsa().is_some_and(|parameters| {
                RsaPublicKeyComponents { n: modulus, e: exponent }.verify(parameters, message, signature).is_ok()
            }),
        }
    }

    /// The required members of its JWK, `kty` included, and no others.
    #[must_use]
    pub fn jwk(&self) -> Map<String, Value> {
        let text = |bytes: &[u8]| Value::from(BASE64_URL_SAFE_NO_PAD.encode(bytes));
        let members = match &self.0 {
            Kind::Ec { curve, point } => {
                let (x, y) = point.get(1..).unwrap_or_default().split_at(curve.width());
                vec![("kty", "EC".into()), ("crv", curve.name().into()), ("x", text(x)), ("y", text(y))]
            }
            Kind::Rsa { modulus, exponent } => {
                vec![("kty", "RSA".into()), ("n", text(modulus)), ("e", text(exponent))]
            }
        };
        members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The SHA-256 thumbprint, base64url (SPEC: RFC 7638): the `kid` of every key that is ours.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        // SPEC: RFC 7638 §3.1: the required members in lexical order, no white space. A `Map` is ordered by name.
        let canonical = Value::Object(self.jwk()).to_string();
        BASE64_URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, canonical.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.thumbprint())
    }
}

impl Curve {
    const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// Bytes of one coordinate.
    fn width(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    fn oid(self) -> x509_parser::asn1_rs::Oid<'static> {
        match self {
            Self::P256 => oid_registry::OID_EC_P256,
            Self::P384 => oid_registry::OID_NIST_EC_P384,
            Self::P521 => oid_registry::OID_NIST_EC_P521,
        }
    }

    fn algorithm(self) -> Algorithm {
        match self {
            Self::P256 => Algorithm::Es256,
            Self::P384 => Algorithm::Es384,
            Self::P521 => Algorithm::Es512,
        }
    }

    fn ecdsa(self) -> &'static EcdsaVerificationAlgorithm {
        match self {
            Self::P256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::P384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::P521 => &signature::ECDSA_P521_SHA512_FIXED,
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::signature::EcdsaKeyPair;
    use aws_lc_rs::signature::KeyPair;
    use serde_json::json;

    use super::*;

    fn members(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    /// The example of RFC 7638 §3.1.
    fn rfc_7638() -> Map<String, Value> {
        members(json!({
            "kty": "RSA",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
            "e": "AQAB",
        }))
    }

    fn p256() -> PublicKey {
        let pair = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        PublicKey::from_spki(pair.public_key().as_der().unwrap().as_ref()).unwrap()
    }

    #[test]
    fn the_thumbprint_is_that_of_rfc_7638() {
        assert_eq!(
            PublicKey::from_jwk(&rfc_7638()).unwrap().thumbprint(),
            "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
        );
    }

    #[test]
    fn a_jwk_is_read_as_the_same_key_even_with_a_leading_zero_byte() {
        let mut with_a_leading_zero = 0;
        for curve in [
            &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
            &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
        ] {
            for _ in 0..400 {
                let pair = EcdsaKeyPair::generate(curve).unwrap();
                let key = PublicKey::from_spki(pair.public_key().as_der().unwrap().as_ref()).unwrap();
                assert_eq!(PublicKey::from_jwk(&key.jwk()).unwrap(), key);
                with_a_leading_zero += usize::from(pair.public_key().as_ref()[1] == 0);
            }
        }
        assert!(with_a_leading_zero > 100, "P-521 alone gives many: {with_a_leading_zero}");
    }

    #[test]
    fn a_jwk_with_private_material_is_no_public_key() {
        for member in PRIVATE_MEMBERS {
            let mut jwk = rfc_7638();
            jwk.insert(member.to_owned(), Value::Null);
            assert_eq!(PublicKey::from_jwk(&jwk), Err(UnusableKey::Private { member }));
        }
        assert!(matches!(
            PublicKey::from_jwk(&members(json!({"kty": "oct", "k": "AAAA"}))),
            Err(UnusableKey::Private { member: "k" })
        ));
    }

    #[test]
    fn a_malformed_jwk_is_no_key() {
        let good = p256().jwk();
        let changed = |name: &str, value: Value| {
            let mut jwk = good.clone();
            jwk.insert(name.to_owned(), value);
            PublicKey::from_jwk(&jwk).unwrap_err()
        };
        let x = good["x"].as_str().unwrap();
        assert_eq!(changed("kty", "AKP".into()), UnusableKey::Type);
        assert_eq!(changed("kty", Value::Null), UnusableKey::Type);
        assert_eq!(changed("crv", "secp256k1".into()), UnusableKey::Curve);
        assert_eq!(changed("crv", "P-384".into()), UnusableKey::Member { member: "x" });
        assert_eq!(changed("x", format!("{x}=").into()), UnusableKey::Member { member: "x" });
        assert_eq!(changed("x", format!("AA{x}").into()), UnusableKey::Member { member: "x" });
        assert_eq!(changed("y", 1.into()), UnusableKey::Member { member: "y" });
        assert_eq!(changed("y", good["x"].clone()), UnusableKey::NotAKey, "a point off the curve");
    }

    #[test]
    fn a_weak_or_malformed_rsa_key_is_no_key() {
        let text = |bytes: &[u8]| Value::from(BASE64_URL_SAFE_NO_PAD.encode(bytes));
        let good = rfc_7638();
        let changed = |name: &str, value: Value| {
            let mut jwk = good.clone();
            jwk.insert(name.to_owned(), value);
            PublicKey::from_jwk(&jwk).unwrap_err()
        };
        assert_eq!(changed("n", text(&[0xff; 128])), UnusableKey::RsaSize { bits: 1024 });
        assert_eq!(changed("n", text(&[&[0x7f][..], &[0xff; 255]].concat())), UnusableKey::RsaSize { bits: 2047 });
        assert_eq!(changed("n", text(&[0xff; 1025])), UnusableKey::RsaSize { bits: 8200 });
        assert_eq!(changed("n", text(&[])), UnusableKey::RsaSize { bits: 0 });
        for exponent in [&[][..], &[1], &[2], &[0, 3], &[1, 0, 0, 0, 1]] {
            assert_eq!(changed("e", text(exponent)), UnusableKey::NotAKey, "{exponent:?}");
        }
    }

    #[test]
    fn trailing_bytes_after_a_public_key_are_refused() {
        let pair = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let mut der = pair.public_key().as_der().unwrap().as_ref().to_vec();
        der.push(0);
        assert_eq!(PublicKey::from_spki(&der), Err(UnusableKey::NotAKey));
    }
}
