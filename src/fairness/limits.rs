//! The limits of a door, and the defaults that follow from how many descriptors may be open.

use std::time::Duration;

use crate::fairness::bytes::ByteLimits;
use crate::fairness::rate::Rate;

/// What a connection with its first stream is charged, and what a further stream is (SPEC: product contract §7).
pub const CONNECTION_BYTES: usize = 32 * 1024;
/// See [`CONNECTION_BYTES`].
pub const STREAM_BYTES: usize = 8 * 1024;

/// The budget of bytes where none is configured.
pub const MEMORY: usize = 256 * 1024 * 1024;

/// Connects that one principal may make in a second, and at once.
const CONNECTS: usize = 1_000;

/// The limits of one door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all. Each takes up to two descriptors, the socket and a handle of the process that all connections of
    /// the process share, and one more while it is attested.
    pub connections: usize,
    /// Connections of one principal.
    pub connections_per_caller: usize,
    /// Streams on one connection.
    pub streams_per_connection: u32,
    /// From the accept to the first request.
    pub first_request: Duration,
    /// How long a connection without a stream stays.
    pub idle: Duration,
    /// How long streams may take to end when the daemon stops.
    pub drain: Duration,
    /// Bytes that all principals together may have the daemon hold.
    pub memory: usize,
}

/// Descriptors that connections never take: the daemon's own, and some to attest with.
const KEPT_BACK: u64 = 40;

impl Limits {
    /// The defaults under a soft limit of `descriptors`: 27 % of it as connections, and for one principal 1,024, or half
    /// of all where that is less: no principal can take all connections.
    #[must_use]
    pub fn for_descriptors(descriptors: u64) -> Self {
        let share = usize::try_from(descriptors.saturating_mul(27) / 100).unwrap_or(usize::MAX);
        Self::for_connections(share.clamp(2, Self::most_connections(descriptors)))
    }

    /// The most connections that leave the daemon the descriptors it needs itself, and those of processes that were
    /// connected until a moment ago: without a free one it could not attest again who is connected.
    #[must_use]
    pub fn most_connections(descriptors: u64) -> usize {
        usize::try_from((descriptors - descriptors / 20).saturating_sub(KEPT_BACK) / 3).unwrap_or(usize::MAX).max(2)
    }

    /// The defaults of a door with so many connections in all.
    #[must_use]
    pub fn for_connections(connections: usize) -> Self {
        Self {
            connections,
            connections_per_caller: (connections / 2).clamp(1, 1024),
            streams_per_connection: 100,
            first_request: Duration::from_secs(5),
            idle: Duration::from_secs(120),
            drain: Duration::from_secs(3),
            memory: MEMORY,
        }
    }

    /// Streams of one principal over all its connections.
    pub(super) fn streams_per_caller(&self) -> usize {
        self.connections_per_caller.saturating_mul(16)
    }

    /// A principal that may have more connections than an eighth of the bytes is enough for may have their bytes, too.
    pub(super) fn bytes(&self) -> ByteLimits {
        let eighth = ByteLimits::of(self.memory);
        ByteLimits { each: eighth.each.max(self.connections_per_caller.saturating_mul(CONNECTION_BYTES)), ..eighth }
    }

    /// How fast one principal may connect: in a second as often as it may be connected, and a thousand times at least.
    pub(super) fn connects(&self) -> Rate {
        let a_second = u32::try_from(self.connections_per_caller.max(CONNECTS)).unwrap_or(u32::MAX);
        Rate { burst: a_second, refill: Duration::from_secs(1) / a_second }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_caller_can_take_the_whole_door_by_default() {
        for descriptors in [0, 64, 1024, 30_000, u64::MAX] {
            let limits = Limits::for_descriptors(descriptors);
            assert!(limits.connections_per_caller < limits.connections, "{descriptors}: {limits:?}");
        }
        assert_eq!(Limits::for_connections(100).connections_per_caller, 50);
        assert_eq!(Limits::for_descriptors(30_000).connections, 8100);
        assert_eq!(Limits::for_descriptors(64).connections, 7);
        assert_eq!(Limits::for_descriptors(30_000).connections_per_caller, 1024);
    }

    #[test]
    fn a_caller_has_the_bytes_of_the_connections_that_it_may_have() {
        let limits = Limits::for_descriptors(30_000);
        assert_eq!(limits.bytes().each, MEMORY / 8);
        assert_eq!(limits.bytes().each, 1024 * CONNECTION_BYTES);
        let more = Limits { connections_per_caller: 8000, ..limits };
        assert_eq!(more.bytes().each, 8000 * CONNECTION_BYTES);
        assert_eq!(more.connects().burst, 8000);
    }
}
