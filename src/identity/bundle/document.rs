//! A bundle from the content of a file, in any of the formats that are read, and back.

use bytes::Bytes;

use crate::identity::bundle::Bundle;
use crate::identity::bundle::Ignored;
use crate::identity::bundle::NotABundle;
use crate::identity::bundle::pem;
use crate::identity::bundle::spiffe_json;
use crate::identity::trust_domain::TrustDomain;

impl Bundle {
    /// Reads a bundle from a file's content: a SPIFFE bundle where it begins with `{`, else PEM certificates.
    ///
    /// # Errors
    /// [`NotABundle`]: nothing of it can be used, and what was believed before should be kept.
    pub fn from_document(trust_domain: TrustDomain, bytes: &[u8]) -> Result<(Self, Vec<Ignored>), NotABundle> {
        if bytes.trim_ascii_start().starts_with(b"{") {
            Self::from_spiffe_json(trust_domain, bytes)
        } else if bytes.windows(10).any(|window| window == b"-----BEGIN") {
            Self::from_pem(trust_domain, bytes)
        } else {
            Err(NotABundle::Neither)
        }
    }

    /// Reads a SPIFFE bundle (SPEC: Trust Domain and Bundle §4) of at most [`MAX_BUNDLE`] bytes and [`MAX_KEYS`] keys.
    /// A single element that cannot be used is ignored and reported. An empty set is a bundle: no SVID of that trust
    /// domain verifies.
    ///
    /// # Errors
    /// [`NotABundle`]
    pub fn from_spiffe_json(trust_domain: TrustDomain, bytes: &[u8]) -> Result<(Self, Vec<Ignored>), NotABundle> {
        spiffe_json::read(trust_domain, bytes)
    }

    /// Reads the CA certificates of a PEM file, within the same limits.
    ///
    /// # Errors
    /// [`NotABundle`], also where there is not one usable certificate.
    pub fn from_pem(trust_domain: TrustDomain, bytes: &[u8]) -> Result<(Self, Vec<Ignored>), NotABundle> {
        pem::read(trust_domain, bytes)
    }

    /// As a SPIFFE bundle document, the form in which other trust domains read it.
    #[must_use]
    pub fn to_spiffe_json(&self) -> Bytes {
        spiffe_json::write(self)
    }
}
