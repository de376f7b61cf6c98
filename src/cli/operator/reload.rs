//! `bonafide reload`: the daemon takes the configuration as it is now, or says everything that is wrong with it.

use http::Method;

use crate::cli::operator::client::Answer;
use crate::cli::operator::client::ask;
use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::screen::Format;
use crate::cli::screen::OutputArguments;
use crate::cli::screen::Screen;
use crate::cli::sockets::AdminSocket;
use crate::cli::words::printable;
use crate::endpoints::admin::reports::EntryName;
use crate::endpoints::admin::reports::ReloadReport;

/// Make the daemon take its configuration as it is on disk now
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    socket: AdminSocket,
    #[command(flatten)]
    output: OutputArguments,
}

pub(in crate::cli) fn run(arguments: &Arguments, screen: &mut Screen) -> Result<Exit, Failure> {
    let report: ReloadReport = match ask(&arguments.socket.path()?, Method::POST, "/v1/reload")? {
        Answer::Report(report) => report,
        Answer::Problem(problem) => {
            return Err(Failure::new(Exit::No, "nothing is known of the reload", problem.detail, "bonafide status"));
        }
    };
    match arguments.output.output {
        Format::Json => screen.json(&report),
        Format::Text => screen.text(&text(&report)),
    }
    Ok(if report.swapped { Exit::Fine } else { Exit::Usage })
}

fn text(report: &ReloadReport) -> String {
    let mut text = if report.swapped {
        let ReloadReport { added, removed, changed, .. } = report;
        let mut text =
            format!("reloaded: {} added, {} removed, {} changed\n", added.len(), removed.len(), changed.len());
        text += &list('+', added);
        text += &list('-', removed);
        text += &list('~', changed);
        text
    } else {
        "nothing was changed; the configuration before stays in force\n".to_owned()
    };
    for problem in report.problems.iter().chain(&report.warnings) {
        text += &format!("  {}\n", printable(problem));
    }
    if !report.swapped {
        text += "next: mend the above, then bonafide reload\n";
    }
    text
}

fn list(mark: char, entries: &[EntryName]) -> String {
    entries
        .iter()
        .map(|entry| format!("  {mark} {} ({})\n", printable(&entry.id), printable(&entry.origin.to_string())))
        .collect()
}
