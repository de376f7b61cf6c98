//! Permits become SVIDs: a new key for each, signed for on the permit's terms, and the times at which they are renewed.
//! Refuses to know why somebody is permitted, and to issue on a permit of entries that are no more.

pub mod issuer;
pub mod metrics;
pub mod renewal;

pub use issuer::IssueError;
pub use issuer::Issuer;
