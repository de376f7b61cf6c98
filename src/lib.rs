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
pub mod cli; // every command, its arguments, its screen and its exit code
// 10
pub mod agent; // builds everything from one configuration, swaps it at a reload, and stops it with one deadline
// 9
pub mod endpoints; // sockets, gRPC and HTTP: codecs that decide nothing
// 7
pub mod entitlement; // one live caller: what it holds now and why, until it ends
// 6
pub mod issuance; // permits become SVIDs, and when they are renewed
// 5
pub mod policy; // decides: evidence and entries become permits or a denial, with the trace
// 4
pub mod attestation; // who asks: one process, proven the same before and after its facts were read
pub mod authority; // who signs, and the bundle that verifies it
pub mod federation; // whom else this node believes
// 3
pub mod audit; // what was issued, denied, undecided and ended: one line each
pub mod registration; // entries, and which of them some evidence satisfies
// 2b
pub mod fairness; // whose turn it is: a pool of places that principals share
// 2
pub mod durable; // files that survive a power cut
pub mod evidence; // facts about a process with source and grade, and their text form
pub mod file_watch; // which files have changed, once their writers have closed them
pub mod readiness; // named reasons for "not yet" and "degraded"
// 1
pub mod identity; // SPIFFE IDs, SVIDs, bundles and how each is verified
// 0
pub mod randomness; // random bytes, real or from a seed
pub mod sys; // system calls that no crate wraps: the only unsafe code
pub mod time; // the wall clock, and durations as text
