//! One live caller: what it holds now, and why. [`door`] is all that an endpoint may know of it.

pub mod door;
