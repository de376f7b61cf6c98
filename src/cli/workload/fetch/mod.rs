//! `bonafide fetch`: what this process itself gets from the workload socket.

pub mod bundle;
mod files;
pub mod jwt;
pub mod x509;

use std::time::Duration;

use clap::Subcommand;

use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::screen::Screen;
use crate::cli::words::from_now;
use crate::cli::words::now;
use crate::cli::words::printable;

/// How long the daemon may take.
const ANSWER_TIME: Duration = Duration::from_secs(30);

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

/// An identity, as the first line about it says it.
fn titled(spiffe_id: &str, hint: &str) -> String {
    let hint = if hint.is_empty() { String::new() } else { format!(" (hint {})", printable(hint)) };
    printable(spiffe_id) + &hint
}

/// When it ends, in seconds since 1970, as a person says it.
#[allow(clippy::cast_precision_loss, reason = "a date in seconds is far below 2^52")]
fn ends(not_after: i64) -> String {
    from_now(not_after as f64, now())
}

pub(in crate::cli) fn run(arguments: &Arguments, screen: &mut Screen) -> Result<Exit, Failure> {
    match &arguments.what {
        What::X509(arguments) => x509::run(arguments, screen),
        What::Jwt(arguments) => jwt::run(arguments, screen),
        What::Bundle(arguments) => bundle::run(arguments, screen),
    }
}
