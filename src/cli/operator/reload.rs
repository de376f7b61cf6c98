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
    for line in report.problems.iter().chain(&report.warnings).chain(&report.notes) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::words::COLUMNS;

    #[test]
    fn what_is_in_force_later_is_told_within_the_screen() {
        let note = "ca_ttl is \"96h\" from the next rotation on: X.509 at 2026-12-01T00:00:00Z, JWT at \
                    2026-12-01T00:00:00Z; to rotate now type: bonafide authority rotate";
        let text = text(&ReloadReport { swapped: true, notes: vec![note.to_owned()], ..ReloadReport::default() });
        assert!(text.replace("\n    ", " ").contains(note), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
    }
}
