//! Who asks: from an accepted socket to [`Attested`], the proof that one process was alive and the same before and after
//! its facts were read. Refuses to know what a fact entitles to.
//!
//! [`kernel`] is the seam to the machine and [`linux`] the machine itself; [`host`] holds the pure parsers and rules for
//! processes of the host; [`source`] is the seam to whatever else proves facts, of which the path and the hash are the
//! first; [`attest`] puts them together.

pub mod attest;
pub mod attested;
mod hashing;
pub mod host;
pub mod kernel;
pub mod linux;
mod lookups;
mod path;
mod pinned;
pub mod source;

pub use attest::Attestation;
pub use attest::Attestor;
pub use attested::Attested;
pub use attested::Contradiction;
pub use attested::ImageEpoch;
pub use attested::NotAttested;
pub use pinned::PinId;
pub use pinned::PinnedProcess;
