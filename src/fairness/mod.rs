//! What principals share, each its part: processor time, connections, streams and bytes held, the rate of connects, places
//! in a pool. Does not know what any of it is used for.

pub mod budgets;
pub mod bytes;
pub mod connects;
pub mod fair_pool;
mod fair_queue;
pub mod limits;
pub mod rate;
pub mod turns;

pub use budgets::Budgets;
pub use budgets::OverBudget;
pub use bytes::ByteBudget;
pub use bytes::ByteLimits;
pub use bytes::HeldBytes;
pub use bytes::OutOfBytes;
pub use fair_pool::FairPool;
pub use fair_pool::Ticket;
pub use limits::Limits;
pub use rate::Rate;
pub use rate::TokenBuckets;
pub use turns::TaskHandle;
pub use turns::Turns;
