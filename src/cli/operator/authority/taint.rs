//! What it means to taint keys, told before it is done and followed until they have left the bundle.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::authority::KeyKind;
use crate::authority::Stage;
use crate::cli::operator::authority::keys::live_svids;
use crate::cli::operator::authority::keys::live_tokens;
use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::words::printable;
use crate::cli::words::row;
use crate::endpoints::admin::reports::AuthorityReport;
use crate::endpoints::admin::reports::KeyReport;
use crate::endpoints::admin::reports::RotationReport;
use crate::time::duration::rounded;

/// After that a tainted key leaves the bundle, whoever has not been served.
const IN_BUNDLE: Duration = Duration::from_secs(60);
/// How long the bundle is watched.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often.
const EVERY: Duration = Duration::from_secs(1);

/// Who has the bundle as a file is told nothing by the daemon.
const ELSEWHERE: &str = "whoever verifies with a copy of this node's bundle needs the new one; a workload can get it: \
                         bonafide fetch bundle --write DIR";

/// What tainting would do.
#[derive(Debug, Serialize)]
pub(super) struct TaintPlan {
    /// The keys that would be tainted.
    tainted: Vec<KeyReport>,
    svids_to_renew: u64,
    tokens_to_end: u64,
    /// The command that does it.
    command: String,
}

impl TaintPlan {
    pub(super) fn of(report: &AuthorityReport, kind: Option<KeyKind>, command: String) -> Self {
        // A key that signs nothing yet is given up, which ends nothing.
        let has_signed = |key: &KeyReport| matches!(key.stage, Stage::Active | Stage::Retired);
        let concerned = |key: &&KeyReport| has_signed(key) && kind.is_none_or(|kind| kind == key.kind);
        let tainted: Vec<_> = report.keys.iter().filter(concerned).cloned().collect();
        let (svids_to_renew, tokens_to_end) = rest_on(tainted.iter());
        Self { tainted, svids_to_renew, tokens_to_end, command }
    }

    pub(super) fn text(&self) -> String {
        let mut text = "nothing was changed; with --yes, this is done:\n\n".to_owned();
        for key in &self.tainted {
            text += &row("tainted", &format!("{} {}, {}", key.kind, printable(&key.id), key.stage.as_str()));
        }
        let (svids, tokens) = (live_svids(self.svids_to_renew), live_tokens(self.tokens_to_end));
        if concerns(&self.tainted, KeyKind::X509) {
            text += &row("SVIDs", &format!("{svids} of these keys: renewed at once"));
        }
        if concerns(&self.tainted, KeyKind::Jwt) {
            let older = "from before the daemon's start";
            text += &row("tokens", &format!("{tokens} of these keys, and those {older}: end with their key"));
        }
        let within = rounded(IN_BUNDLE);
        text += &row("bundle", &format!("these keys leave it when every stream has been served, within {within}"));
        text += &row("elsewhere", ELSEWHERE);
        text + &format!("\nnext: {}\n", self.command)
    }
}

/// What tainting did.
#[derive(Debug, Serialize)]
pub(super) struct TaintOutcome {
    rotation: RotationReport,
    /// How long it was followed.
    seconds: u64,
    /// The tainted keys that are in the bundle still.
    left: Vec<KeyReport>,
    svids_before: u64,
    svids_after: u64,
    tokens_before: u64,
    tokens_after: u64,
}

