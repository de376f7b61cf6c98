//! **bonafide** gives every process on a Linux node its own short-lived SPIFFE identity, proven by the kernel and not by
//! a secret.
//!
//! The house has floors. A module names only floors below its own, and siblings on one floor do not know each other;
//! `tests/floors.rs` fails when anything reaches up. A connection goes up and down it like this: a door
//! (`endpoints`) accepts a socket and hands the process behind it to `entitlement`, which has it attested
//! (`attestation`), decided (`policy`, by the entries of `registration`), issued for (`issuance`, signed by an
//! `authority`), and gives the door updates to encode, until the process ends or stops being what it was.
//! `agent` builds all of it from one configuration; `cli` is what a person types.

// 11
pub mod cli;
// 10
pub mod agent;
// 9
pub mod endpoints;
// 7
pub mod entitlement;
// 6
pub mod issuance;
// 5
pub mod policy;
// 4
pub mod attestation;
pub mod authority;
pub mod federation;
// 3
pub mod audit;
pub mod registration;
// 2
pub mod durable;
pub mod evidence;
pub mod readiness;
// 1
pub mod identity;
// 0
pub mod randomness;
pub mod sys;
pub mod time;
