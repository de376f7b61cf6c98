//! A trust domain's name.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::identity::spiffe_id::InvalidSpiffeId;

/// The most bytes a trust domain's name may have (SPEC: SPIFFE-ID §2.3).
pub const MAX_TRUST_DOMAIN: usize = 255;

/// The name of a trust domain: 1 to 255 bytes of `a-z 0-9 . - _`, compared byte by byte (SPEC: SPIFFE-ID §2.1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The bare name, for example `example.org`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain's own SPIFFE ID as text, for example `spiffe://example.org`: no path and no trailing slash.
    #[must_use]
    pub fn id_string(&self) -> String {
        format!("spiffe://{}", self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = InvalidSpiffeId;

    fn from_str(name: &str) -> Result<Self, InvalidSpiffeId> {
        if name.is_empty() {
            return Err(InvalidSpiffeId::NoTrustDomain);
        }
        if name.len() > MAX_TRUST_DOMAIN {
            return Err(InvalidSpiffeId::TrustDomainTooLong { bytes: name.len() });
        }
        match name.char_indices().find(|(_, c)| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_')) {
            Some((at, found)) if found.is_ascii_uppercase() => Err(InvalidSpiffeId::TrustDomainUpperCase { at, found }),
            Some((at, found)) => Err(InvalidSpiffeId::TrustDomainCharacter { at, found }),
            None => Ok(Self(name.into())),
        }
    }
}

/// Lets a map by trust domain be asked with a bare name. Order and hash are those of the name.
impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
