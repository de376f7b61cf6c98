//! System and C library calls that no crate wraps: the only module that may use `unsafe`, each block with a SAFETY
//! comment.

#![allow(unsafe_code, reason = "the only module that may use it")]

pub mod allocator;
pub mod passed_descriptors;
pub mod peer_groups;
pub mod pidfd;
pub mod readable;
pub mod user_namespace;
