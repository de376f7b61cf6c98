//! `bonafide config check`: everything that is wrong with a configuration, before the daemon is asked to take it.

use std::path::Path;
use std::path::PathBuf;

use clap::Subcommand;
use serde::Serialize;

use crate::agent::config::load;
use crate::agent::config::problem::Findings;
use crate::agent::config::problem::Problem;
use crate::agent::config::warnings::of_paths;
use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::screen::OutputArguments;
use crate::cli::screen::Screen;
use crate::cli::words::count;
use crate::federation;

/// Look at the configuration
#[derive(Debug, clap::Args)]
pub struct ConfigArguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(CheckArguments),
}

/// Print every problem at once, with its place and what to write
#[derive(Debug, clap::Args)]
struct CheckArguments {
    /// The configuration file
    #[arg(default_value = "/etc/bonafide/bonafide.toml")]
    file: PathBuf,
    #[command(flatten)]
    output: OutputArguments,
}

/// The answer of `config check -o json`.
#[derive(Serialize)]
struct Checked<'a> {
    file: &'a Path,
    accepted: bool,
    entries: usize,
    #[serde(flatten)]
    findings: Findings,
}

pub(in crate::cli) fn run(arguments: &ConfigArguments, screen: &mut Screen) -> Result<Exit, Failure> {
    let Command::Check(CheckArguments { file, output }) = &arguments.command;
    let checked = match load(file) {
        Ok((config, accepted)) => {
            let (entries, mut warnings) = (config.entries.len(), config.warnings);
            warnings.extend(config.federation.iter().flat_map(bundle_warnings));
            warnings.extend(of_paths(&accepted.sources));
            warnings.sort();
            Checked { file, accepted: true, entries, findings: Findings { warnings, ..Findings::default() } }
        }
        Err(refused) => {
            let mut findings = refused.findings;
            findings.warnings.extend(of_paths(&refused.sources));
            findings.warnings.sort();
            Checked { file, accepted: false, entries: 0, findings }
        }
    };
    screen.answer(*output, &checked, Checked::text);
    Ok(if checked.accepted { Exit::Fine } else { Exit::Usage })
}

/// What is wrong with a bundle file. The daemon starts all the same, degraded, and serves everyone else.
fn bundle_warnings(settings: &federation::FederationSettings) -> Vec<Problem> {
    let name = &settings.trust_domain;
    let texts = match federation::read_bundle_file(settings) {
        Ok((_, ignored)) => {
            ignored.iter().map(|ignored| format!("of the bundle of {name} is ignored: {ignored}")).collect()
        }
        Err(why) => vec![format!("gives no bundle of {name}, so no SVID of it verifies here: {why}")],
    };
    texts.into_iter().map(|text| Problem::of_file(&settings.bundle_file, text)).collect()
}

impl Checked<'_> {
    fn text(&self) -> String {
        let warnings = self.findings.warnings.iter().map(|warning| format!("{}\n", warning.warning()));
        let mut text: String = warnings.collect();
        if self.accepted {
            let entries = count(self.entries as u64, "entry", "entries");
            text.push_str(&format!("{}: fine, {entries}\n", self.file.display()));
            return text;
        }
        let problems = self.findings.problems.len() + self.findings.more;
        let problems = count(problems as u64, "problem", "problems");
        let file = self.file.display();
        text.push_str(&format!("{}\n{file}: {problems}; the daemon would not take it\n", self.findings));
        text
    }
}
