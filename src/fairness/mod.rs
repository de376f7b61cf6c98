//! Fair queueing: a pool of places that principals share. Does not know what a place is used for.

pub mod fair_pool;

pub use fair_pool::FairPool;
pub use fair_pool::Ticket;
