//! What the authority remembers: its keys, which of them is used, and how often its bundle has changed.

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING;
use aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
use aws_lc_rs::signature::KeyPair;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::Error as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use crate::authority::embedded::settings::EmbeddedSettings;
use crate::authority::no_authority::NoAuthority;
use crate::authority::signing::certificates;
use crate::authority::signing::certificates::OwnCertificate;
use crate::authority::signing::certificates::X509Signer;
use crate::authority::signing::key;
use crate::authority::signing::life::AUTHORITY_BACKDATE;
use crate::authority::signing::life::Life;
use crate::authority::signing::life::is_before_release;
use crate::authority::signing::life::whole_seconds;
use crate::authority::signing::tokens;
use crate::authority::signing::tokens::JwtSigner;
use crate::identity::Bundle;
use crate::identity::KeyType;
use crate::identity::PrivateKey;
use crate::identity::TrustDomain;
use crate::identity::bundle::JwtAuthority;
use crate::identity::x509_profile::lint_authority;
use crate::identity::x509_profile::to_be_signed;
use crate::randomness::Randomness;

/// Larger than any state with a few dozen keys, so that writing it out never moves a key about in memory.
const ROOMY: usize = 256 * 1024;
/// How often others should fetch the bundle, in seconds.
const REFRESH_HINT: u64 = 300;

/// Where a key stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    /// Made and kept; nobody knows it yet.
    Prepared,
    /// In the bundle, so that whoever verifies learns it before it is used.
    Published,
    /// In the bundle, and signs. INVARIANT: exactly one key of each kind.
    Active,
    /// Signs no more, and stays in the bundle until the last thing it signed has ended.
    Retired,
}

/// The state, as it is kept.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuthorityState {
    pub(super) trust_domain: String,
    /// `spiffe_sequence`. INVARIANT: never goes back. It starts at the clock's seconds, so that an authority made in
    /// place of a lost one is not taken for an older bundle by those who have seen the lost one's.
    pub(super) sequence: u64,
    pub(super) x509: Vec<X509Key>,
    pub(super) jwt: Vec<JwtKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct X509Key {
    pub(super) stage: Stage,
    #[serde(with = "base64_text")]
    pub(super) certificate: Vec<u8>,
    #[serde(serialize_with = "write_key", deserialize_with = "read_key")]
    pub(super) private_key: PrivateKey,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JwtKey {
    pub(super) stage: Stage,
    /// Seconds since 1970.
    pub(super) not_before: u64,
    /// Seconds since 1970.
    pub(super) not_after: u64,
    #[serde(serialize_with = "write_key", deserialize_with = "read_key")]
    pub(super) private_key: PrivateKey,
}

impl AuthorityState {
    /// Makes a new authority: new keys, used from now on.
    pub(super) fn make(
        settings: &EmbeddedSettings,
        now: SystemTime,
        randomness: &dyn Randomness,
    ) -> Result<Self, NoAuthority> {
        if is_before_release(now) {
            return Err(NoAuthority::ClockBeforeRelease);
        }
        let now = whole_seconds(now);
        let end = now.checked_add(settings.ca_ttl).ok_or(NoAuthority::LifeTooLong)?;
        let life = Life { not_before: now - AUTHORITY_BACKDATE, not_after: whole_seconds(end) };

        let (x509, _) = KeyType::P256.generate().ok_or(NoAuthority::NoKey)?;
        let pair = key::parse(&x509, &ECDSA_P256_SHA256_ASN1_SIGNING).ok_or(NoAuthority::NoKey)?;
        let certificate = certificates::self_signed(Arc::new(pair), &settings.trust_domain, life, randomness)
            .map_err(NoAuthority::OwnCertificate)?;
        let (jwt, _) = KeyType::P256.generate().ok_or(NoAuthority::NoKey)?;
        Ok(Self {
            trust_domain: settings.trust_domain.to_string(),
            sequence: seconds(now),
            x509: vec![X509Key { stage: Stage::Active, certificate: certificate.to_vec(), private_key: x509 }],
            jwt: vec![JwtKey {
                stage: Stage::Active,
                not_before: seconds(life.not_before),
                not_after: seconds(life.not_after),
                private_key: jwt,
            }],
        })
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        serde_json::from_slice(bytes).map_err(|_| "it is not the state of an authority")
    }

    pub(super) fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, NoAuthority> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(ROOMY));
        serde_json::to_writer(&mut *bytes, self).map_err(|_| NoAuthority::NoKey)?;
        Ok(bytes)
    }

    /// The active keys, ready to sign, each checked to be what its certificate or its place says.
    pub(super) fn signers(
        &self,
        settings: &EmbeddedSettings,
        randomness: Arc<dyn Randomness>,
    ) -> Result<(X509Signer, JwtSigner), &'static str> {
        let x509 = only_active(&self.x509, |key| key.stage).ok_or("there is not exactly one active X.509 key")?;
        let own = x509.own_certificate(&settings.trust_domain)?;
        let pair = x509.pair()?;
        let x509 = X509Signer::new(pair, settings.trust_domain.clone(), own, randomness);
        let jwt = only_active(&self.jwt, |key| key.stage).ok_or("there is not exactly one active JWT key")?;
        let pair = key::parse(&jwt.private_key, &ECDSA_P256_SHA256_FIXED_SIGNING).ok_or("a JWT key is no P-256 key")?;
        let jwt = JwtSigner::new(pair, settings.jwt_issuer.clone(), jwt.life()?).ok_or("a JWT key has no id")?;
        Ok((x509, jwt))
    }

    /// What verifies everything that the keys have signed or are about to sign.
    pub(super) fn bundle(&self, trust_domain: TrustDomain) -> Result<Bundle, &'static str> {
        let mut x509_authorities = Vec::new();
        for key in self.x509.iter().filter(|key| key.stage != Stage::Prepared) {
            x509_authorities.push(key.own_certificate(&trust_domain)?.der);
        }
        let mut jwt_authorities = Vec::new();
        for key in self.jwt.iter().filter(|key| key.stage != Stage::Prepared) {
            jwt_authorities.push(key.authority()?);
        }
        let (sequence, refresh_hint) = (Some(self.sequence), Some(REFRESH_HINT));
        Ok(Bundle { trust_domain, x509_authorities, jwt_authorities, sequence, refresh_hint })
    }
}

