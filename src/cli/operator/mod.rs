//! The operator's commands: each is one request over the admin socket.

pub(in crate::cli) mod client;
pub mod explain;
pub mod reload;
pub mod status;
