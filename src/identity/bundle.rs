//! The public keys of one trust domain.

use bytes::Bytes;
use serde_json::Map;
use serde_json::Value;

use crate::identity::jose::Algorithm;
use crate::identity::jose::PublicKey;
use crate::identity::trust_domain::TrustDomain;

/// The most bytes that a `kid` may have.
pub const MAX_KEY_ID: usize = 128;

/// What verifies the SVIDs of one trust domain (SPEC: Trust Domain and Bundle §3, §4). The name is never taken from
/// content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Whose bundle.
    pub trust_domain: TrustDomain,
    /// Root certificates, DER, in order of publication.
    pub x509_authorities: Vec<Bytes>,
    /// Keys that verify JWT-SVIDs. INVARIANT: no two have the same `kid`.
    pub jwt_authorities: Vec<JwtAuthority>,
    /// `spiffe_sequence`
    pub sequence: Option<u64>,
    /// `spiffe_refresh_hint` in seconds.
    pub refresh_hint: Option<u64>,
}

/// One key that verifies JWT-SVIDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtAuthority {
    key_id: String,
    key: PublicKey,
    algorithm: Option<Algorithm>,
}

/// Why a key and its terms make no JWT authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJwtAuthority {
    /// `kid` is empty or longer than [`MAX_KEY_ID`].
    #[error("its kid has {bytes} bytes; 1 to 128 are allowed")]
    KeyId {
        /// How many it has.
        bytes: usize,
    },
    /// The key cannot make signatures of the algorithm it is bound to.
    #[error("its alg does not fit its key")]
    Algorithm,
}

impl Bundle {
    /// An empty bundle: nothing of this trust domain verifies.
    #[must_use]
    pub fn empty(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            x509_authorities: Vec::new(),
            jwt_authorities: Vec::new(),
            sequence: None,
            refresh_hint: None,
        }
    }

    /// The root certificates, DER, one after the other: the form of the Workload API.
    #[must_use]
    pub fn x509_der_concatenated(&self) -> Bytes {
        self.x509_authorities.concat().into()
    }

    /// The JWK Set of the Workload API (SPEC: Workload API §6.2.2): JWT keys only, each with `kid` and, where the key
    /// has exactly one, `alg`. `use` is left out, because validators that predate SPIFFE take a key with an unknown use
    /// for unusable.
    #[must_use]
    pub fn jwks_for_workload_api(&self) -> Bytes {
        let keys = self.jwt_authorities.iter().map(|authority| Value::Object(authority.jwk())).collect();
        let set = Map::from_iter([("keys".to_owned(), Value::Array(keys))]);
        Value::Object(set).to_string().into()
    }
}

impl JwtAuthority {
    /// A key of a given name. `algorithm` binds it: `None` lets it verify every algorithm of its kind.
    ///
    /// # Errors
    /// [`InvalidJwtAuthority`]
    pub fn new(
        key_id: impl Into<String>,
        key: PublicKey,
        algorithm: Option<Algorithm>,
    ) -> Result<Self, InvalidJwtAuthority> {
        let key_id = key_id.into();
        if key_id.is_empty() || key_id.len() > MAX_KEY_ID {
            return Err(InvalidJwtAuthority::KeyId { bytes: key_id.len() });
        }
        match algorithm.or(key.only_algorithm()) {
            Some(algorithm) if !key.fits(algorithm) => Err(InvalidJwtAuthority::Algorithm),
            algorithm => Ok(Self { key_id, key, algorithm }),
        }
    }

    /// A key of our own, named by its thumbprint.
    ///
    /// # Errors
    /// [`InvalidJwtAuthority::Algorithm`]
    pub fn named_by_thumbprint(key: PublicKey, algorithm: Algorithm) -> Result<Self, InvalidJwtAuthority> {
        Self::new(key.thumbprint(), key, Some(algorithm))
    }

    /// `kid`: 1 to [`MAX_KEY_ID`] bytes.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Whether it may verify signatures of `algorithm`: its kind fits, and it is bound to no other.
    #[must_use]
    pub fn may_verify(&self, algorithm: Algorithm) -> bool {
        self.key.fits(algorithm) && self.algorithm.is_none_or(|bound| bound == algorithm)
    }

    /// As a JWK with `kid` and, where it is bound to one, `alg`.
    #[must_use]
    pub fn jwk(&self) -> Map<String, Value> {
        let mut jwk = self.key.jwk();
        jwk.insert("kid".to_owned(), self.key_id.clone().into());
        if let Some(algorithm) = self.algorithm {
            jwk.insert("alg".to_owned(), algorithm.name().into());
        }
        jwk
    }
}
