//! Keys on the curve P-256: making them, and the one form in which their public half travels.

use aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::KeyPair;
use bytes::Bytes;

use crate::identity::PrivateKey;

/// The SubjectPublicKeyInfo of a P-256 key up to its uncompressed point (SPEC: RFC 5480 §2).
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const POINT: usize = 65;

/// A new key, and its public half as SubjectPublicKeyInfo. `None` when the crypto library has failed.
#[must_use]
pub fn generate() -> Option<(PrivateKey, Bytes)> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).ok()?;
    let public_key = [&SPKI_PREFIX, pair.public_key().as_ref()].concat();
    let key = PrivateKey::from_pkcs8(pair.to_pkcs8v1().ok()?.as_ref().to_vec());
    Some((key, public_key.into()))
}

/// The uncompressed point of a SubjectPublicKeyInfo; `None` when that is of another curve or kind.
#[must_use]
pub fn point_of(public_key: &[u8]) -> Option<&[u8]> {
    public_key.strip_prefix(&SPKI_PREFIX).filter(|point| point.len() == POINT)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::encoding::PublicKeyX509Der;

    use super::*;

    #[test]
    fn the_public_half_is_what_the_crypto_library_writes() {
        let (key, public_key) = generate().unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.expose_pkcs8()).unwrap();
        let der: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        assert_eq!(public_key, der.as_ref());
        assert_eq!(point_of(&public_key), Some(pair.public_key().as_ref()));
        assert_eq!(point_of(&public_key[..90]), None);
        assert_eq!(point_of(&[public_key.as_ref(), &[0]].concat()), None);
    }
}
