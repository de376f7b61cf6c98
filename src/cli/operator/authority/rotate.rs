//! `bonafide authority rotate`: new keys now, with overlap; with `--taint` the keys before leave the bundle.

use std::path::Path;

use http::Method;

use crate::authority::KeyKind;
use crate::authority::NotRotated;
use crate::cli::operator::authority::keys::look;
use crate::cli::operator::authority::keys::next;
use crate::cli::operator::authority::keys::next_after;
use crate::cli::operator::authority::taint;
use crate::cli::operator::client::ask;
use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::screen::OutputArguments;
use crate::cli::screen::Screen;
use crate::cli::sockets::AdminSocket;
use crate::cli::words::from_now;
use crate::cli::words::printable;
use crate::cli::words::row;
use crate::endpoints::admin::reports::ErrorReport;
use crate::endpoints::admin::reports::KeyReport;
use crate::endpoints::admin::reports::RotationReport;

const WORDS: &str = "\
Without --taint nothing ends: what the old key signed verifies until its end.
With --taint, live SVIDs of the old keys are renewed at once, their tokens end,
and they leave the bundle within 60 s. Without --yes that is only explained.

Examples:
  bonafide authority rotate
  bonafide authority rotate --kind jwt --taint
Exit codes: 0 done; 1 not rotated, or a tainted key is still in the bundle after
90 s; 2 wrong usage, or --taint without --yes; 3 no daemon; 4 denied";

/// Make new keys now, which sign 10 s later
#[derive(Debug, clap::Args)]
#[command(after_help = WORDS)]
pub(super) struct RotateArguments {
    /// Only the keys of X509-SVIDs, or only those of JWT-SVIDs: x509 or jwt
    #[arg(long, value_name = "KIND")]
    kind: Option<KeyKind>,
    /// The keys that there are may have leaked: end what rests on them
    #[arg(long)]
    taint: bool,
    /// Taint without being asked again
    #[arg(long, requires = "taint")]
    yes: bool,
    #[command(flatten)]
    socket: AdminSocket,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) fn run(arguments: &RotateArguments, screen: &mut Screen) -> Result<Exit, Failure> {
    let RotateArguments { kind, output, .. } = *arguments;
    let socket = arguments.socket.path()?;
    if !arguments.taint {
        let report = rotate(&socket, arguments)?;
        screen.answer(output, &report, text);
        return Ok(Exit::Fine);
    }
    let before = look(&socket)?;
    if !before.rotations {
        return Err(not_rotated(&kept_elsewhere(), ""));
    }
    if !arguments.yes {
        let plan = taint::TaintPlan::of(&before, kind, arguments.command("--taint --yes"));
        screen.answer(output, &plan, taint::TaintPlan::text);
        return Ok(Exit::Usage);
    }
    let rotation = rotate(&socket, arguments)?;
    if output.is_text() {
        screen.text(&text(&rotation));
    }
    let ended = taint::follow(rotation, || look(&socket), taint::pause())?;
    screen.answer(output, &ended, taint::TaintOutcome::text);
    Ok(ended.exit())
}

impl RotateArguments {
    /// The command that does the same, to be typed, with other flags at its end.
    fn command(&self, flags: &str) -> String {
        let kind = self.kind.map(|kind| format!(" --kind {}", kind.as_str())).unwrap_or_default();
        format!("bonafide authority rotate{}{kind} {flags}", self.socket.as_typed()).trim_end().to_owned()
    }
}

fn rotate(socket: &Path, arguments: &RotateArguments) -> Result<RotationReport, Failure> {
    let kind = arguments.kind.map(|kind| format!("kind={}&", kind.as_str())).unwrap_or_default();
    let question = format!("/v1/authority/rotate?{kind}taint={}", arguments.taint);
    let again = arguments.command(if arguments.taint { "--taint --yes" } else { "" });
    ask(socket, Method::POST, &question, |problem| not_rotated(&problem, &again))
}

/// As the daemon would say it: what cannot be done is not explained first.
fn kept_elsewhere() -> ErrorReport {
    ErrorReport { error: "kept_elsewhere".to_owned(), detail: NotRotated::KeptElsewhere.to_string() }
}

/// Nothing was changed.
fn not_rotated(problem: &ErrorReport, again: &str) -> Failure {
    let next = match problem.error.as_str() {
        "kept_elsewhere" => "bonafide authority show".to_owned(),
        "too_many_keys" => format!("bonafide authority show, and after that time: {again}"),
        "not_made" => format!("bonafide status, and when it says no more of that: {again}"),
        "not_kept" => format!("df -h, and when there is room: {again}"),
        _ => next_after(problem).to_owned(),
    };
    Failure::new(Exit::No, "nothing was rotated", printable(&problem.detail), next)
}

