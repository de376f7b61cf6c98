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
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    X509(x509::Arguments),
    Jwt(jwt::Arguments),
    Bundle(bundle::Arguments),
}

pub(in crate::cli) fn run(arguments: &Arguments, screen: &mut Screen) -> Result<Exit, Failure> {
    match &arguments.what {
        What::X509(arguments) => x509::run(arguments, screen),
        What::Jwt(arguments) => jwt::run(arguments, screen),
        What::Bundle(arguments) => bundle::run(arguments, screen),
    }
}
