//! Unmodified third-party clients against the shipped daemon: crates, PyPI packages, a Go module, a Java library, OpenSSL, a linter.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "clients/certificates.rs"]
mod certificates;
#[path = "clients/over_time/changes.rs"]
mod changes;
#[path = "clients/over_time/conversation.rs"]
mod conversation;
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
#[path = "clients/over_time/rotations.rs"]
mod rotations;
#[path = "clients/rust.rs"]
mod rust;
#[path = "clients/tools.rs"]
mod tools;
