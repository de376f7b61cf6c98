//! Random bytes for serials, token ids, denial ids and jitter. A trait, so that a whole agent can be replayed from a
//! seed. Key generation does not pass here: it draws from the crypto library alone, which no test can seed.

use aws_lc_rs::rand::SecureRandom;

/// A source of random bytes.
pub trait Randomness: Send + Sync + std::fmt::Debug {
    /// Fills `bytes`.
    ///
    /// # Errors
    /// [`NoRandomness`] when the kernel cannot give any; nothing may be issued then.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoRandomness>;
}

/// The operating system could not give random bytes.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the kernel gave no random bytes")]
pub struct NoRandomness;

/// Random bytes fit for keys, from the crypto library's generator, which the kernel seeds.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandomness;

impl Randomness for SystemRandomness {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoRandomness> {
        aws_lc_rs::rand::SystemRandom::new().fill(bytes).map_err(|_| NoRandomness)
    }
}

/// A number in `0.0 ..= 1.0`, evenly spread: what jitter is drawn with.
///
/// # Errors
/// [`NoRandomness`], as [`Randomness::fill`].
pub fn fraction(source: &dyn Randomness) -> Result<f64, NoRandomness> {
    let mut bytes = [0; 4];
    source.fill(&mut bytes)?;
    Ok(f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
}
