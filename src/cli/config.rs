//! `bonafide config`.

use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::screen::Screen;

/// Check the configuration
#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub(in crate::cli) fn run(_arguments: &Arguments, _screen: &mut Screen) -> Result<Exit, Failure> {
    Err(Failure::new(Exit::Usage, "nothing was checked", "this command has no reader yet", "bonafide --help"))
}
