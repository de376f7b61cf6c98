//! Checks that run as long as the daemon does: of the clock, the authority, its keys and its directory, the memory, the
//! names of users and groups, and readiness.

pub mod authority;
pub mod clock;
pub(in crate::agent) mod data_dir;
pub(in crate::agent) mod memory;
pub(in crate::agent) mod names;
pub(in crate::agent) mod readiness;
pub mod upkeep;
