//! An authority's key pairs, parsed once, and the one key that certificates are signed with: it reads what it is
//! given before it signs.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::EcdsaSigningAlgorithm;
use aws_lc_rs::signature::KeyPair;
use rcgen::PKCS_ECDSA_P256_SHA256;
use rcgen::PublicKeyData;
use rcgen::SignatureAlgorithm;
use rcgen::SigningKey;

use crate::identity::PrivateKey;
use crate::identity::TrustDomain;
use crate::identity::x509_profile::IssuedBy;
use crate::identity::x509_profile::ProfileViolation;
use crate::identity::x509_profile::lint_authority;
use crate::identity::x509_profile::lint_leaf;

/// A kept key, ready to sign with `algorithm`.
pub(in crate::authority) fn parse(key: &PrivateKey, algorithm: &'static EcdsaSigningAlgorithm) -> Option<EcdsaKeyPair> {
    EcdsaKeyPair::from_pkcs8(algorithm, key.expose_pkcs8()).ok()
}

/// What a key may put its name to.
#[derive(Debug)]
pub(in crate::authority) enum Signs {
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
pub(in crate::authority) struct LintingKey {
    pub(in crate::authority) pair: Arc<EcdsaKeyPair>,
    pub(in crate::authority) trust_domain: TrustDomain,
    pub(in crate::authority) signs: Signs,
}

impl LintingKey {
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

impl SigningKey for LintingKey {
    /// SECURITY: every certificate passes here, and what passes here is exactly what gets the signature, so that a leaf
    /// that could act as an authority, or has two names, cannot be signed by any mistake above.
    fn sign(&self, to_be_signed: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.lint(to_be_signed).map_err(|violation| rcgen::Error::X509(violation.to_string()))?;
        let signature =
            self.pair.sign(&SystemRandom::new(), to_be_signed).map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

impl PublicKeyData for LintingKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl fmt::Debug for LintingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LintingKey").field("signs", &self.signs).finish_non_exhaustive()
    }
}
