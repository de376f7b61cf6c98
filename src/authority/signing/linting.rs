//! The one key that certificates are signed with: it reads what it is given before it signs.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::authority::order::Refused;
use crate::authority::signing::der;
use crate::authority::signing::key::LocalKey;
use crate::authority::signing::key::SignatureForm;
use crate::authority::signing::key::SigningKey;
use crate::identity::TrustDomain;
use crate::identity::x509_profile::IssuedBy;
use crate::identity::x509_profile::ProfileViolation;
use crate::identity::x509_profile::lint_authority;
use crate::identity::x509_profile::lint_leaf;

/// What a key may put its name to.
#[derive(Debug)]
pub(super) enum Signs {
    /// Its own certificate.
    Itself,
    /// Leaves that end before it does.
    Leaves {
        /// The subject key id of its certificate.
        key_id: Vec<u8>,
        /// The end of its certificate.
        not_after: SystemTime,
    },
}

/// A key that refuses to sign a certificate which breaks the profile.
pub(super) struct LintingKey<K> {
    key: K,
    trust_domain: TrustDomain,
    signs: Signs,
}

impl<K> LintingKey<K> {
    pub(super) const fn new(key: K, trust_domain: TrustDomain, signs: Signs) -> Self {
        Self { key, trust_domain, signs }
    }

    /// SECURITY: every certificate passes here, and what passes here is exactly what gets the signature, so that a leaf
    /// that could act as an authority, or has two names, cannot be signed by any mistake above. Who signs leaves has no
    /// other handle on its key, and `sign` captures no other bytes.
    fn sign<'a, S>(&'a self, to_be_signed: &'a [u8], sign: fn(&'a K, &'a [u8]) -> S) -> Result<S, Refused> {
        self.lint(to_be_signed).map_err(|violation| Refused::BugLint(violation.to_string()))?;
        Ok(sign(&self.key, to_be_signed))
    }

    fn lint(&self, to_be_signed: &[u8]) -> Result<(), ProfileViolation> {
        match &self.signs {
            Signs::Itself => lint_authority(to_be_signed, &self.trust_domain),
            Signs::Leaves { key_id, not_after } => {
                let issuer = IssuedBy { trust_domain: &self.trust_domain, key_id, not_after: *not_after };
                lint_leaf(to_be_signed, &issuer)
            }
        }
    }
}

impl LintingKey<Arc<dyn SigningKey>> {
    /// The whole certificate.
    pub(super) async fn certificate(&self, to_be_signed: &[u8]) -> Result<Bytes, Refused> {
        let signature = self.sign(to_be_signed, |key, linted| key.sign(linted))?.await?;
        whole(to_be_signed, signature)
    }
}

impl LintingKey<&LocalKey> {
    /// The whole certificate.
    pub(super) fn certificate_now(&self, to_be_signed: &[u8]) -> Result<Bytes, Refused> {
        let signature = self.sign(to_be_signed, |key, linted| key.sign_now(linted))??;
        whole(to_be_signed, signature)
    }
}

fn whole(to_be_signed: &[u8], signature: Vec<u8>) -> Result<Bytes, Refused> {
    Ok(der::certificate(to_be_signed, &SignatureForm::Asn1.check(signature)?).into())
}

impl<K> fmt::Debug for LintingKey<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LintingKey").field("signs", &self.signs).finish_non_exhaustive()
    }
}
