//! The machine's own limits in cryptography: the minimum cost of a credential with the same library.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING;
use aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED;
use aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::KeyPair as _;
use aws_lc_rs::signature::Signature;
use aws_lc_rs::signature::UnparsedPublicKey;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use std::hint::black_box;
use std::time::Duration;
use tokio::time::Instant;

/// The size of the signed part of an ordinary X509-SVID.
const MESSAGE: [u8; 420] = [7; 420];

/// A key that only signs, and one of tokens with a signature of its own.
pub(crate) struct Signer {
    key: EcdsaKeyPair,
    token_key: EcdsaKeyPair,
    signature: Signature,
    randomness: SystemRandom,
}

impl Signer {
    pub(crate) fn new() -> Self {
        let randomness = SystemRandom::new();
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let token_key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let signature = token_key.sign(&randomness, &MESSAGE).unwrap();
        Self { key, token_key, signature, randomness }
    }

    /// The ES256 signature of a token in its encoding.
    pub(crate) fn token(&self) -> String {
        let signature = self.token_key.sign(&self.randomness, black_box(&MESSAGE)).unwrap();
        BASE64_URL_SAFE_NO_PAD.encode(signature)
    }

    pub(crate) fn verify(&self) {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.token_key.public_key());
        key.verify(black_box(&MESSAGE), self.signature.as_ref()).unwrap();
    }

    pub(crate) fn sign(&self) {
        black_box(self.key.sign(&self.randomness, black_box(&MESSAGE)).unwrap());
    }

    /// A new P-256 key as PKCS#8, and one signature by the authority's.
    pub(crate) fn key_and_signature(&self) {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        black_box(key.to_pkcs8v1().unwrap());
        self.sign();
    }
}

/// The mean time of `count` runs.
pub(crate) fn time_each(count: u32, mut work: impl FnMut()) -> Duration {
    let begin = Instant::now();
    for _ in 0..count {
        work();
    }
    begin.elapsed() / count
}

/// The time of `count` keys and signatures on all cores but one.
pub(crate) fn keys_and_signatures_on_all_cores_but_one(count: u32) -> Duration {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32 - 1).max(1);
    let signer = Signer::new();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| (0..count.div_ceil(cores)).for_each(|_| signer.key_and_signature()));
        }
    });
    begin.elapsed()
}
