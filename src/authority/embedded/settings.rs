//! The settings of an embedded authority.

use std::time::Duration;

use crate::identity::TrustDomain;

/// The settings of an embedded authority.
#[derive(Debug, Clone)]
pub struct EmbeddedSettings {
    /// The trust domain of its SVIDs.
    pub trust_domain: TrustDomain,
    /// The lifetime of a new key.
    pub ca_ttl: Duration,
    /// `iss` of its tokens; absent from them when `None`.
    pub jwt_issuer: Option<String>,
}
