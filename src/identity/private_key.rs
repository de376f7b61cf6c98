//! A workload's private key on its way to the workload.

use std::fmt;

use zeroize::Zeroizing;

/// A private key as unencrypted PKCS#8, DER; wiped when dropped. Has no `Debug` of its bytes, no `Clone`, no `Serialize`.
pub struct PrivateKey(Zeroizing<Vec<u8>>);

impl PrivateKey {
    /// Takes the PKCS#8 bytes of a key.
    #[must_use]
    pub fn from_pkcs8(der: Vec<u8>) -> Self {
        Self(Zeroizing::new(der))
    }

    /// The PKCS#8 bytes, to be handed to the workload and nowhere else.
    #[must_use]
    pub fn expose_pkcs8(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}
