//! The public keys of one trust domain.

use bytes::Bytes;

use crate::identity::trust_domain::TrustDomain;

/// What verifies the SVIDs of one trust domain (SPEC: Trust Domain and Bundle §3, §4). The name is never taken from
/// content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Whose bundle.
    pub trust_domain: TrustDomain,
    /// Root certificates, DER, in order of publication.
    pub x509_authorities: Vec<Bytes>,
    /// Keys that verify JWT-SVIDs.
    pub jwt_authorities: Vec<JwtAuthority>,
    /// `spiffe_sequence`
    pub sequence: Option<u64>,
    /// `spiffe_refresh_hint` in seconds.
    pub refresh_hint: Option<u64>,
}

/// One key that verifies JWT-SVIDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtAuthority {
    /// `kid`: never empty.
    pub key_id: String,
}
