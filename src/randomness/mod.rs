//! Random bytes for serials, token ids, decision ids and jitter. A trait, so that a test can replay a whole agent from
//! a seed. Key generation does not use it: keys come from the crypto library's generator, which no test can seed.

use aws_lc_rs::rand::SecureRandom;

/// A source of random bytes.
pub trait Randomness: Send + Sync + std::fmt::Debug {
    /// Fills `bytes`.
    ///
    /// # Errors
    /// [`NoRandomness`] when the kernel returns none; then nothing may be issued.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoRandomness>;
}

/// The kernel returned no random bytes.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the kernel gave no random bytes")]
pub struct NoRandomness;

/// Cryptographically secure random bytes, from the crypto library's generator, which the kernel seeds.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandomness;

impl Randomness for SystemRandomness {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoRandomness> {
        aws_lc_rs::rand::SystemRandom::new().fill(bytes).map_err(|_| NoRandomness)
    }
}

/// A uniformly distributed number in `0.0 ..= 1.0`, for jitter.
///
/// # Errors
/// [`NoRandomness`], as [`Randomness::fill`].
pub fn fraction(source: &dyn Randomness) -> Result<f64, NoRandomness> {
    let mut bytes = [0; 4];
    source.fill(&mut bytes)?;
    Ok(fraction_of(bytes))
}

/// The number in `0.0 ..= 1.0` that random bytes stand for.
#[must_use]
pub fn fraction_of(bytes: [u8; 4]) -> f64 {
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}
