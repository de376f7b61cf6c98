//! The words for the keys of an authority, and the question for them.

use std::path::Path;

use http::Method;

use crate::authority::KeyKind;
use crate::authority::Stage;
use crate::cli::operator::client::ask;
use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::words::count;
use crate::cli::words::from_now;
use crate::cli::words::printable;
use crate::endpoints::admin::reports::AuthorityReport;
use crate::endpoints::admin::reports::ErrorReport;
use crate::endpoints::admin::reports::KeyReport;

/// The authority as it is now.
///
/// # Errors
/// [`Failure`]
pub(super) fn look(socket: &Path) -> Result<AuthorityReport, Failure> {
    let none = |problem: ErrorReport| {
        Failure::new(Exit::No, "nothing is known of the authority", printable(&problem.detail), next_after(&problem))
    };
    ask(socket, Method::GET, "/v1/authority", none)
}

/// What to type where the daemon has no answer.
pub(super) fn next_after(problem: &ErrorReport) -> &'static str {
    match problem.error.as_str() {
        "no_such_question" => "bonafide version, and restart the daemon after an upgrade",
        _ => "bonafide status",
    }
}

/// A key in one sentence, at `now`.
pub(super) fn described(key: &KeyReport, now: f64) -> String {
    let KeyReport { stage, made, not_after, .. } = *key;
    let tainted = if key.tainted { ", tainted" } else { "" };
    let made = if (made - now).abs() < 1.0 { "just now".to_owned() } else { from_now(made, now) };
    let ends = format!("{} {}", if not_after > now { "ends" } else { "ended" }, from_now(not_after, now));
    let (next, rests) = (next(key, now), rests(key));
    format!("{}, {}{tainted}, made {made}, {ends}; {next}{rests}", printable(&key.id), stage.as_str())
}

/// What happens to a key next, and when.
pub(super) fn next(key: &KeyReport, now: f64) -> String {
    let happens = match key.stage {
        Stage::Prepared => "enters the bundle",
        Stage::Published => "is used",
        Stage::Active => "is replaced",
        Stage::Retired => "leaves the bundle",
    };
    let at = from_now(key.next_stage_at, now);
    let overdue = key.next_stage_at + 1.0 < now;
    match (overdue, key.tainted && key.stage == Stage::Retired) {
        (true, _) => format!("{happens} as soon as that can be done (due {at})"),
        (false, true) => format!("{happens} {at} at the latest"),
        (false, false) => format!("{happens} {at}"),
    }
}

/// What a key has signed that is in use.
fn rests(key: &KeyReport) -> String {
    let rests = match key.kind {
        KeyKind::X509 => live_svids(key.svids),
        KeyKind::Jwt => live_tokens(key.tokens),
    };
    match key.stage {
        Stage::Prepared | Stage::Published => String::new(),
        Stage::Active | Stage::Retired => format!("; signed {rests}"),
    }
}

/// So many SVIDs.
pub(super) fn live_svids(number: u64) -> String {
    count(number, "live SVID", "live SVIDs")
}

/// So many tokens.
pub(super) fn live_tokens(number: u64) -> String {
    count(number, "live token", "live tokens")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The time of every report.
    pub(in crate::cli::operator::authority) const NOW: f64 = 1_700_000_000.0;

    /// A key, made two hours ago, that goes on in ten seconds.
    pub(in crate::cli::operator::authority) fn key(kind: KeyKind, stage: Stage) -> KeyReport {
        let (id, svids, tokens) = match kind {
            KeyKind::X509 => ("3f2a9c0d11e2ab4f".to_owned(), 42, 0),
            KeyKind::Jwt => ("1tSqZKZ8Bp4hUXkHcyXTJtBvhVmfM9VfWzpKcrXqWZ0".to_owned(), 0, 3),
        };
        let (made, not_after, next_stage_at) = (NOW - 7260.0, NOW + 597_600.0, NOW + 10.0);
        KeyReport { kind, id, stage, tainted: false, made, not_after, next_stage_at, svids, tokens }
    }

    #[test]
    fn a_key_is_described_by_its_state_its_end_and_what_happens_next() {
        let of = |stage| described(&key(KeyKind::X509, stage), NOW);
        let begins = |state| format!("3f2a9c0d11e2ab4f, {state}, made 2h 1m ago, ends in 6d 22h; ");
        for (stage, state, rest) in [
            (Stage::Prepared, "prepared", "enters the bundle in 10s"),
            (Stage::Published, "published", "is used in 10s"),
            (Stage::Active, "active", "is replaced in 10s; signed 42 live SVIDs"),
            (Stage::Retired, "retired", "leaves the bundle in 10s; signed 42 live SVIDs"),
        ] {
            assert_eq!(of(stage), begins(state) + rest);
        }
    }

    #[test]
    fn a_tainted_key_is_called_so_and_leaves_the_bundle_at_the_latest_then() {
        let text = described(&KeyReport { tainted: true, ..key(KeyKind::Jwt, Stage::Retired) }, NOW);
        assert!(text.contains(", retired, tainted, made"), "{text}");
        assert!(text.ends_with("; leaves the bundle in 10s at the latest; signed 3 live tokens"), "{text}");
    }

    #[test]
    fn a_rotation_that_was_due_is_not_announced_for_the_past() {
        let late = KeyReport { next_stage_at: NOW - 180.0, ..key(KeyKind::X509, Stage::Active) };
        let text = next(&late, NOW);
        assert_eq!(text, "is replaced as soon as that can be done (due 3m 0s ago)");
    }
}
