//! The form in which the authority's state is kept: JSON, which [`AuthorityState`](super::state::AuthorityState) reads and
//! checks. Times are seconds since 1970.
//!
//! SECURITY: the two kinds of key name their common fields each for itself. serde's `flatten` would read them by way of a
//! buffer, and leave copies of private keys behind.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::Error as _;
use zeroize::Zeroizing;

use crate::authority::keys::Stage;
use crate::identity::PrivateKey;

/// Larger than any state with a few dozen keys, so that writing it out never moves a key about in memory.
const ROOMY: usize = 256 * 1024;

/// The state.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredState {
    pub(super) trust_domain: String,
    pub(super) sequence: u64,
    pub(super) x509: Vec<StoredX509Key>,
    pub(super) jwt: Vec<StoredJwtKey>,
}

/// A key for X509-SVIDs.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredX509Key {
    pub(super) stage: Stage,
    /// When it was made; absent where that is 48 h after the beginning of its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) made: Option<u64>,
    #[serde(with = "base64_text")]
    pub(super) certificate: Vec<u8>,
    /// Absent of a retired key, which signs no more.
    #[serde(with = "key_text", default, skip_serializing_if = "Option::is_none")]
    pub(super) private_key: Option<Arc<PrivateKey>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) used_from: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) needed_until: Option<u64>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) tainted: bool,
}

/// A key for JWT-SVIDs.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredJwtKey {
    pub(super) stage: Stage,
    /// When it was made; absent where that is 48 h after the beginning of its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) made: Option<u64>,
    pub(super) not_before: u64,
    pub(super) not_after: u64,
    /// SubjectPublicKeyInfo; absent in the state of a release that kept every private key.
    #[serde(with = "base64_text", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) public_key: Vec<u8>,
    /// Absent of a retired key, which signs no more.
    #[serde(with = "key_text", default, skip_serializing_if = "Option::is_none")]
    pub(super) private_key: Option<Arc<PrivateKey>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) used_from: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) needed_until: Option<u64>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) tainted: bool,
}

impl StoredState {
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, &'static str> {
        serde_json::from_slice(bytes).map_err(|_| "it is not the state of an authority")
    }

    /// `None` where a writer into memory fails, which none does.
    pub(super) fn to_bytes(&self) -> Option<Zeroizing<Vec<u8>>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(ROOMY));
        serde_json::to_writer(&mut *bytes, self).ok()?;
        Some(bytes)
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_false(flag: &bool) -> bool {
    !flag
}

mod key_text {
    use super::*;

    pub(super) fn serialize<S: Serializer>(key: &Option<Arc<PrivateKey>>, serializer: S) -> Result<S::Ok, S::Error> {
        match key {
            Some(key) => serializer.serialize_str(&Zeroizing::new(BASE64.encode(key.expose_pkcs8()))),
            None => serializer.serialize_none(),
        }
    }

    /// Reads the text in place: base64 needs no escapes, so no copy of the key is left behind by the reader.
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<PrivateKey>>, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        let key = BASE64.decode(text).map(PrivateKey::from_pkcs8).map_err(|_| D::Error::custom("not base64"))?;
        Ok(Some(Arc::new(key)))
    }
}

mod base64_text {
    use super::*;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        BASE64.decode(text).map_err(|_| D::Error::custom("not base64"))
    }
}
