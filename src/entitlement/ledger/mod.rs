//! What is written down about callers: who holds what now, who was refused and why, and the words of the audit log.

pub mod latencies;
pub mod live;
pub(in crate::entitlement) mod outbound;
pub mod records;
pub mod refusals;
