//! Issuances: every signed credential has an id that all audit records of it carry.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::authority::KeyId;
use crate::identity::JwtSvid;
use crate::identity::SpiffeId;
use crate::identity::X509Svid;
use crate::policy::DecisionId;
use crate::registration::entry::Origin;

/// The random id of one issuance. `Display` gives `i-7f31c2a90b4e`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IssuanceId(pub [u8; 6]);

/// The text is no issuance id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the id of an issuance is i- and twelve hexadecimal digits, for example i-7f31c2a90b4e")]
pub struct NotAnIssuanceId;

/// The kind of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CredentialKind {
    /// An X509-SVID.
    X509,
    /// A JWT-SVID.
    Jwt,
}

/// One credential that was signed on a permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuance {
    /// Its id.
    pub id: IssuanceId,
    /// Its kind.
    pub kind: CredentialKind,
    /// The SPIFFE ID of its subject.
    pub spiffe_id: SpiffeId,
    /// The serial number of the certificate, in lower-case hexadecimal, or the token's `jti`.
    pub serial: String,
    /// The X.509 key of the authority that signed it; `None` for a token.
    pub signed_by: Option<KeyId>,
    /// When it ends.
    pub not_after: SystemTime,
    /// The origin of the entry that gave it.
    pub entry: Origin,
    /// The decision that permitted it.
    pub decision: DecisionId,
}

/// An X509-SVID for one caller.
#[derive(Debug, Clone)]
pub struct IssuedX509Svid {
    /// The issuance.
    pub issuance: Arc<Issuance>,
    /// The SVID.
    pub svid: X509Svid,
    /// When to ask again, at least 1 s from now. A shared SVID whose renewal failed comes back unchanged with a later time.
    pub renew_at: SystemTime,
    /// Whether this is the first hand-over of the issuance. Each further one is a record `delivered`.
    pub first: bool,
}

/// A JWT-SVID for one caller, newly signed.
#[derive(Debug, Clone)]
pub struct IssuedJwtSvid {
    /// The issuance.
    pub issuance: Arc<Issuance>,
    /// The SVID.
    pub svid: JwtSvid,
}

impl fmt::Display for IssuanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "i-{:012x}", u64::from_be_bytes([0, 0, a, b, c, d, e, g]))
    }
}

impl FromStr for IssuanceId {
    type Err = NotAnIssuanceId;

    fn from_str(text: &str) -> Result<Self, NotAnIssuanceId> {
        let is_id = |digits: &&str| digits.len() == 12 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let digits = text.strip_prefix("i-").filter(is_id).ok_or(NotAnIssuanceId)?;
        let [_, _, id @ ..] = u64::from_str_radix(digits, 16).map_err(|_| NotAnIssuanceId)?.to_be_bytes();
        Ok(Self(id))
    }
}

impl Issuance {
    /// Whether one of these keys signed it.
    #[must_use]
    pub fn is_of(&self, keys: &[KeyId]) -> bool {
        self.signed_by.is_some_and(|key| keys.contains(&key))
    }
}

impl CredentialKind {
    /// The word of a record.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::Jwt => "jwt",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_but_the_text_of_an_id_is_one() {
        assert_eq!("i-7f31c2a90b4e".parse(), Ok(IssuanceId([0x7f, 0x31, 0xc2, 0xa9, 0x0b, 0x4e])));
        for text in ["", "i-", "d-7f31c2a90b4e", "i-7f31c2a90b4", "i-7f31c2a90b4e0", "i-+f31c2a90b4e", "i-é31c2a90b4e"]
        {
            assert_eq!(text.parse::<IssuanceId>(), Err(NotAnIssuanceId), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_id_reads_back_from_its_text(id in any::<[u8; 6]>()) {
            prop_assert_eq!(IssuanceId(id).to_string().parse(), Ok(IssuanceId(id)));
        }
    }
}
