//! Whose turn it is: a pool of places that principals share fairly. Refuses to know what a place is used for.

pub mod fair_pool;

pub use fair_pool::FairPool;
pub use fair_pool::Ticket;
