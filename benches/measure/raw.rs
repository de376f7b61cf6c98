//! The machine's own limits in cryptography: the minimum cost of a credential with the same library.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING;
use aws_lc_rs::signature::EcdsaKeyPair;
use std::hint::black_box;
use std::time::Duration;
use tokio::time::Instant;

/// The size of the signed part of an ordinary X509-SVID.
const MESSAGE: [u8; 420] = [7; 420];

/// A key that only signs.
pub(crate) struct Signer {
    key: EcdsaKeyPair,
    randomness: SystemRandom,
}

impl Signer {
    pub(crate) fn new() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        Self { key, randomness: SystemRandom::new() }
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

/// The time of `count` keys and signatures on all cores.
pub(crate) fn keys_and_signatures_on_all_cores(count: u32) -> Duration {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    let signer = Signer::new();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| (0..count.div_ceil(cores)).for_each(|_| signer.key_and_signature()));
        }
    });
    begin.elapsed()
}
