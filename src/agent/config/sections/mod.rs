//! The sections of a configuration, one file each: what it means, its defaults and its bounds.

pub mod attest;
pub mod authority;
pub mod doors;
pub mod federation;
pub mod limits;
pub mod log;
pub mod svid;
