//! The messages and the service of `proto/workload_api.proto`, generated.

#![allow(missing_docs, unreachable_pub, reason = "generated code")]
#![allow(clippy::all, clippy::allow_attributes_without_reason, clippy::too_many_lines, reason = "generated code")]

include!(concat!(env!("OUT_DIR"), "/_.rs"));

/// The definitions in their compiled form, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/workload_api.descriptors"));
