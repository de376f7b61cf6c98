//! What the two programs share: how a figure is told, and what the machine itself can do.

pub(crate) mod raw;
pub(crate) mod report;
