//! `bonafide authority show`: every key with its state, its end, what happens to it next, and what rests on it.

use crate::cli::operator::authority::keys::described;
use crate::cli::operator::authority::keys::live_svids;
use crate::cli::operator::authority::keys::look;
use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::screen::OutputArguments;
use crate::cli::screen::Screen;
use crate::cli::sockets::AdminSocket;
use crate::cli::words::note;
use crate::cli::words::printable;
use crate::cli::words::row;
use crate::endpoints::admin::reports::AuthorityReport;

const WORDS: &str = "\
prepared   made and kept; nobody knows it yet
published  in the bundle, so that whoever verifies learns it before it is used
active     signs
retired    signs no more; in the bundle until what it signed has ended
tainted    may have leaked: what it signed is renewed, and it leaves the bundle

A live SVID is held by a connected workload. A live token was signed since the
daemon's start and has not ended.

Example: bonafide authority show
Exit codes: 0 shown; 1 the daemon has no answer; 2 wrong usage; 3 no daemon;
4 denied";

/// Show the keys that sign SVIDs: their states, their ends, and what comes next
#[derive(Debug, clap::Args)]
#[command(after_help = WORDS)]
pub(super) struct ShowArguments {
    #[command(flatten)]
    socket: AdminSocket,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) fn run(arguments: &ShowArguments, screen: &mut Screen) -> Result<Exit, Failure> {
    let report = look(&arguments.socket.path()?)?;
    screen.answer(arguments.output, &report, text);
    Ok(Exit::Fine)
}

fn text(report: &AuthorityReport) -> String {
    let sequence = report.sequence.map(|sequence| format!(", spiffe_sequence {sequence}")).unwrap_or_default();
    let mut text = format!("{} authority{sequence}\n\n", printable(&report.kind));
    for key in &report.keys {
        text += &row(&key.kind.to_string(), &described(key, report.sampled_at));
    }
    match (report.keys.is_empty(), report.rotations) {
        (true, true) => text += &row("keys", "none yet"),
        (true, false) => text += &row("keys", "none here; they are kept, and rotated, elsewhere"),
        (false, _) => {}
    }
    if report.orphaned_svids > 0 {
        let svids = live_svids(report.orphaned_svids);
        text += &row("orphaned", &format!("{svids} of keys that have left the bundle: nobody accepts them any more"));
    }
    if !report.reasons.is_empty() {
        text += "\nNotes\n";
        text.extend(report.reasons.iter().map(|reason| note(&reason.name, &reason.detail)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::KeyKind;
    use crate::authority::Stage;
    use crate::cli::operator::authority::keys::tests::NOW;
    use crate::cli::operator::authority::keys::tests::key;
    use crate::cli::words::COLUMNS;
    use crate::readiness::ActiveReason;
    use crate::readiness::Severity;

    fn report() -> AuthorityReport {
        AuthorityReport {
            kind: "embedded".to_owned(),
            sequence: Some(1_699_990_001),
            sampled_at: NOW,
            keys: vec![key(KeyKind::X509, Stage::Active), key(KeyKind::Jwt, Stage::Published)],
            orphaned_svids: 0,
            rotations: true,
            reasons: vec![],
        }
    }

    #[test]
    fn the_screen_has_every_key_with_what_comes_next() {
        assert_eq!(
            text(&report()),
            "embedded authority, spiffe_sequence 1699990001\n\n\
             X.509       3f2a9c0d11e2ab4f, active, made 2h 1m ago, ends in 6d 22h; is\n            \
             replaced in 10s; signed 42 live SVIDs\n\
             JWT         1tSqZKZ8Bp4hUXkHcyXTJtBvhVmfM9VfWzpKcrXqWZ0, published, made 2h 1m\n            \
             ago, ends in 6d 22h; is used in 10s\n"
        );
    }

    #[test]
    fn the_cause_of_a_postponed_rotation_is_in_the_notes_and_fits_the_screen() {
        let detail = "no key can be rotated: authority.state cannot be written: No space left on device; make room\nx";
        let reasons =
            vec![ActiveReason { name: "data_dir".to_owned(), severity: Severity::Degraded, detail: detail.to_owned() }];
        let text = text(&AuthorityReport { reasons, orphaned_svids: 1, ..report() });
        assert!(text.contains("\nNotes\ndata_dir    no key can be rotated: authority.state cannot"), "{text}");
        assert!(text.contains("\norphaned    1 live SVID of keys"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
    }

    #[test]
    fn an_authority_without_keys_here_says_whether_they_are_elsewhere() {
        let of = |rotations| text(&AuthorityReport { keys: vec![], rotations, ..report() });
        assert!(of(true).ends_with("keys        none yet\n") && of(false).contains("elsewhere"));
    }
}