/// Looks at the authority until no tainted key is left in its bundle, or [`PATIENCE`] has passed. `pause` waits, and says
/// how long it has been since the beginning.
///
/// # Errors
/// [`Failure`] of a look.
pub(super) fn follow(
    rotation: RotationReport,
    mut look: impl FnMut() -> Result<AuthorityReport, Failure>,
    mut pause: impl FnMut() -> Duration,
) -> Result<TaintOutcome, Failure> {
    let mut passed = Duration::ZERO;
    loop {
        let report = look().map_err(lost_sight)?;
        let left: Vec<_> = report.keys.into_iter().filter(|key| key.tainted && in_bundle(key)).collect();
        if left.is_empty() || passed >= PATIENCE {
            let (svids, tokens_after) = rest_on(left.iter());
            let (svids_before, tokens_before) = (rotation.svids_to_renew, rotation.tokens_to_end);
            let (seconds, svids_after) = (passed.as_secs(), svids + report.orphaned_svids);
            return Ok(TaintOutcome {
                rotation,
                seconds,
                left,
                svids_before,
                svids_after,
                tokens_before,
                tokens_after,
            });
        }
        passed = pause();
    }
}

/// Waits for the next look.
pub(super) fn pause() -> impl FnMut() -> Duration {
    let begun = Instant::now();
    move || {
        std::thread::sleep(EVERY);
        begun.elapsed()
    }
}

/// The rotation is done, whatever became of the daemon since.
fn lost_sight(failure: Failure) -> Failure {
    let what = "the keys are tainted, and new ones are in the bundle; whether the old ones have left it is not known";
    Failure::new(failure.exit, what, format!("{}: {}", failure.what, failure.why), "bonafide authority show")
}

impl TaintOutcome {
    pub(super) fn text(&self) -> String {
        let passed = rounded(Duration::from_secs(self.seconds));
        let mut text = String::new();
        for key in &self.left {
            text += &row("bundle", &format!("{} {} is still in it after {passed}", key.kind, printable(&key.id)));
        }
        if self.left.is_empty() {
            text += &row("bundle", &format!("no tainted key is in it any more, after {passed}"));
        }
        let Self { svids_before, svids_after, tokens_before, tokens_after, .. } = *self;
        if concerns(&self.rotation.tainted, KeyKind::X509) {
            text += &row("SVIDs", &format!("{} of tainted keys before, {svids_after} now", live_svids(svids_before)));
        }
        if concerns(&self.rotation.tainted, KeyKind::Jwt) {
            let before = live_tokens(tokens_before);
            text += &row("tokens", &format!("{before} of tainted keys before, {tokens_after} now"));
        }
        text += &row("elsewhere", ELSEWHERE);
        if !self.left.is_empty() {
            text += "\nnext: bonafide authority show\n";
        }
        text
    }

    pub(super) fn exit(&self) -> Exit {
        if self.left.is_empty() { Exit::Fine } else { Exit::No }
    }
}

fn concerns(keys: &[KeyReport], kind: KeyKind) -> bool {
    keys.iter().any(|key| key.kind == kind)
}

fn in_bundle(key: &KeyReport) -> bool {
    key.stage != Stage::Prepared
}

