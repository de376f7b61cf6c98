//! What is looked at for as long as the daemon runs: the clock, whether the authority can sign, the memory, and the
//! readiness that comes of it all.

pub mod authority;
pub mod clock;
pub(in crate::agent) mod memory;
pub(in crate::agent) mod readiness;
