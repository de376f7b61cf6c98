//! The operator's door: HTTP/1.1 and JSON on a Unix socket for root, the daemon's own user and one group, on the host or in
//! the daemon's own container. A codec: what a question means is known behind [`Operations`](operations::Operations).

pub mod doorkeeper;
pub mod operations;
pub mod operators;
pub mod reports;
pub mod server;
