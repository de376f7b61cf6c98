//! The doors. Each turns bytes into questions and answers into bytes; none of them decides.

pub mod admin;
pub mod health;
pub mod http;
pub mod metrics;
pub mod refusals;
pub mod transport;
pub mod workload_api;
