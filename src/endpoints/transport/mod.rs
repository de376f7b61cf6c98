//! Everything between the kernel's sockets and a request: who may connect, how much of what, who writes, and whether a
//! secret may still leave. Knows no service and no message.
//!
//! What a door puts between its socket and its protocol, from the inside out:
//!
//! ```text
//! AttributedStream    bytes, and who wrote them            acceptor, passcred
//! CheckedStream       cut when another process writes      writer_check
//! GatedStream         cut when a secret may not leave,     gate
//!                     and when the protocol may not pass   http2/
//! ```

pub mod accept;
pub mod acceptor;
pub mod gate;
pub mod http2;
pub mod listener;
mod passcred;
pub mod unix;
pub mod writer_check;

use std::error::Error;
use std::io;

use crate::entitlement::door::Ended;

/// Why a connection is cut. The client sees its end and no reason.
#[derive(Debug, thiserror::Error)]
pub enum Abort {
    /// Another process wrote to it.
    #[error("another process wrote to the connection")]
    ForeignWriter,
    /// A process is no longer the one that its secrets were issued for, or is no longer permitted.
    #[error("a secret may not leave any more")]
    Secret(Ended),
    /// The client sent what the protocol of the door does not let pass.
    #[error(transparent)]
    Protocol(Box<dyn Error + Send + Sync>),
}

impl From<Abort> for io::Error {
    fn from(abort: Abort) -> Self {
        Self::new(io::ErrorKind::ConnectionAborted, abort)
    }
}
