//! Facts about the file that a process runs: its path and its digest, and how long they stay proven.

pub(in crate::attestation) mod hashing;
mod lookups;
pub(in crate::attestation) mod path;
pub(in crate::attestation) mod proven;
