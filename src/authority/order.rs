//! Orders for an authority, and its answers.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::authority::keys::KeyId;
use crate::identity::SpiffeId;
use crate::identity::SubjectKey;
use crate::registration::Entry;

/// An order for a certificate.
#[derive(Debug, Clone)]
pub struct Order {
    /// The entry. A local signer signs by its terms, a server by its id on the server.
    pub entry: Arc<Entry>,
    /// The SPIFFE ID of the subject.
    pub id: SpiffeId,
    /// The subject's key.
    pub key: Arc<SubjectKey>,
    /// The time of issue; the authority backdates the certificate by 60 s.
    pub issued: SystemTime,
    /// The latest end; the authority's own end may come first.
    pub not_after: SystemTime,
}

/// An order for a token.
#[derive(Debug, Clone)]
pub struct TokenOrder {
    /// The entry, as in [`Order::entry`].
    pub entry: Arc<Entry>,
    /// `sub`
    pub id: SpiffeId,
    /// `aud`, one to sixteen.
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
    /// The key that signed it.
    pub issuer: KeyId,
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
