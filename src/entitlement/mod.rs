//! One live caller: what it holds now, and why. [`door`] is all that an endpoint may know of it.
//!
//! [`machine`] decides what has to happen next, purely; `stream` does it, one driver per open stream, and only when the
//! door asks. [`ledger`] is what is written down. [`node_state`] is what all callers share, and the place where a reload or a new bundle arrives.

pub mod door;
pub mod examine;
mod face;
pub mod ledger;
mod liveness;
pub mod machine;
pub mod node_state;
pub mod published;
mod session;
mod stream;
mod tokens;
