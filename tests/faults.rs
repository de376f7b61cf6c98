//! Faults of the node and of its input: damaged bytes, crashes, full disks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "fuzz/targets.rs"]
mod fuzz_targets;
#[path = "support/kernel/mod.rs"]
mod kernel;
#[path = "support/small_disk.rs"]
mod small_disk;

#[path = "faults/backup.rs"]
mod backup;
#[path = "faults/bad_input.rs"]
mod bad_input;
#[path = "faults/configuration.rs"]
mod configuration;
#[path = "faults/corpus.rs"]
mod corpus;
#[path = "faults/data_dir.rs"]
mod data_dir;
#[path = "faults/processes.rs"]
mod processes;
