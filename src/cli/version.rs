//! `bonafide version`.

use serde::Serialize;

use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::screen::OutputArguments;
use crate::cli::screen::Screen;
use crate::cli::words::row;

/// Print the version and the standards it speaks
#[derive(Debug, clap::Args)]
pub struct VersionArguments {
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, Serialize)]
struct Version {
    version: &'static str,
    standards: &'static [&'static str],
}

const VERSION: Version = Version {
    version: env!("CARGO_PKG_VERSION"),
    standards: &["SPIFFE-ID 1.0", "X509-SVID 1.0", "JWT-SVID 1.0", "SPIFFE Bundle 1.0", "SPIFFE Workload API 1.0"],
};

pub(in crate::cli) fn run(arguments: &VersionArguments, screen: &mut Screen) -> Result<Exit, Failure> {
    screen.answer(arguments.output, &VERSION, |Version { version, standards }| {
        format!("bonafide {version}\n{}", row("standards", &standards.join(", ")))
    });
    Ok(Exit::Fine)
}
