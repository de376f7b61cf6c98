//! gRPC services over HTTP/2 at a door: the limits of the engine, the clocks that close a connection, and what is cut
//! before the engine sees it. Knows that requests exist, not what they ask.
//!
//! Who polls whom on one connection, all of it in the one task that the accept loop added to the turns:
//!
//! ```text
//! connection::serve
//! ├─ Connection::closed, stop, idle_timeout          end it
//! └─ RunningStreams::poll_with
//!    ├─ hyper's HTTP/2 engine
//!    │  ├─ TurnBuffer                                gathers what it writes in one turn
//!    │  │   └─ GatedStream, Http2Framing             the bytes, in and out; Unsent counts what leaves
//!    │  └─ GrpcRequests                              called for each stream that opens
//!    │       └─ StreamExecutor                       takes the stream's future instead of spawning it
//!    ├─ the futures of the open streams              read a RequestBody, answer in Pieces; each wakes the task
//!    └─ TurnBuffer::poll_leave                       the turn's output, in one write
//! ```
//!
//! A task for each stream would cost memory for hours and outlive its connection. Here a stream ends with its
//! connection, and a panic in one ends the connection and no other.

mod activity;
pub mod authority_filter;
mod body;
mod connection;
mod executor;
mod frame_budget;
pub mod frames;
mod framing;
mod requests;
mod turn;
mod unsent;

use std::sync::Arc;

use crate::attestation::kernel::Process;
use crate::endpoints::transport::accept::AdmittedConnection;
use crate::endpoints::transport::accept::Protocol;
pub use crate::endpoints::transport::http2::body::RequestBody;
pub use crate::endpoints::transport::http2::requests::GrpcServices;
pub use crate::endpoints::transport::http2::requests::RequestGate;
use crate::entitlement::door::Connection;
use crate::entitlement::door::Connections;
use crate::entitlement::door::Ended;

/// gRPC services, and who is admitted to them.
#[derive(Debug, Clone)]
pub struct Http2 {
    /// Admits accepted processes.
    pub connections: Arc<dyn Connections>,
    /// The services behind the door.
    pub services: Arc<dyn GrpcServices>,
}

impl Protocol for Http2 {
    type Connection = dyn Connection;

    fn admit(&self, process: Arc<dyn Process>) -> Result<Arc<dyn Connection>, Ended> {
        self.connections.admit(process)
    }

    async fn converse(self, admitted: AdmittedConnection<dyn Connection>) {
        connection::serve(admitted, self.services).await;
    }
}
