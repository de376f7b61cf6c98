//! The whole daemon, built from one configuration: [`start`] puts a [`node`] on this machine, [`reload`] swaps what it
//! decides by, and [`lifecycle`] stops everything with one deadline.

mod admin_service;
pub mod config;
mod daemon;
mod extra_doors;
pub mod last_good;
pub mod lifecycle;
mod live_settings;
mod names_by_id;
pub mod node;
mod prepared;
pub mod reload;
mod rulebook_owner;
pub mod start;
pub mod watches;

pub use start::RunOptions;
pub use start::run;
