//! The `bonafide` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    bonafide::cli::main(std::env::args_os())
}
