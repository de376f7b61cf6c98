//! Checks that run as long as the daemon does: of the clock, the authority, the memory and readiness.

pub mod authority;
pub mod clock;
pub(in crate::agent) mod memory;
pub(in crate::agent) mod readiness;
