//! The whole daemon, built from one configuration: starts what is below in order, and stops it with one deadline.

pub mod config;

use std::path::PathBuf;
use std::process::ExitCode;

/// How the daemon is to run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The configuration file.
    pub config: PathBuf,
    /// Refuse to start from the last accepted configuration when the files are bad.
    pub strict: bool,
}

/// Runs the daemon until it is told to stop.
#[must_use]
pub fn run(_options: RunOptions) -> ExitCode {
    ExitCode::FAILURE
}
