//! The public keys of one trust domain, and the documents that carry them. Refuses to know where a document came from.
//! The types here know no format; `document` chooses between the formats, each of which is a file of its own.

mod document;
mod pem;
pub mod root;
mod spiffe_json;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Map;
use serde_json::Value;

use crate::identity::bundle::root::NotARoot;
use crate::identity::jose::Algorithm;
use crate::identity::jose::InvalidJson;
use crate::identity::jose::PublicKey;
use crate::identity::jose::UnusableKey;
use crate::identity::trust_domain::TrustDomain;

/// The most bytes that a bundle document may have.
pub const MAX_BUNDLE: usize = 1024 * 1024;

/// The most keys that a bundle document may have: a trust domain with a hundred signing servers, two keys of each kind per
/// server, and some room.
pub const MAX_KEYS: usize = 512;

/// The most bytes that a `kid` may have.
pub const MAX_KEY_ID: usize = 128;

/// Bundles by trust domain.
pub type Bundles = BTreeMap<TrustDomain, Arc<Bundle>>;

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

/// Why a document is no bundle at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotABundle {
    /// Too large, or not JSON that can be read in one way only.
    #[error("{0}")]
    Json(#[from] InvalidJson),
    /// It begins neither as JSON nor has it a PEM section.
    #[error("it is neither a SPIFFE bundle, which begins with {{, nor PEM certificates")]
    Neither,
    /// `keys` is missing or not an array.
    #[error("it is no SPIFFE bundle: \"keys\" is missing or not an array")]
    NoKeys,
    /// More than [`MAX_KEYS`].
    #[error("it has {keys} keys or more; at most {MAX_KEYS} are allowed")]
    TooManyKeys {
        /// How many were counted.
        keys: usize,
    },
    /// A PEM section does not end, or is not base64.
    #[error("a PEM section is broken")]
    Pem,
    /// PEM without a usable CA certificate.
    #[error("it has no usable CA certificate")]
    NoCertificates,
}

/// One element of a bundle document that was not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{element}: {why}")]
pub struct Ignored {
    /// Which.
    pub element: Element,
    /// Why.
    pub why: Because,
}

/// A place in a bundle document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// An element of `keys`, from 0.
    Key(usize),
    /// A member at the top.
    Member(&'static str),
    /// A section of a PEM file, from 1.
    Section(usize),
}

/// Why an element was not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Because {
    /// Not an object.
    #[error("it is not an object")]
    NotAnObject,
    /// `use` is missing, unknown, or in another case.
    #[error("its use is none of x509-svid, jwt-svid and wit-svid")]
    Use,
    /// It is for another kind of SVID, which nothing here verifies.
    #[error("it verifies WIT-SVIDs, which are not in use here")]
    WitSvid,
    /// `x5c` is missing or empty.
    #[error("it has no certificate in x5c")]
    NoCertificate,
    /// A certificate is not in standard base64.
    #[error("its certificate is not standard base64 without line breaks")]
    CertificateEncoding,
    /// The certificate is no root.
    #[error("{0}")]
    Root(#[from] NotARoot),
    /// The key beside the certificate is not the certificate's.
    #[error("its key is not that of its certificate")]
    OtherKey,
    /// More than one certificate: the first was used.
    #[error("it has more than one certificate; only the first was used")]
    SurplusCertificates,
    /// The key cannot be used.
    #[error("{0}")]
    Key(#[from] UnusableKey),
    /// A key for tokens without a name.
    #[error("it has no kid")]
    NoKeyId,
    /// Two keys for tokens have the same name; neither was used.
    #[error("another key has the same kid; none of them is used")]
    SharedKeyId,
    /// `alg` is none of the nine.
    #[error("its alg is none that a JWT-SVID may have")]
    Algorithm,
    /// Name, key and algorithm do not go together.
    #[error("{0}")]
    JwtAuthority(#[from] InvalidJwtAuthority),
    /// A number is no integer of 64 bits that is not negative.
    #[error("it is not an integer")]
    NotAnInteger,
    /// A number was out of bounds.
    #[error("it is out of bounds; {used} is used")]
    Clamped {
        /// What was taken instead.
        used: u64,
    },
    /// A PEM section of another kind.
    #[error("it is not a certificate")]
    NotACertificate,
    /// A private key lies in a file of public ones.
    #[error("it is a private key; take it out, and replace that key wherever it is in use")]
    PrivateKeyInFile,
}

impl Because {
    /// Whether the operator has to act: for all but keys of a kind that is not in use here.
    #[must_use]
    pub fn is_a_fault(self) -> bool {
        self != Self::WitSvid
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(index) => write!(f, "keys[{index}]"),
            Self::Member(name) => f.write_str(name),
            Self::Section(number) => write!(f, "PEM section {number}"),
        }
    }
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
