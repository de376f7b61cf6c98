//! `bonafide run`: the daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::agent;
use crate::agent::RunOptions;

/// Run the daemon
#[derive(Debug, clap::Args)]
pub struct RunArguments {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/bonafide/bonafide.toml")]
    config: PathBuf,
    /// Refuse to start from the last accepted configuration when the files are bad
    #[arg(long)]
    strict: bool,
}

pub(in crate::cli) fn run(arguments: RunArguments) -> ExitCode {
    // Whoever reads a message elsewhere has another working directory.
    let config = std::path::absolute(&arguments.config).unwrap_or(arguments.config);
    agent::run(RunOptions { config, strict: arguments.strict })
}
