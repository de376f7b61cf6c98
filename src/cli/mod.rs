//! What a person types. Every command is a file of its own: it turns arguments into one question, puts it to the daemon
//! or to this machine, and prints the answer. The only module that reads the environment.

pub mod config;
pub mod demo;
pub mod operator;
pub mod run;
pub mod screen;
pub mod sockets;
pub mod version;
mod words;
pub mod workload;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;

use crate::cli::operator::authority;
use crate::cli::operator::explain;
use crate::cli::operator::reload;
use crate::cli::operator::status;
use crate::cli::screen::Screen;
use crate::cli::workload::fetch;
use crate::cli::workload::healthcheck;
use crate::cli::workload::validate;

/// An identity for every process of this machine, proven by the kernel and not by a secret.
#[derive(Debug, Parser)]
#[command(name = "bonafide", version, propagate_version = false, max_term_width = 80)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArguments),
    Demo(demo::DemoArguments),
    Config(config::ConfigArguments),
    Explain(explain::ExplainArguments),
    Status(status::StatusArguments),
    Authority(authority::AuthorityArguments),
    Fetch(fetch::FetchArguments),
    Validate(validate::ValidateArguments),
    Healthcheck(healthcheck::HealthcheckArguments),
    Reload(reload::ReloadArguments),
    Version(version::VersionArguments),
}

/// Runs the command that `arguments` (the program's name first) spell.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command_line = match CommandLine::try_parse_from(arguments) {
        Ok(command_line) => command_line,
        Err(not_a_command) => return screen::explain_usage(&not_a_command),
    };
    let screen = &mut Screen::of_process();
    let answer = match command_line.command {
        Command::Run(arguments) => return run::run(arguments),
        Command::Demo(arguments) => return demo::run(arguments),
        Command::Config(arguments) => config::run(&arguments, screen),
        Command::Explain(arguments) => explain::run(&arguments, screen),
        Command::Authority(arguments) => authority::run(&arguments, screen),
        Command::Status(arguments) => status::run(&arguments, screen),
        Command::Fetch(arguments) => fetch::run(&arguments, screen),
        Command::Validate(arguments) => validate::run(&arguments, screen),
        Command::Healthcheck(arguments) => healthcheck::run(&arguments, screen),
        Command::Reload(arguments) => reload::run(&arguments, screen),
        Command::Version(arguments) => version::run(&arguments, screen),
    };
    screen.finish(answer)
}
