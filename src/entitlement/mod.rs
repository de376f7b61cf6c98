//! What each live process holds now, and why. [`door`] is all that an endpoint may know of it.
//!
//! | file | owns |
//! |---|---|
//! | [`door`] | the traits of connections and subjects, updates, secrets and their gate |
//! | `face` | those traits over the node: admission, the check before bytes of a secret leave |
//! | `images` | the process images that are connected: one handle, one liveness check and one SVID per entry for each |
//! | `session` | one connection and one process that it asks about: issue, hand over, record |
//! | `stream` | the driver of one stream: the trip of an SVID in one function |
//! | [`machine`] | what a stream holds and what it does next, purely |
//! | [`steps`] | the words between the machine and its driver |
//! | `tokens` | single calls: JWT-SVIDs, validation |
//! | [`node_state`] | what all streams share: rulebook, bundles, attestor, issuer; the place where a change arrives |
//! | `liveness` | the check that a process still is what was decided for |
//! | [`published`] | bundles, encoded once |
//! | `refuse` | refusals: named, kept, and written down with what `/proc` shows of the process |
//! | [`examine`] | questions that hand nothing out |
//! | [`ledger`] | open streams, what is on its way out, refusals, latencies, and the words of the audit log |
//!
//! # Who wakes a stream
//!
//! | what happened | who wakes it | and then |
//! |---|---|---|
//! | rulebook (an entry, a rule, the id of a name) or bundles were swapped, the clock stepped | [`node_state::NodeState`]: swap, count, wake those whose last decision it concerns | it decides again |
//! | a source of evidence would answer otherwise | the [`Change`](crate::attestation::source::Change) that came with its last attestation | it decides again |
//! | a renewal or a retry is due, a first answer has waited long enough | its own timer | it decides again |
//! | the process, or the connection's own, has exited; the daemon stops | the pidfd, the stop | it ends |
//! | 8 to 10 s have passed | its own timer | one liveness check, shared by all streams of the connection |
//!
//! A stream runs only when its door asks for the next update, so that a slow reader costs one pending update.
//!
//! # Locks
//!
//! Rulebook and bundles are swapped without a lock. `Live`, `Images`, `Outbound`, `LivenessCheck`, `Refusals` and `Latencies` have a
//! mutex each, which is never held across an await, and never while another of them is taken.

pub mod door;
pub mod examine;
mod face;
mod images;
pub mod ledger;
mod liveness;
pub mod machine;
pub mod node_state;
pub mod published;
mod refuse;
mod session;
pub mod steps;
mod stream;
mod tokens;
