//! `bonafide demo`.

use std::process::ExitCode;

use crate::cli::screen::Exit;

/// Watch a throw-away node give two services an identity
#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub(in crate::cli) fn run(_arguments: Arguments) -> ExitCode {
    Exit::No.into()
}
