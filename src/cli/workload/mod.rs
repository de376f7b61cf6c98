//! Commands that are ordinary clients of the workload socket: they get what any other process in their place would.

pub(in crate::cli) mod client;
pub mod fetch;
pub mod healthcheck;
pub mod validate;
