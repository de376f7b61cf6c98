//! Everything between the kernel's sockets and a request: who may connect, how much of what, who writes, and whether
//! secrets may still leave. Knows HTTP/2 and callers; knows no service and no message.

pub mod accept;
pub mod acceptor;
pub mod authority_filter;
pub mod budgets;
mod connection;
pub mod frame_budget;
pub mod frames;
pub mod listener;
pub mod wire;

use std::sync::Arc;

use crate::entitlement::door::SecretGate;

/// The gate of the connection that a request came by. The transport puts it into the request's extensions: it leads to
/// the subject, and opens secrets.
#[derive(Debug, Clone)]
pub struct RequestGate(pub Arc<SecretGate>);
