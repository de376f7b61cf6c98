//! What principals share, each its part: places in a pool, bytes, and rates by any key. Does not know what they are used
//! for.

pub mod bytes;
pub mod fair_pool;
pub mod rate;

pub use bytes::ByteBudget;
pub use bytes::ByteLimits;
pub use bytes::HeldBytes;
pub use bytes::OutOfBytes;
pub use fair_pool::FairPool;
pub use fair_pool::Ticket;
pub use rate::Rate;
pub use rate::TokenBuckets;
