//! Checks that run as long as the daemon does: of the clock, the authority and its keys, the memory, the names of users
//! and groups, and readiness.

pub mod authority;
pub mod clock;
pub(in crate::agent) mod memory;
pub(in crate::agent) mod names;
pub(in crate::agent) mod readiness;
pub mod upkeep;
