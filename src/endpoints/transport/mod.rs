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

use crate::endpoints::transport::wire::Secrets;
use crate::entitlement::door::Caller;

/// Who is on the other side of a request; the transport puts it into the request's extensions.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The caller.
    pub caller: Arc<dyn Caller>,
    /// To be told before a message with a secret is handed over.
    pub secrets: Secrets,
}
