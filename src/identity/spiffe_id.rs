//! A workload's SPIFFE ID.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::identity::trust_domain::TrustDomain;

/// The most bytes a SPIFFE ID may have, scheme included (SPEC: SPIFFE-ID §2.3).
pub const MAX_SPIFFE_ID: usize = 2048;

const SCHEME: &str = "spiffe://";

/// The SPIFFE ID of a workload: always with a path, because a leaf without one is not a valid SVID
/// (SPEC: X509-SVID §3.1, §5.2). A trust domain's own ID is a [`TrustDomain`].
///
/// Compared byte by byte, never decoded, trimmed or normalised (SPEC: SPIFFE-ID §2).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    uri: Arc<str>,
    path_start: usize,
}

/// Why a text is not a SPIFFE ID. Positions count bytes from the start of the part that is named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpiffeId {
    /// The text does not begin with `spiffe://`.
    #[error("a SPIFFE ID begins with spiffe://")]
    Scheme,
    /// The trust domain is empty.
    #[error("the trust domain is empty")]
    NoTrustDomain,
    /// The trust domain has more than [`crate::identity::trust_domain::MAX_TRUST_DOMAIN`] bytes.
    #[error("the trust domain has {bytes} bytes; at most 255 are allowed")]
    TrustDomainTooLong {
        /// How many it has.
        bytes: usize,
    },
    /// A capital letter in the trust domain.
    #[error("the trust domain has a capital letter {found:?} at byte {at}; write it in lower case")]
    TrustDomainUpperCase {
        /// Byte offset in the name.
        at: usize,
        /// The letter.
        found: char,
    },
    /// A character that no trust domain may have.
    #[error("the trust domain has {found:?} at byte {at}; only a-z 0-9 . - _ are allowed")]
    TrustDomainCharacter {
        /// Byte offset in the name.
        at: usize,
        /// The character.
        found: char,
    },
    /// There is no path, or only `/`.
    #[error("a workload's SPIFFE ID has a path, for example spiffe://example.org/web")]
    NoPath,
    /// An empty, `.` or `..` segment, or a slash at the end.
    #[error("the path has an empty, \".\" or \"..\" segment at byte {at}")]
    PathSegment {
        /// Byte offset in the path.
        at: usize,
    },
    /// A character that no path may have.
    #[error("the path has {found:?} at byte {at}; only a-z A-Z 0-9 . - _ and / are allowed")]
    PathCharacter {
        /// Byte offset in the path.
        at: usize,
        /// The character.
        found: char,
    },
    /// More than [`MAX_SPIFFE_ID`] bytes.
    #[error("the SPIFFE ID has {bytes} bytes; at most 2048 are allowed")]
    TooLong {
        /// How many it has.
        bytes: usize,
    },
}

impl SpiffeId {
    /// Joins a trust domain and a path that begins with `/`.
    ///
    /// # Errors
    /// [`InvalidSpiffeId`] when the path is not one, or the whole is too long.
    pub fn new(trust_domain: &TrustDomain, path: &str) -> Result<Self, InvalidSpiffeId> {
        check_path(path)?;
        let bytes = SCHEME.len() + trust_domain.as_str().len() + path.len();
        if bytes > MAX_SPIFFE_ID {
            return Err(InvalidSpiffeId::TooLong { bytes });
        }
        let uri = format!("{SCHEME}{trust_domain}{path}");
        Ok(Self { path_start: uri.len() - path.len(), uri: uri.into() })
    }

    /// The whole URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The trust domain's name.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.uri.get(SCHEME.len()..self.path_start).unwrap_or_default()
    }

    /// The path, beginning with `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.uri.get(self.path_start..).unwrap_or_default()
    }

    /// Whether this ID belongs to `trust_domain`.
    #[must_use]
    pub fn is_member_of(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain() == trust_domain.as_str()
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        let rest = text.strip_prefix(SCHEME).ok_or(InvalidSpiffeId::Scheme)?;
        let (name, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        Self::new(&name.parse()?, path)
    }
}

fn check_path(path: &str) -> Result<(), InvalidSpiffeId> {
    if path.is_empty() || path == "/" {
        return Err(InvalidSpiffeId::NoPath);
    }
    if !path.starts_with('/') {
        return Err(InvalidSpiffeId::PathSegment { at: 0 });
    }
    let mut at = 1;
    for segment in path.split('/').skip(1) {
        if matches!(segment, "" | "." | "..") {
            return Err(InvalidSpiffeId::PathSegment { at });
        }
        if let Some((inside, found)) =
            segment.char_indices().find(|(_, c)| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')))
        {
            return Err(InvalidSpiffeId::PathCharacter { at: at + inside, found });
        }
        at += segment.len() + 1;
    }
    Ok(())
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}
