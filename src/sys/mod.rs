//! System calls that no crate wraps: the only room where `unsafe` is allowed, each block with its argument.
