//! The whole daemon, built from one configuration: [`start`] puts a [`node`] on this machine, [`reload`] swaps what it
//! decides by, [`operations`] answers its operator, and [`lifecycle`] stops everything with one deadline.

pub mod config;
mod daemon;
pub mod last_good;
pub mod lifecycle;
pub mod node;
pub mod operations;
pub mod reload;
pub mod start;
pub mod watches;

pub use start::RunOptions;
pub use start::run;
