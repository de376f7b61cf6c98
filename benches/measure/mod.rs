//! Code that both benchmarks share: the output of a figure, and the machine's own limits.

pub(crate) mod raw;
pub(crate) mod report;
