//! `bonafide authority`: the keys that sign, and their rotation.

mod keys;
mod rotate;
mod show;
mod taint;

use clap::Subcommand;

use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::screen::Screen;

const EXAMPLES: &str = "\
Examples:
  bonafide authority show
  bonafide authority rotate --kind jwt
Exit codes: 0 done; 1 not done; 2 wrong usage; 3 no daemon; 4 denied";

/// Show and rotate the keys that sign SVIDs
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct AuthorityArguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Show(show::ShowArguments),
    Rotate(rotate::RotateArguments),
}

pub(in crate::cli) fn run(arguments: &AuthorityArguments, screen: &mut Screen) -> Result<Exit, Failure> {
    match &arguments.command {
        Command::Show(arguments) => show::run(arguments, screen),
        Command::Rotate(arguments) => rotate::run(arguments, screen),
    }
}
