//! What the processes of the demo tell each other: one event a line, as JSON.

use std::net::SocketAddr;

use serde::Deserialize;
use serde::Serialize;
use tokio::time::Instant;

/// A part in the story.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Role {
    /// Answers the client.
    Server,
    /// Asks the server.
    Client,
    /// The same program as the client, under a name or a user that no entry knows.
    Impostor,
}

impl Role {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Server, Self::Client, Self::Impostor];

    /// Its name, and that of its program.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
            Self::Impostor => "impostor",
        }
    }
}

/// What a service says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DemoEvent {
    /// It holds this SVID now. From asking to having it took `micros`, for the first one.
    Identity { id: String, serial: String, micros: u64 },
    /// It accepts connections.
    Listening { address: SocketAddr },
    /// A handshake succeeded, in which the other side showed this.
    Handshake { peer: PeerSvid, micros: u64 },
    /// So many requests were answered on the one connection that stays open.
    Answered { requests: u64 },
    /// The daemon gave it no identity.
    Refused { code: String, message: String },
    /// It gave up.
    Failed { why: String },
    /// Its process has ended, which the demo reports in its place.
    Exited { why: String },
}

/// The SVID that the peer of a handshake presented.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PeerSvid {
    /// Its SPIFFE ID.
    pub(super) id: String,
    /// The serial number of its SVID, in hexadecimal.
    pub(super) serial: String,
}

/// An error of a service: it is only ever printed.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Microseconds since `begun`.
pub(super) fn micros_since(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX)
}
