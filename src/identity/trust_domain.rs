//! A trust domain's name.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The most bytes a trust domain's name may have (SPEC: SPIFFE-ID §2.3).
pub const MAX_TRUST_DOMAIN: usize = 255;

/// The name of a trust domain: 1 to 255 bytes of `a-z 0-9 . - _`, compared byte by byte (SPEC: SPIFFE-ID §2.1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

/// Why a text is not the name of a trust domain. Positions count bytes from the start of the name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTrustDomain {
    /// The name is empty.
    #[error("the trust domain is empty")]
    Empty,
    /// The name has more than [`MAX_TRUST_DOMAIN`] bytes.
    #[error("the trust domain has {bytes} bytes; at most {MAX_TRUST_DOMAIN} are allowed")]
    TooLong {
        /// How many it has.
        bytes: usize,
    },
    /// The name has a capital letter.
    #[error("the trust domain has a capital letter {found:?} at byte {at}; write it in lower case")]
    UpperCase {
        /// Byte offset in the name.
        at: usize,
        /// The letter.
        found: char,
    },
    /// The name has a character that no trust domain may have.
    #[error("the trust domain has {found:?} at byte {at}; only a-z 0-9 . - _ are allowed")]
    Character {
        /// Byte offset in the name.
        at: usize,
        /// The character.
        found: char,
    },
}

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
    type Err = InvalidTrustDomain;

    fn from_str(name: &str) -> Result<Self, InvalidTrustDomain> {
        if name.is_empty() {
            return Err(InvalidTrustDomain::Empty);
        }
        if name.len() > MAX_TRUST_DOMAIN {
            return Err(InvalidTrustDomain::TooLong { bytes: name.len() });
        }
        match name.char_indices().find(|(_, c)| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_')) {
            Some((at, found)) if found.is_ascii_uppercase() => Err(InvalidTrustDomain::UpperCase { at, found }),
            Some((at, found)) => Err(InvalidTrustDomain::Character { at, found }),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_name_says_what_and_where() {
        let why = |name: &str| name.parse::<TrustDomain>().unwrap_err().to_string();
        assert_eq!(why(""), "the trust domain is empty");
        assert_eq!(why(&"a".repeat(256)), "the trust domain has 256 bytes; at most 255 are allowed");
        assert_eq!(why("acme.Test"), "the trust domain has a capital letter 'T' at byte 5; write it in lower case");
        assert_eq!(why("acme/web"), "the trust domain has '/' at byte 4; only a-z 0-9 . - _ are allowed");
    }
}
