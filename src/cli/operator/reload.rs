//! `bonafide reload`: the daemon takes the configuration as it is now, or says everything that is wrong with it.

use http::Method;

use crate::cli::operator::client::ask;
use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::screen::OutputArguments;
use crate::cli::screen::Screen;
use crate::cli::sockets::AdminSocket;
use crate::cli::words::printable;
use crate::cli::words::wrap;
use crate::endpoints::admin::reports::EntryName;
use crate::endpoints::admin::reports::ErrorReport;
use crate::endpoints::admin::reports::ReloadReport;

/// Make the daemon take its configuration as it is on disk now
#[derive(Debug, clap::Args)]
pub struct ReloadArguments {
    #[command(flatten)]
    socket: AdminSocket,
    #[command(flatten)]
    output: OutputArguments,
}

pub(in crate::cli) fn run(arguments: &ReloadArguments, screen: &mut Screen) -> Result<Exit, Failure> {
    let unknown = |problem: ErrorReport| {
        Failure::new(Exit::No, "nothing is known of the reload", printable(&problem.detail), "bonafide status")
    };
    let report = ask(&arguments.socket.path()?, Method::POST, "/v1/reload", unknown)?;
    screen.answer(arguments.output, &report, text);
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
    for line in report.problems.iter().chain(&report.warnings) {
        text += &format!("  {}\n", wrap(&printable(line), 2, 4));
    }
    if !report.swapped {
        text += "next: fix the above, then bonafide reload\n";
    }
    text
}

fn list(mark: char, entries: &[EntryName]) -> String {
    entries
        .iter()
        .map(|entry| format!("  {mark} {} ({})\n", printable(&entry.id), printable(&entry.origin.to_string())))
        .collect()
}
