//! The whole daemon, built from one configuration: [`start`] puts a [`node`] on this machine, [`reload`] swaps what it
//! decides by, [`admin_service`] answers its operator, and [`lifecycle`] stops everything with one deadline.

pub mod admin_service;
pub mod config;
mod daemon;
pub mod last_good;
pub mod lifecycle;
pub mod node;
pub mod reload;
pub mod start;
pub mod watches;

pub use start::RunOptions;
pub use start::run;
