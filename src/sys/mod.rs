//! System calls that no crate wraps: the only room where `unsafe` is allowed, each block with its argument.

#![allow(unsafe_code, reason = "the one room for it")]

pub mod allocator;
pub mod passed_descriptors;
pub mod peer_groups;
pub mod pidfd;
pub mod readable;
