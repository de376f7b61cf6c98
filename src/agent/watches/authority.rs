//! Watches over the authority: blocks readiness while it cannot sign (before or after its life, or before the release's
//! date), and degrades it while the end of a key is near. Notices within a second that the clock is right again.

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use tokio::time::interval;

use crate::authority::Authority;
use crate::authority::KeyKind;
use crate::authority::KeyStatus;
use crate::authority::RotationTally;
use crate::authority::Stage;
use crate::authority::Validity;
use crate::readiness::Reason;
use crate::readiness::Severity;
use crate::time::Clock;
use crate::time::date::rfc3339;

const PERIOD: Duration = Duration::from_millis(500);

/// Checks twice a second whether the authority can sign now, and logs once that its end is near. Never ends.
pub async fn watch_authority(
    authority: Arc<dyn Authority>,
    rotations: Arc<RotationTally>,
    clock: Arc<dyn Clock>,
    reason: Reason,
) {
    let mut ticks = interval(PERIOD);
    let mut before = None;
    loop {
        ticks.tick().await;
        let trouble = check_authority(&*authority, &rotations, clock.now(), &reason);
        if let Some((Severity::Degraded, detail)) = &trouble
            && before != trouble
        {
            tracing::warn!("{detail}");
        }
        before = trouble;
    }
}

/// Checks the authority once, and returns what is wrong.
pub fn check_authority(
    authority: &dyn Authority,
    rotations: &RotationTally,
    now: SystemTime,
    reason: &Reason,
) -> Option<(Severity, String)> {
    let lives = authority.validities(now);
    let trouble = if lives.iter().all(|(_, validity)| *validity == Validity::Valid) {
        None
    } else {
        let (keys, remedy) = (authority.keys(now), authority.remedy());
        trouble(&lives, &Remedies { keys: &keys, remedy: &remedy, is_postponed: rotations.is_postponed(), now })
    };
    match &trouble {
        None => reason.clear(),
        Some((severity, detail)) => {
            reason.block(*severity, detail);
        }
    }
    trouble
}

/// What there is against the end of a key.
struct Remedies<'a> {
    keys: &'a [KeyStatus],
    remedy: &'a str,
    /// Whether a step of a rotation could not be taken.
    is_postponed: bool,
    now: SystemTime,
}

/// What an operator has to know of an authority, and what to do; nothing while both kinds of key are valid.
fn trouble(lives: &[(KeyKind, Validity)], against: &Remedies<'_>) -> Option<(Severity, String)> {
    let (mut severity, mut sentences, mut advice) = (Severity::Degraded, Vec::new(), Vec::new());
    for (subject, validity) in subjects(lives) {
        let Some((worse, sentence, next)) = of_subject(subject, validity, against) else { continue };
        severity = severity.max(worse);
        sentences.push(sentence);
        if !advice.contains(&next) {
            advice.push(next);
        }
    }
    (!sentences.is_empty()).then(|| (severity, format!("{}{}", sentences.join("; "), advice.concat())))
}

/// Both kinds where they are alike, else each for itself.
fn subjects(lives: &[(KeyKind, Validity)]) -> Vec<(Option<KeyKind>, Validity)> {
    match lives {
        [(_, first), rest @ ..] if !rest.is_empty() && rest.iter().all(|(_, other)| other == first) => {
            vec![(None, *first)]
        }
        each => each.iter().map(|(kind, validity)| (Some(*kind), *validity)).collect(),
    }
}

/// What is so, and what to do, of the keys of one kind or of both.
fn of_subject(kind: Option<KeyKind>, validity: Validity, against: &Remedies<'_>) -> Option<(Severity, String, String)> {
    let nothing = match kind {
        None => "nothing is issued".to_owned(),
        Some(kind) => format!("no {} is issued", svid(kind)),
    };
    let not_ready = |what: &str, next: String| Some((Severity::NotReady, format!("{nothing}: {what}"), next));
    let said = of_whom(kind, validity);
    match validity {
        Validity::Valid => None,
        Validity::Ending { .. } => Some((Severity::Degraded, said + &against.what_ends(kind), against.next_step(kind))),
        Validity::Over { .. } => not_ready(&said, against.next_step(kind)),
        Validity::BeforeRelease => not_ready(&said, "; set the clock: timedatectl".to_owned()),
        Validity::NotYetValid { .. } => not_ready(
            &said,
            format!(
                "; set the clock: timedatectl. If the clock is right, it was wrong when the authority was made{}",
                against.next_step(kind)
            ),
        ),
    }
}

