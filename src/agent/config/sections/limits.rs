//! `[limits]`: what one node and one caller may use of the workload socket.

use std::str::FromStr;
use std::time::Duration;

use crate::agent::config::reader::Reader;
use crate::fairness::limits::MEMORY;

/// What may be used at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitsSection {
    /// Connections of all callers together; `None`: 27 % of the descriptor limit, for each takes up to three descriptors.
    pub connections: Option<u32>,
    /// Connections of one caller; `None`: 1,024, or half of all where that is less.
    pub connections_per_caller: Option<u32>,
    /// Streams on one connection.
    pub streams_per_connection: u32,
    /// How long a connection may take to its first request.
    pub first_request: Duration,
    /// How long a connection may be without a request.
    pub idle: Duration,
    /// Bytes that all callers together may have the daemon hold.
    pub memory: usize,
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
    let memory = limits.parsed::<Memory>("memory");
    limits.finish();
    LimitsSection {
        connections,
        connections_per_caller,
        streams_per_connection,
        first_request: first_request.map_or(Duration::from_secs(5), |(length, _)| length),
        idle: idle.map_or(Duration::from_secs(120), |(length, _)| length),
        memory: memory.map_or(MEMORY, |(Memory(bytes), _)| bytes),
    }
}

/// An amount of memory as an operator writes it: `"256MiB"`, `"1GiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Memory(usize);

/// What is no amount of memory, or too small or large a one.
#[derive(Debug, thiserror::Error)]
#[error("write at least 16MiB and at most 1024GiB, for example \"256MiB\"")]
struct NotMemory;

impl FromStr for Memory {
    type Err = NotMemory;

    fn from_str(text: &str) -> Result<Self, NotMemory> {
        let units = [("MiB", 20), ("GiB", 30)];
        let read = units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)));
        let (number, shift) =
            read.filter(|(number, _)| number.bytes().all(|byte| byte.is_ascii_digit())).ok_or(NotMemory)?;
        let number: usize = number.parse().map_err(|_| NotMemory)?;
        let bytes = number.checked_mul(1 << shift).filter(|bytes| (16 << 20..=1 << 40).contains(bytes));
        bytes.map(Self).ok_or(NotMemory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_of_memory_has_a_unit_and_bounds() {
        for (text, bytes) in [
            ("256MiB", Some(256 << 20)),
            ("16MiB", Some(16 << 20)),
            ("1GiB", Some(1 << 30)),
            ("1024GiB", Some(1 << 40)),
        ] {
            assert_eq!(text.parse::<Memory>().ok().map(|Memory(bytes)| bytes), bytes, "{text}");
        }
        for text in [
            "",
            "256",
            "MiB",
            "256MB",
            "256 MiB",
            "-256MiB",
            "+256MiB",
            "15MiB",
            "1025GiB",
            "0.5GiB",
            "99999999999999999999GiB",
        ] {
            assert!(text.parse::<Memory>().is_err(), "{text}");
        }
    }
}
