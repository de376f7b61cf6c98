//! Attestation: from an accepted socket to [`Attested`], the proof that one process was alive before and after its
//! facts were read. Does not know which identity a fact gives.
//!
//! [`kernel`] has the traits for the kernel, and [`linux`] implements them. [`host`] has the pure parsers and rules for
//! processes of the host. [`source`] has the trait for other sources of evidence; the path and the hash in `executable`
//! implement it. [`attest`] combines them.

pub mod attest;
pub mod attested;
mod executable;
pub mod host;
pub mod kernel;
pub mod linux;
mod pinned;
pub mod source;

pub use attest::Attestation;
pub use attest::Attestor;
pub use attested::Attested;
pub use attested::Contradiction;
pub use attested::Epoch;
pub use attested::Image;
pub use attested::NotAttested;
pub use pinned::PinId;
pub use pinned::PinnedProcess;
