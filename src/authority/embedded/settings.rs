//! What the configuration says of an embedded authority.

use std::time::Duration;

use crate::identity::TrustDomain;

/// What an embedded authority is for.
#[derive(Debug, Clone)]
pub struct EmbeddedSettings {
    /// Whose identities it signs.
    pub trust_domain: TrustDomain,
    /// How long a key of its own lives, from its making; used when one is made.
    pub ca_ttl: Duration,
    /// `iss` of its tokens; absent from them when `None`.
    pub jwt_issuer: Option<String>,
}
