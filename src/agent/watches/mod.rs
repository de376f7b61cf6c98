//! What is looked at every second for as long as the daemon runs: the clock, whether the authority can sign, the memory.

pub mod authority;
pub mod clock;
pub(in crate::agent) mod memory;
