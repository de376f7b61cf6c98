//! What is written down about callers: who holds what now, who was refused and why, and the words of the audit log.

pub mod decisions;
pub(in crate::entitlement) mod handed_over;
pub mod latencies;
pub mod live;
pub mod records;
