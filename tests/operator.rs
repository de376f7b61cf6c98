//! The interface for operators: commands and their exit codes, reload, the reference configuration, the unit.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "operator/admin_door.rs"]
mod admin_door;
#[path = "operator/alert_rules.rs"]
mod alert_rules;
#[path = "operator/authority.rs"]
mod authority;
#[path = "operator/clock.rs"]
mod clock;
#[path = "operator/commands.rs"]
mod commands;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "operator/reload.rs"]
mod reload;
#[path = "operator/running.rs"]
mod running;
#[path = "operator/service_manager.rs"]
mod service_manager;
#[path = "operator/shipped_files.rs"]
mod shipped_files;