fn text(report: &RotationReport) -> String {
    let now = report.sampled_at;
    let mut text = String::new();
    for key in &report.published {
        let (title, id) = (format!("new {}", key.kind), printable(&key.id));
        text += &row(&title, &format!("{id} is in the bundle now, and {}", next(key, now)));
    }
    let is_tainted = |key: &KeyReport| report.tainted.iter().any(|tainted| tainted.id == key.id);
    for key in report.replaced.iter().filter(|key| !is_tainted(key)) {
        let (title, ends) = (format!("old {}", key.kind), from_now(key.not_after, now));
        let id = printable(&key.id);
        text += &row(
            &title,
            &format!(
                "{id} signs until then, and stays in the bundle until what it signed has ended, {ends} at the latest"
            ),
        );
    }
    for key in &report.tainted {
        text += &row(&format!("old {}", key.kind), &format!("{} is tainted", printable(&key.id)));
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::authority::Stage;
    use crate::cli::operator::authority::keys::tests::NOW;
    use crate::cli::operator::authority::keys::tests::key;
    use crate::cli::words::COLUMNS;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        arguments: RotateArguments,
    }

    fn typed(words: &str) -> Result<RotateArguments, clap::Error> {
        Typed::try_parse_from(words.split_whitespace()).map(|typed| typed.arguments)
    }

    fn report(taint: bool) -> RotationReport {
        let new = |kind| KeyReport { id: "0a".to_owned(), ..key(kind, Stage::Published) };
        let replaced = KeyKind::ALL.map(|kind| key(kind, Stage::Active)).to_vec();
        let tainted = if taint { replaced.clone() } else { vec![] };
        let (sampled_at, published) = (NOW, KeyKind::ALL.map(new).to_vec());
        RotationReport { sampled_at, published, replaced, tainted, svids_to_renew: 0, tokens_to_end: 0 }
    }

    #[test]
    fn a_rotation_says_from_when_the_new_keys_sign_and_what_becomes_of_the_old_ones() {
        let said = text(&report(false)).replace("\n            ", " ");
        assert_eq!(
            said,
            "new X.509   0a is in the bundle now, and is used in 10s\n\
             new JWT     0a is in the bundle now, and is used in 10s\n\
             old X.509   3f2a9c0d11e2ab4f signs until then, and stays in the bundle until what it signed has ended, \
             in 6d 22h at the latest\n\
             old JWT     1tSqZKZ8Bp4hUXkHcyXTJtBvhVmfM9VfWzpKcrXqWZ0 signs until then, and stays in the bundle until \
             what it signed has ended, in 6d 22h at the latest\n"
        );
        assert!(text(&report(false)).lines().all(|line| line.chars().count() <= COLUMNS));
    }

    #[test]
    fn a_tainted_key_is_not_said_to_sign_on() {
        let said = text(&report(true));
        assert!(
            !said.contains("signs until then") && said.contains("old X.509   3f2a9c0d11e2ab4f is tainted\n"),
            "{said}"
        );
    }

    #[test]
    fn the_command_to_type_has_the_kind_and_the_socket_that_were_typed() {
        let command = |words: &str| typed(words).unwrap().command("--taint --yes");
        assert!(command("rotate --taint").ends_with("--taint --yes"));
        let named = command("rotate --taint --kind x509 --admin-socket /run/a.sock");
        assert_eq!(named, "bonafide authority rotate --admin-socket /run/a.sock --kind x509 --taint --yes");
    }

    #[test]
    fn yes_without_taint_and_an_unknown_kind_are_wrong_usage() {
        for words in ["rotate --yes", "rotate --kind rsa", "rotate --kind X.509"] {
            assert!(typed(words).is_err(), "{words}");
        }
    }

    #[test]
    fn a_refused_rotation_says_why_and_what_to_type_next() {
        for (error, why, next) in [
            ("kept_elsewhere", NotRotated::KeptElsewhere, "bonafide authority show"),
            ("not_made", NotRotated::NotMade("the clock is wrong".to_owned()), "bonafide status"),
            ("not_kept", NotRotated::NotKept("No space left on device".to_owned()), "bonafide authority rotate"),
        ] {
            let problem = ErrorReport { error: error.to_owned(), detail: why.to_string() };
            let failure = not_rotated(&problem, "bonafide authority rotate");
            assert_eq!((failure.exit, &failure.why), (Exit::No, &why.to_string()));
            assert!(failure.next.contains(next), "{}", failure.next);
        }
    }
}
