//! Which certificates may be roots of a trust domain.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::TrustAnchor;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use crate::identity::jose::PublicKey;
use crate::identity::jose::UnusableKey;

/// A certificate that may stand at the end of a chain. Whether it is within its own life is asked for each verification.
#[derive(Debug)]
pub struct Root<'c> {
    certificate: X509Certificate<'c>,
    key: PublicKey,
}

/// Why a certificate is no root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotARoot {
    /// Not DER, something after its end, or an extension that cannot be read or occurs twice.
    #[error("it is not a certificate")]
    NotACertificate,
    /// `cA` is absent or false (SPEC: X509-SVID §3.2, §6.1).
    #[error("it is not a CA certificate")]
    NotACa,
    /// Its key usage does not let it sign certificates (SPEC: X509-SVID §4.3).
    #[error("its key usage has no keyCertSign")]
    NoKeyCertSign,
    /// Its key is of a kind that nothing here verifies with.
    #[error("{0}")]
    Key(#[from] UnusableKey),
}

impl<'c> Root<'c> {
    /// Reads a certificate, DER.
    ///
    /// # Errors
    /// [`NotARoot`]
    pub fn read(der: &'c [u8]) -> Result<Self, NotARoot> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| NotARoot::NotACertificate)?;
        let anchors = webpki::anchor_from_trusted_cert(&CertificateDer::from(der)).is_ok();
        if !rest.is_empty() || !anchors {
            return Err(NotARoot::NotACertificate);
        }
        let constraints = certificate.basic_constraints().map_err(|_| NotARoot::NotACertificate)?;
        if !constraints.is_some_and(|constraints| constraints.value.ca) {
            return Err(NotARoot::NotACa);
        }
        let usage = certificate.key_usage().map_err(|_| NotARoot::NotACertificate)?;
        if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(NotARoot::NoKeyCertSign);
        }
        let key = PublicKey::from_spki(certificate.public_key().raw)?;
        Ok(Self { certificate, key })
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Whether `now` lies in its life. A trust anchor has no dates of its own, so libraries do not ask this.
    #[must_use]
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).ok().and_then(|now| i64::try_from(now.as_secs()).ok());
        let now = seconds.and_then(|now| ASN1Time::from_timestamp(now).ok());
        now.is_some_and(|now| self.certificate.validity().is_valid_at(now))
    }

    /// How many intermediate certificates may follow it; `None` for any number (SPEC: RFC 5280 §4.2.1.9).
    #[must_use]
    pub fn path_length(&self) -> Option<u32> {
        self.certificate
            .basic_constraints()
            .ok()
            .flatten()
            .and_then(|constraints| constraints.value.path_len_constraint)
    }

    /// As an anchor for path building.
    #[must_use]
    pub fn anchor(&self) -> Option<TrustAnchor<'static>> {
        let der = CertificateDer::from(self.certificate.as_raw());
        webpki::anchor_from_trusted_cert(&der).ok().map(|anchor| anchor.to_owned())
    }
}
