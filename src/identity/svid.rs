//! Identity documents as they are handed to a workload.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::identity::private_key::PrivateKey;
use crate::identity::spiffe_id::SpiffeId;

/// An X509-SVID with its private key.
#[derive(Debug, Clone)]
pub struct X509Svid {
    /// Whose.
    pub id: SpiffeId,
    /// DER certificates, leaf first, without the root.
    pub chain: Vec<Bytes>,
    /// The leaf's key.
    pub key: Arc<PrivateKey>,
    /// The operator's hint.
    pub hint: Option<String>,
    /// The leaf's serial number, in lower-case hexadecimal.
    pub serial: String,
    /// When it was issued; the certificate itself begins 60 s earlier.
    pub issued: SystemTime,
    /// When it ends.
    pub not_after: SystemTime,
}

/// A JWT-SVID.
#[derive(Clone)]
pub struct JwtSvid {
    /// Whose.
    pub id: SpiffeId,
    /// JWS compact form: a bearer secret.
    pub token: String,
    /// The operator's hint.
    pub hint: Option<String>,
    /// `jti`
    pub token_id: String,
    /// When it ends.
    pub not_after: SystemTime,
}

impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SECURITY: a token is a bearer secret; its text never reaches a log by way of Debug.
        f.debug_struct("JwtSvid").field("id", &self.id).field("token_id", &self.token_id).finish_non_exhaustive()
    }
}
