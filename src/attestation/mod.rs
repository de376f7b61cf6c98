//! Who asks: from an accepted socket to [`Attested`], the proof that one process was alive and the same before and after
//! its facts were read. Refuses to know what a fact entitles to.
//!
//! [`kernel`] is the seam to the machine and [`linux`] the machine itself; [`host`] holds the pure parsers and rules for
//! processes of the host; [`attest`] puts them together.

pub mod attest;
pub mod attested;
pub mod hashing;
pub mod host;
pub mod kernel;
pub mod linux;

pub use attest::Attestor;
pub use attest::PinnedProcess;
pub use attested::Attested;
pub use attested::Contradiction;
pub use attested::ImageEpoch;
pub use attested::NotAttested;
