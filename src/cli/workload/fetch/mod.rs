//! `bonafide fetch`: what this process itself gets from the workload socket.

mod answer;
pub mod bundle;
mod files;
pub mod jwt;
pub mod x509;

use clap::Subcommand;

use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::screen::Screen;

/// Get an identity as an ordinary client of the workload socket
#[derive(Debug, clap::Args)]
pub struct FetchArguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    X509(x509::X509Arguments),
    Jwt(jwt::JwtArguments),
    Bundle(bundle::BundleArguments),
}

pub(in crate::cli) fn run(arguments: &FetchArguments, screen: &mut Screen) -> Result<Exit, Failure> {
    match &arguments.command {
        Command::X509(arguments) => x509::run(arguments, screen),
        Command::Jwt(arguments) => jwt::run(arguments, screen),
        Command::Bundle(arguments) => bundle::run(arguments, screen),
    }
}
