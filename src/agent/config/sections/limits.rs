//! `[limits]`: what one node and one caller may use of the workload socket.

use std::time::Duration;

use crate::agent::config::reader::Reader;

/// What may be used at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitsSection {
    /// Connections of all callers together; `None`: 40 % of the descriptor limit, for each takes two descriptors.
    pub connections: Option<u32>,
    /// Connections of one caller; `None`: 1,024, or half of all where that is less.
    pub connections_per_caller: Option<u32>,
    /// Streams on one connection.
    pub streams_per_connection: u32,
    /// How long a connection may take to its first request.
    pub first_request: Duration,
    /// How long a connection may be without a request.
    pub idle: Duration,
}

const SHORTEST: Duration = Duration::from_secs(1);

pub(in crate::agent::config) fn read(top: &mut Reader<'_, '_>) -> LimitsSection {
    let mut limits = top.table("limits", "[limits]");
    let mut count = |key, most| limits.integer(key, 1..=most).and_then(|count| u32::try_from(count).ok());
    let connections = count("connections", 1_000_000);
    let connections_per_caller = count("connections_per_caller", 1_000_000);
    let streams_per_connection = count("streams_per_connection", 100_000).unwrap_or(100);
    let first_request = limits.duration("first_request", SHORTEST..=Duration::from_secs(3600));
    let idle = limits.duration("idle", SHORTEST..=Duration::from_secs(86_400));
    limits.finish();
    LimitsSection {
        connections,
        connections_per_caller,
        streams_per_connection,
        first_request: first_request.map_or(Duration::from_secs(5), |(length, _)| length),
        idle: idle.map_or(Duration::from_secs(120), |(length, _)| length),
    }
}
