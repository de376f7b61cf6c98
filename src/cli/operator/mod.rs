//! The operator's commands: each is one request over the admin socket, or a few.

pub mod authority;
pub(in crate::cli) mod client;
pub mod explain;
pub mod reload;
pub mod status;