impl X509Key {
    fn pair(&self) -> Result<Arc<aws_lc_rs::signature::EcdsaKeyPair>, &'static str> {
        let pair =
            key::parse(&self.private_key, &ECDSA_P256_SHA256_ASN1_SIGNING).ok_or("an X.509 key is no P-256 key")?;
        Ok(Arc::new(pair))
    }

    fn own_certificate(&self, trust_domain: &TrustDomain) -> Result<OwnCertificate, &'static str> {
        let broken = "a certificate of the authority breaks the profile";
        let signed = to_be_signed(&self.certificate).map_err(|_| broken)?;
        lint_authority(&signed, trust_domain).map_err(|_| broken)?;
        let (_, parsed) = X509Certificate::from_der(&self.certificate).map_err(|_| broken)?;
        if parsed.public_key().subject_public_key.data.as_ref() != self.pair()?.public_key().as_ref() {
            return Err("a certificate of the authority is not of its key");
        }
        parsed.verify_signature(None).map_err(|_| "a certificate of the authority is not signed by its key")?;
        let key_id = parsed.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        let life = Life {
            not_before: at(parsed.validity().not_before.timestamp())?,
            not_after: at(parsed.validity().not_after.timestamp())?,
        };
        Ok(OwnCertificate {
            der: Bytes::copy_from_slice(&self.certificate),
            subject: parsed.subject().as_raw().to_vec(),
            key_id: key_id.ok_or(broken)?,
            life,
        })
    }
}

impl JwtKey {
    fn life(&self) -> Result<Life, &'static str> {
        let at = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or("a time is out of range");
        Ok(Life { not_before: at(self.not_before)?, not_after: at(self.not_after)? })
    }

    fn authority(&self) -> Result<JwtAuthority, &'static str> {
        let pair =
            key::parse(&self.private_key, &ECDSA_P256_SHA256_FIXED_SIGNING).ok_or("a JWT key is no P-256 key")?;
        tokens::jwt_authority(&pair).ok_or("a JWT key has no id")
    }
}

fn only_active<K>(keys: &[K], stage: impl Fn(&K) -> Stage) -> Option<&K> {
    let mut active = keys.iter().filter(|key| stage(key) == Stage::Active);
    active.next().filter(|_| active.next().is_none())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn at(timestamp: i64) -> Result<SystemTime, &'static str> {
    let seconds = u64::try_from(timestamp).map_err(|_| "a time lies before 1970")?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or("a time is out of range")
}

fn write_key<S: Serializer>(key: &PrivateKey, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&Zeroizing::new(BASE64.encode(key.expose_pkcs8())))
}

/// Reads the text in place: base64 needs no escapes, so no copy of the key is left behind by the reader.
fn read_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PrivateKey, D::Error> {
    let text = <&str>::deserialize(deserializer)?;
    BASE64.decode(text).map(PrivateKey::from_pkcs8).map_err(|_| D::Error::custom("not base64"))
}

mod base64_text {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use serde::Deserialize;
    use serde::Deserializer;
    use serde::Serializer;
    use serde::de::Error as _;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        BASE64.decode(text).map_err(|_| D::Error::custom("not base64"))
    }
}