/// Where the life of a kind of key stands.
fn of_whom(kind: Option<KeyKind>, validity: Validity) -> String {
    let Some(kind) = kind else { return validity.to_string() };
    match validity {
        Validity::Ending { ends } => format!("the authority's {kind} key ends at {}", rfc3339(ends)),
        Validity::Over { since } => {
            format!("the life of the authority's {kind} key has been over since {}", rfc3339(since))
        }
        Validity::NotYetValid { begins } => {
            format!("the authority's {kind} key is not yet valid: its life begins at {}", rfc3339(begins))
        }
        Validity::Valid | Validity::BeforeRelease => validity.to_string(),
    }
}

const fn svid(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::X509 => "X509-SVID",
        KeyKind::Jwt => "JWT-SVID",
    }
}

impl Remedies<'_> {
    fn of(&self, kind: Option<KeyKind>, stage: Stage) -> impl Iterator<Item = &KeyStatus> {
        self.keys.iter().filter(move |key| key.stage == stage && kind.is_none_or(|kind| kind == key.kind))
    }

    /// What ends with a key, and why it is so near its end.
    fn what_ends(&self, kind: Option<KeyKind>) -> String {
        if self.new_keys_sign_from(kind).is_some() {
            return ", and with it everything that it has signed".to_owned();
        }
        let svids = kind.map_or("SVID", svid);
        let why = match self.of(kind, Stage::Active).map(|key| key.next_stage_at).min() {
            Some(due) if due > self.now => format!(
                ". What is signed now lives shorter than its entry says, although a rotation is due only at {}",
                rfc3339(due)
            ),
            Some(due) => format!(". The rotation that was due at {} has not succeeded", rfc3339(due)),
            None => String::new(),
        };
        format!(": every {svids} ends then at the latest, and none is issued after it{why}")
    }

    /// When new keys of each of these kinds are used, where all have one in the bundle.
    fn new_keys_sign_from(&self, kind: Option<KeyKind>) -> Option<SystemTime> {
        let kinds = KeyKind::ALL.into_iter().filter(|each| kind.is_none_or(|kind| kind == *each));
        let used_from = |kind| self.of(Some(kind), Stage::Published).map(|key| key.next_stage_at).next();
        kinds.map(used_from).collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// What goes on by itself, or else what to type.
    fn next_step(&self, kind: Option<KeyKind>) -> String {
        if let Some(from) = self.new_keys_sign_from(kind) {
            return format!(". A new key is in the bundle already, and is to sign from {}", rfc3339(from));
        }
        if self.is_postponed {
            return ". The rotation is postponed: bonafide authority show".to_owned();
        }
        format!(". {}", self.remedy)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::Instant;
    use tokio::time::sleep;
    use tokio::time::timeout;

    use super::*;
    use crate::authority::Embedded;
    use crate::authority::EmbeddedSettings;
    use crate::authority::RELEASE_DATE;
    use crate::randomness::SystemRandomness;
    use crate::readiness::Readiness;
    use crate::time::Moment;

    fn moment(wall: SystemTime) -> Moment {
        Moment { wall, since_boot: Duration::ZERO }
    }

    #[derive(Debug)]
    struct ManualClock(Mutex<SystemTime>);

    impl Clock for ManualClock {
        fn now(&self) -> SystemTime {
            *self.0.lock().unwrap()
        }

        fn since_boot(&self) -> Duration {
            Duration::ZERO
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_outside_the_authoritys_life_is_not_ready_until_a_second_after_it_is_right() {
        const HOUR: Duration = Duration::from_secs(3600);
        let right = SystemTime::UNIX_EPOCH + RELEASE_DATE + 100 * HOUR;
        let settings =
            EmbeddedSettings { trust_domain: "example.org".parse().unwrap(), ca_ttl: HOUR, jwt_issuer: None };
        let authority = Embedded::in_memory(settings, moment(right), Arc::new(SystemRandomness)).unwrap();
        let clock = Arc::new(ManualClock(Mutex::new(right)));
        let readiness = Readiness::default();
        let mut reasons = readiness.watch();
        tokio::spawn(watch_authority(
            Arc::new(authority),
            Arc::default(),
            clock.clone(),
            readiness.register("authority"),
        ));
        for (wrong, said) in [
            (SystemTime::UNIX_EPOCH, "before this release"),
            (right - 49 * HOUR, "not yet valid"),
            (right + HOUR, "over since"),
        ] {
            *clock.0.lock().unwrap() = wrong;
            let blocked = reasons.wait_for(|reasons| reasons.iter().any(|reason| reason.detail.contains(said)));
            timeout(PERIOD * 2, blocked).await.expect(said).unwrap();
            assert!(!readiness.is_ready());
            *clock.0.lock().unwrap() = right;
            timeout(PERIOD * 2, reasons.wait_for(|reasons| reasons.is_empty())).await.expect("ready again").unwrap();
        }
    }

    /// A clock that goes with the paused one.
    #[derive(Debug)]
    struct Running(Instant, SystemTime);

    impl Clock for Running {
        fn now(&self) -> SystemTime {
            self.1 + self.0.elapsed()
        }

        fn since_boot(&self) -> Duration {
            self.0.elapsed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_authoritys_end_is_told_from_the_last_quarter_of_its_life_on() {
        const MINUTE: Duration = Duration::from_secs(60);
        let made = SystemTime::UNIX_EPOCH + RELEASE_DATE;
        let settings =
            EmbeddedSettings { trust_domain: "example.org".parse().unwrap(), ca_ttl: 60 * MINUTE, jwt_issuer: None };
        let authority = Embedded::in_memory(settings, moment(made), Arc::new(SystemRandomness)).unwrap();
        let readiness = Readiness::default();
        let reasons = readiness.watch();
        let clock = Arc::new(Running(Instant::now(), made));
        tokio::spawn(watch_authority(Arc::new(authority), Arc::default(), clock, readiness.register("authority")));
        sleep(44 * MINUTE).await;
        assert_eq!(**reasons.borrow(), []);
        sleep(2 * MINUTE).await;
        let said = reasons.borrow()[0].clone();
        assert_eq!(said.severity, Severity::Degraded);
        assert!(said.detail.starts_with("the authority ends at 2026-11-22T01:00:00Z: "), "{}", said.detail);
        sleep(15 * MINUTE).await;
        let said = reasons.borrow()[0].clone();
        assert_eq!(said.severity, Severity::NotReady);
        assert!(
            said.detail.contains("over since 2026-11-22T01:00:00Z. Make new keys now: bonafide authority rotate"),
            "{}",
            said.detail
        );
    }

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(hours: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + RELEASE_DATE + HOUR * hours
    }

    /// A key that lives for ten hours, and goes on to its next stage then.
    fn key(kind: KeyKind, stage: Stage, next_stage_at: SystemTime) -> KeyStatus {
        let (id, made, not_after) = ("a".to_owned(), at(0), at(10));
        KeyStatus { kind, id, stage, tainted: false, made, not_after, next_stage_at, tokens: 0 }
    }

    /// What is said at the eighth hour of keys with these validities.
    fn said(lives: &[(KeyKind, Validity)], keys: &[KeyStatus], is_postponed: bool) -> (Severity, String) {
        let now = at(8);
        trouble(lives, &Remedies { keys, remedy: "Make new keys", is_postponed, now }).unwrap()
    }

    fn both(validity: Validity) -> [(KeyKind, Validity); 2] {
        KeyKind::ALL.map(|kind| (kind, validity))
    }

    fn active() -> [KeyStatus; 2] {
        KeyKind::ALL.map(|kind| key(kind, Stage::Active, at(5)))
    }

    #[test]
    fn each_validity_has_its_own_sentence_and_the_clock_is_named_only_where_it_can_be_the_cause() {
        let (ends, since, begins) = (at(10), at(7), at(60));
        for (validity, severity, sentence) in [
            (
                Validity::Ending { ends },
                Severity::Degraded,
                "the authority ends at 2026-11-22T10:00:00Z: every SVID ends then at the latest, and none is issued after \
                 it. The rotation that was due at 2026-11-22T05:00:00Z has not succeeded. Make new keys",
            ),
            (
                Validity::Over { since },
                Severity::NotReady,
                "nothing is issued: the authority's life has been over since 2026-11-22T07:00:00Z. Make new keys",
            ),
            (
                Validity::NotYetValid { begins },
                Severity::NotReady,
                "nothing is issued: the authority is not yet valid: its life begins at 2026-11-24T12:00:00Z; set the \
                 clock: timedatectl. If the clock is right, it was wrong when the authority was made. Make new keys",
            ),
            (
                Validity::BeforeRelease,
                Severity::NotReady,
                "nothing is issued: the clock shows a time before this release was made (2026-11-22); set the clock: \
                 timedatectl",
            ),
        ] {
            assert_eq!(said(&both(validity), &active(), false), (severity, sentence.to_owned()));
            let clock = matches!(validity, Validity::NotYetValid { .. } | Validity::BeforeRelease);
            assert_eq!(sentence.contains("clock"), clock, "{sentence}");
        }
        assert!(
            trouble(&both(Validity::Valid), &Remedies { keys: &[], remedy: "", is_postponed: true, now: at(8) })
                .is_none()
        );
    }

    #[test]
    fn a_kind_whose_key_is_over_does_not_make_the_other_kind_unissued() {
        let over = Validity::Over { since: at(7) };
        let (severity, text) = said(&[(KeyKind::X509, Validity::Valid), (KeyKind::Jwt, over)], &active(), false);
        assert_eq!(severity, Severity::NotReady);
        assert_eq!(
            text,
            "no JWT-SVID is issued: the life of the authority's JWT key has been over since 2026-11-22T07:00:00Z. Make \
             new keys"
        );
        let ending = Validity::Ending { ends: at(10) };
        let (severity, text) = said(&[(KeyKind::X509, ending), (KeyKind::Jwt, over)], &active(), false);
        assert_eq!(severity, Severity::NotReady);
        assert!(text.starts_with("the authority's X.509 key ends at 2026-11-22T10:00:00Z: every X509-SVID"), "{text}");
        assert!(text.contains("; no JWT-SVID is issued: ") && text.matches("Make new keys").count() == 1, "{text}");
    }

    #[test]
    fn what_is_cut_short_before_a_rotation_is_due_is_not_blamed_on_a_rotation() {
        let keys = KeyKind::ALL.map(|kind| key(kind, Stage::Active, at(9)));
        let (_, text) = said(&both(Validity::Ending { ends: at(10) }), &keys, false);
        assert!(text.contains("lives shorter than its entry says") && text.contains("only at 2026-11-22T09"), "{text}");
        assert!(!text.contains("succeeded"), "{text}");
    }

    #[test]
    fn nobody_is_told_to_rotate_while_new_keys_are_on_their_way_or_a_rotation_is_postponed() {
        let published = KeyKind::ALL.map(|kind| key(kind, Stage::Published, at(9)));
        for validity in [Validity::Ending { ends: at(10) }, Validity::Over { since: at(7) }] {
            let keys = [active(), published.clone()].concat();
            let (_, text) = said(&both(validity), &keys, false);
            let untrue = ["succeeded", "shorter", "none is issued"].iter().find(|untrue| text.contains(**untrue));
            assert_eq!(untrue, None, "{text}");
            assert!(
                text.ends_with(". A new key is in the bundle already, and is to sign from 2026-11-22T09:00:00Z"),
                "{text}"
            );
            let (_, text) = said(&both(validity), &keys[..3], false);
            assert!(text.ends_with(". Make new keys"), "one kind has none: {text}");
            let (_, text) = said(&both(validity), &active(), true);
            assert!(text.ends_with(" is postponed: bonafide authority show"), "{text}");
        }
    }
}
