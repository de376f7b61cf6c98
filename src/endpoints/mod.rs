//! The doors. Each decodes requests and encodes answers; none of them decides. `transport` accepts connections and checks
//! them; the other files are codecs, and `workload_socket` puts together what the workload socket serves.

pub mod admin;
pub mod authority_metrics;
mod grpc;
pub mod health;
pub mod http;
pub mod metrics;
pub mod refusals;
mod sds;
pub mod transport;
pub mod workload_api;
pub mod workload_socket;
