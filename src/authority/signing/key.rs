//! The keys that an authority signs with: what any of them must be able to do, and those that lie in this process.

use std::fmt;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::encoding::PublicKeyX509Der;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING;
use aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::KeyPair;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::future::FutureExt;

use crate::authority::order::Refused;
use crate::identity::PrivateKey;

/// The octets of a fixed-width signature on P-256: two numbers of 32 (SPEC: RFC 7518 §3.4).
const FIXED_WIDTH: usize = 64;

/// A P-256 key that signs with ECDSA and SHA-256, wherever it lies: in this process, behind PKCS#11 or on a server.
///
/// SECURITY: a key signs whatever it is given. One function hands it certificates, and lints them first; a key that signs
/// certificates is given to nothing else.
pub trait SigningKey: Send + Sync + fmt::Debug {
    /// Its SubjectPublicKeyInfo, DER.
    fn public_key(&self) -> &Bytes;

    /// Signs the SHA-256 digest of `message`. A key of certificates returns the ASN.1 form (SPEC: RFC 3279 §2.2.3), a key
    /// of tokens the one of fixed width (SPEC: RFC 7518 §3.4).
    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, KeyFailed>>;
}

/// A key gave no signature. It may later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyFailed(
    /// Why.
    pub String,
);

impl From<KeyFailed> for Refused {
    fn from(failed: KeyFailed) -> Self {
        Self::Unavailable(failed.to_string())
    }
}

/// How a signature is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::authority) enum SignatureForm {
    /// As certificates have it (SPEC: RFC 3279 §2.2.3).
    Asn1,
    /// As tokens have it (SPEC: RFC 7518 §3.4).
    FixedWidth,
}

impl SignatureForm {
    /// Passes `signature` on where it has this form: in another one it would verify nowhere.
    pub(super) fn check(self, signature: Vec<u8>) -> Result<Vec<u8>, KeyFailed> {
        let fits = match (self, signature.as_slice()) {
            (Self::Asn1, [0x30, length, numbers @ ..]) => numbers.len() == usize::from(*length),
            (Self::Asn1, _) => false,
            (Self::FixedWidth, signature) => signature.len() == FIXED_WIDTH,
        };
        if fits { Ok(signature) } else { Err(KeyFailed("its signature has the wrong form".to_owned())) }
    }
}

/// A key in this process, parsed once.
pub(in crate::authority) struct LocalKey {
    pair: EcdsaKeyPair,
    public: Bytes,
}

impl LocalKey {
    /// Takes up a kept key; `None` where it is no P-256 key.
    pub(in crate::authority) fn new(key: &PrivateKey, form: SignatureForm) -> Option<Self> {
        let algorithm = match form {
            SignatureForm::Asn1 => &ECDSA_P256_SHA256_ASN1_SIGNING,
            SignatureForm::FixedWidth => &ECDSA_P256_SHA256_FIXED_SIGNING,
        };
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, key.expose_pkcs8()).ok()?;
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().ok()?;
        let public = Bytes::copy_from_slice(public.as_ref());
        Some(Self { pair, public })
    }

    /// As [`SigningKey::sign`], for whoever cannot wait: a key that was made a moment ago signs its own certificate.
    pub(super) fn sign_now(&self, message: &[u8]) -> Result<Vec<u8>, KeyFailed> {
        let signature = self.pair.sign(&SystemRandom::new(), message);
        let signature = signature.map_err(|_| KeyFailed("the crypto library drew no signature".to_owned()))?;
        Ok(signature.as_ref().to_vec())
    }
}

impl SigningKey for LocalKey {
    fn public_key(&self) -> &Bytes {
        &self.public
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, KeyFailed>> {
        async move { self.sign_now(message) }.boxed()
    }
}

impl fmt::Debug for LocalKey {
    /// SECURITY: nothing of the private half.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalKey").field("public", &self.public).finish_non_exhaustive()
    }
}
