//! Who signs. An authority turns orders into certificates and tokens, publishes the bundle that verifies them, and keeps
//! its own keys. Refuses to know who asked and why: an [`Order`] names an identity and terms, and nothing else.

pub mod embedded;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::identity::SpiffeId;
use crate::identity::bundle::Bundle;

/// What is to be certified.
#[derive(Debug, Clone)]
pub struct Order {
    /// Whose certificate.
    pub id: SpiffeId,
    /// DNS names beside the SPIFFE ID.
    pub dns: Vec<String>,
    /// The subject's public key as SubjectPublicKeyInfo, DER.
    pub public_key: Bytes,
    /// When it is wanted to begin; the authority dates it back by 60 s.
    pub issued: SystemTime,
    /// When it is wanted to end; the authority's own end comes first.
    pub not_after: SystemTime,
}

/// What a token is to say.
#[derive(Debug, Clone)]
pub struct TokenOrder {
    /// `sub`
    pub id: SpiffeId,
    /// `aud`, one to eight.
    pub audiences: Vec<String>,
    /// `iat`
    pub issued: SystemTime,
    /// `exp`; the authority's own end comes first.
    pub not_after: SystemTime,
    /// `jti`
    pub token_id: String,
}

/// A signed certificate with what verifies it.
#[derive(Debug, Clone)]
pub struct Chain {
    /// DER certificates, leaf first, without the root.
    pub certificates: Vec<Bytes>,
    /// The leaf's serial number, in lower-case hexadecimal.
    pub serial: String,
    /// The leaf's end as signed: at most what was ordered.
    pub not_after: SystemTime,
    /// Whether the authority's own end made the life shorter than ordered.
    pub clamped: bool,
}

/// A signed token.
#[derive(Clone)]
pub struct Token {
    /// JWS compact form.
    pub compact: String,
    /// `exp`
    pub not_after: SystemTime,
    /// Whether the authority's own end made the life shorter than ordered.
    pub clamped: bool,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SECURITY: a token is a bearer secret; its text never reaches a log by way of Debug.
        f.debug_struct("Token").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// Why an authority signed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Outside the authority's own life, or before this release's date.
    #[error("{0}")]
    OutsideLife(String),
    /// The signer cannot be reached, or failed.
    #[error("the signer failed: {0}")]
    Unavailable(String),
    /// What was built breaks the profile of an SVID; a bug of ours, and nothing left.
    #[error("refused to sign what breaks the SVID profile: {0}")]
    BugLint(String),
}

/// Whether every stream gets a key of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySharing {
    /// No two processes share a key.
    PerStream,
    /// One key per entry, as a remote signer's interface has it.
    PerEntry,
}

/// Who signs.
pub trait Authority: Send + Sync + fmt::Debug {
    /// Certifies each order, in order.
    fn x509(&self, orders: Vec<Order>) -> BoxFuture<'_, Vec<Result<Chain, Refused>>>;

    /// Signs one token.
    fn jwt(&self, order: TokenOrder) -> BoxFuture<'_, Result<Token, Refused>>;

    /// The bundle of its trust domain, published before anything in it is used; empty before there is a key.
    fn bundle(&self) -> watch::Receiver<Arc<Bundle>>;

    /// Whether keys may be shared.
    fn key_sharing(&self) -> KeySharing;

    /// When the active X.509 key, and with it everything it signs, ends; `None` before there is one.
    fn not_after(&self) -> Option<SystemTime>;

    /// Whether it could sign at that time, as far as the clock goes.
    ///
    /// # Errors
    /// [`Refused::OutsideLife`], or [`Refused::Unavailable`] while it has no key.
    fn can_sign(&self, now: SystemTime) -> Result<(), Refused>;
}