/// The live SVIDs and tokens of these keys.
fn rest_on<'a>(keys: impl Iterator<Item = &'a KeyReport>) -> (u64, u64) {
    keys.fold((0, 0), |(svids, tokens), key| (svids + key.svids, tokens + key.tokens))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::operator::authority::keys::tests::NOW;
    use crate::cli::operator::authority::keys::tests::key;
    use crate::cli::words::COLUMNS;

    fn authority(keys: Vec<KeyReport>) -> AuthorityReport {
        let (kind, sequence) = ("embedded".to_owned(), Some(1));
        AuthorityReport { kind, sequence, sampled_at: NOW, keys, orphaned_svids: 0, rotations: true, reasons: vec![] }
    }

    fn tainted(kind: KeyKind) -> KeyReport {
        KeyReport { tainted: true, ..key(kind, Stage::Retired) }
    }

    fn begun() -> RotationReport {
        let tainted = KeyKind::ALL.map(tainted).to_vec();
        let (published, replaced) = (vec![], vec![]);
        RotationReport { sampled_at: NOW, published, replaced, tainted, svids_to_renew: 42, tokens_to_end: 3 }
    }

    /// Each second the keys of the next look, and the last of them for ever.
    fn followed(looks: &[&[KeyReport]]) -> TaintOutcome {
        let (mut looks, mut passed) = (looks.iter(), Duration::ZERO);
        let mut last: &[KeyReport] = &[];
        let look = || {
            last = looks.next().unwrap_or(&last);
            Ok(authority(last.to_vec()))
        };
        let pause = || {
            passed += EVERY;
            passed
        };
        follow(begun(), look, pause).unwrap()
    }

    #[test]
    fn the_plan_counts_what_ends_and_gives_the_command_in_one_line() {
        let keys = [Stage::Retired, Stage::Active, Stage::Published].map(|stage| key(KeyKind::X509, stage));
        let report = authority([keys.to_vec(), vec![key(KeyKind::Jwt, Stage::Active)]].concat());
        let command = format!("bonafide authority rotate --admin-socket /{} --taint --yes", "x".repeat(80));
        let plan = TaintPlan::of(&report, None, command.clone());
        assert_eq!((plan.tainted.len(), plan.svids_to_renew, plan.tokens_to_end), (3, 84, 3));
        let text = plan.text();
        for said in [
            "nothing was changed",
            "84 live SVIDs of these keys: renewed at once",
            "3 live tokens of these keys",
            "within 1m 0s",
            "whoever verifies with a copy",
            "X.509 3f2a9c0d11e2ab4f, active",
        ] {
            assert!(text.contains(said), "{said:?} in\n{text}");
        }
        assert!(text.ends_with(&format!("\nnext: {command}\n")), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS || line.starts_with("next: ")), "{text}");
    }

    #[test]
    fn a_plan_for_one_kind_leaves_the_other_alone() {
        let report = authority(KeyKind::ALL.map(|kind| key(kind, Stage::Active)).to_vec());
        let plan = TaintPlan::of(&report, Some(KeyKind::Jwt), String::new());
        assert_eq!((plan.svids_to_renew, plan.tokens_to_end), (0, 3));
        assert!(plan.tainted.iter().all(|key| key.kind == KeyKind::Jwt));
        let text = plan.text();
        assert!(text.contains("\ntokens      3 live tokens") && !text.contains("SVIDs"), "{text}");
    }

    #[test]
    fn it_is_followed_until_no_tainted_key_is_in_the_bundle() {
        let (x509, jwt) = (tainted(KeyKind::X509), tainted(KeyKind::Jwt));
        let both = [x509.clone(), jwt.clone()];
        let ended = followed(&[&both, &both, &[jwt], &[key(KeyKind::X509, Stage::Active)]]);
        assert_eq!((ended.seconds, ended.exit()), (3, Exit::Fine));
        assert_eq!([ended.svids_before, ended.svids_after, ended.tokens_before, ended.tokens_after], [42, 0, 3, 0]);
        let text = ended.text();
        assert!(text.contains("no tainted key is in it any more, after 3s"), "{text}");
        assert!(text.contains("42 live SVIDs of tainted keys before, 0 now"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
    }

    #[test]
    fn a_tainted_key_that_stays_is_named_after_ninety_seconds_and_is_no_success() {
        let stays = KeyReport { svids: 2, ..tainted(KeyKind::X509) };
        let ended = followed(&[&[stays]]);
        assert_eq!((ended.seconds, ended.exit(), ended.svids_after), (90, Exit::No, 2));
        let text = ended.text();
        assert!(text.contains("X.509 3f2a9c0d11e2ab4f is still in it after 1m 30s"), "{text}");
        assert!(text.ends_with("next: bonafide authority show\n"), "{text}");
    }

    #[test]
    fn a_daemon_that_is_gone_meanwhile_does_not_make_the_rotation_undone() {
        let gone = || Err(Failure::new(Exit::Unreachable, "the daemon cannot be reached", "it stopped", "systemctl"));
        let failure = follow(begun(), gone, || Duration::ZERO).unwrap_err();
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(failure.what.starts_with("the keys are tainted") && failure.why.ends_with("it stopped"));
    }
}
