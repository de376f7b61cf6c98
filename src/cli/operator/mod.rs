//! Commands for whoever runs the daemon: each one question over the admin socket.

pub(in crate::cli) mod client;
pub mod explain;
pub mod reload;
pub mod status;
