//! The doors. Each turns bytes into questions and answers into bytes; none of them decides.

pub mod admin;
mod grpc_health;
pub mod health;
pub mod http;
pub mod metrics;
pub mod refusals;
mod sds;
pub mod transport;
pub mod workload_api;
pub mod workload_socket;
