//! Unmodified third-party clients against the shipped daemon: crates, PyPI packages, a Go module, a Java library, OpenSSL, a linter.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "clients/certificates.rs"]
mod certificates;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "clients/demo.rs"]
mod demo;
#[path = "clients/go.rs"]
mod go;
#[path = "clients/java.rs"]
mod java;
#[path = "clients/postgresql.rs"]
mod postgresql;
#[path = "clients/python.rs"]
mod python;
#[path = "clients/rotations.rs"]
mod rotations;
#[path = "clients/rust.rs"]
mod rust;
#[path = "clients/tools.rs"]
mod tools;
