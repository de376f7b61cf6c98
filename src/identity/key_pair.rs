//! Key pairs of SVIDs: generation, public keys as SubjectPublicKeyInfo, and certificate requests.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::KeyPair;
use bytes::Bytes;
use rcgen::CertificateParams;
use rcgen::DistinguishedName;
use rcgen::PKCS_ECDSA_P256_SHA256;
use rcgen::PublicKeyData;
use rcgen::SanType;
use rcgen::SignatureAlgorithm;
use rcgen::SigningKey;

use crate::identity::PrivateKey;
use crate::identity::SpiffeId;

/// The SubjectPublicKeyInfo of a P-256 key up to its uncompressed point (SPEC: RFC 5480 §2).
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The kind of a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KeyType {
    /// ECDSA on the curve P-256.
    #[default]
    P256,
}

/// The key pair of one subject.
pub struct SubjectKey {
    key_type: KeyType,
    private: Arc<PrivateKey>,
    /// SubjectPublicKeyInfo, DER. INVARIANT: of `key_type`.
    public: Bytes,
}

impl KeyType {
    /// A new key, and its public half as SubjectPublicKeyInfo. `None` when the crypto library has failed.
    #[must_use]
    pub fn generate(self) -> Option<(PrivateKey, Bytes)> {
        match self {
            Self::P256 => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).ok()?;
                let public = [&P256_PREFIX, pair.public_key().as_ref()].concat();
                Some((PrivateKey::from_pkcs8(pair.to_pkcs8v1().ok()?.as_ref().to_vec()), public.into()))
            }
        }
    }
}

impl SubjectKey {
    /// A new key pair. `None` when the crypto library has failed.
    #[must_use]
    pub fn generate(key_type: KeyType) -> Option<Self> {
        let (private, public) = key_type.generate()?;
        Some(Self { key_type, private: Arc::new(private), public })
    }

    /// The private half, for the workload.
    #[must_use]
    pub fn private_key(&self) -> &Arc<PrivateKey> {
        &self.private
    }

    /// The public half as SubjectPublicKeyInfo, DER.
    #[must_use]
    pub fn public_key(&self) -> &Bytes {
        &self.public
    }

    /// The value of the public key's BIT STRING, of which key identifiers are digests (SPEC: RFC 5280 §4.2.1.2).
    #[must_use]
    pub fn public_bits(&self) -> &[u8] {
        let prefix = match self.key_type {
            KeyType::P256 => P256_PREFIX.len(),
        };
        self.public.get(prefix..).unwrap_or_default()
    }

    /// A certificate request (SPEC: RFC 2986) that names `id` and has no subject, DER. `None` when the crypto library has
    /// failed.
    ///
    /// SECURITY: the signature proves possession of the private key to a remote signer.
    #[must_use]
    pub fn certificate_request(&self, id: &SpiffeId) -> Option<Bytes> {
        let key = match self.key_type {
            KeyType::P256 => {
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, self.private.expose_pkcs8()).ok()?
            }
        };
        let mut request = CertificateParams::default();
        request.distinguished_name = DistinguishedName::new();
        request.subject_alt_names = vec![SanType::URI(id.as_str().try_into().ok()?)];
        let request = request.serialize_request(&RequestKey(key)).ok()?;
        Some(Bytes::copy_from_slice(request.der()))
    }
}

impl fmt::Debug for SubjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubjectKey").field("key_type", &self.key_type).finish_non_exhaustive()
    }
}

/// A P-256 key that signs certificate requests.
struct RequestKey(EcdsaKeyPair);

impl SigningKey for RequestKey {
    fn sign(&self, request: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.0.sign(&SystemRandom::new(), request).map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

impl PublicKeyData for RequestKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::encoding::PublicKeyX509Der;
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::extensions::GeneralName;
    use x509_parser::extensions::ParsedExtension;
    use x509_parser::prelude::FromDer;

    use super::*;

    #[test]
    fn the_public_half_is_what_the_crypto_library_writes() {
        let key = SubjectKey::generate(KeyType::P256).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.private_key().expose_pkcs8()).unwrap();
        let der: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        assert_eq!(key.public_key(), der.as_ref());
        assert_eq!(key.public_bits(), pair.public_key().as_ref());
    }

    #[test]
    fn a_certificate_request_names_the_id_and_is_signed_by_its_own_key() {
        let key = SubjectKey::generate(KeyType::P256).unwrap();
        let id = "spiffe://example.org/web".parse().unwrap();
        let der = key.certificate_request(&id).unwrap();
        let (rest, request) = X509CertificationRequest::from_der(&der).unwrap();
        assert!(rest.is_empty());
        request.verify_signature().unwrap();
        let info = &request.certification_request_info;
        assert_eq!(info.subject_pki.raw, key.public_key());
        assert_eq!(info.subject.iter_rdn().count(), 0);
        let extensions: Vec<_> = request.requested_extensions().unwrap().collect();
        let [ParsedExtension::SubjectAlternativeName(names)] = extensions.as_slice() else { panic!("{extensions:?}") };
        assert_eq!(names.general_names, [GeneralName::URI(id.as_str())]);

        let mut forged = der.to_vec();
        let byte = forged.windows(3).position(|window| window == b"web").unwrap();
        forged[byte] = b'W';
        let (_, forged) = X509CertificationRequest::from_der(&forged).unwrap();
        assert!(forged.verify_signature().is_err());
    }
}
