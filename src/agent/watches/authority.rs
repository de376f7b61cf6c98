//! Watches over the authority: blocks readiness while it cannot sign (before or after its life, or before the release's
//! date), and degrades it while the end of a key is near. Notices within a second that the clock is right again.

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use tokio::time::interval;

use crate::authority::Authority;
use crate::authority::Validity;
use crate::readiness::Reason;
use crate::readiness::Severity;
use crate::time::Clock;

const PERIOD: Duration = Duration::from_millis(500);

/// Checks twice a second whether the authority can sign now, and logs once that its end is near. Never ends.
pub async fn watch_authority(authority: Arc<dyn Authority>, clock: Arc<dyn Clock>, reason: Reason) {
    let mut ticks = interval(PERIOD);
    let mut before = None;
    loop {
        ticks.tick().await;
        let trouble = check_authority(&*authority, clock.now(), &reason);
        if let Some((Severity::Degraded, detail)) = &trouble
            && before != trouble
        {
            tracing::warn!("{detail}");
        }
        before = trouble;
    }
}

/// Checks the authority once, and returns what is wrong.
pub fn check_authority(authority: &dyn Authority, now: SystemTime, reason: &Reason) -> Option<(Severity, String)> {
    let trouble = authority.validity(now).and_then(|validity| trouble(validity, &authority.remedy()));
    match &trouble {
        None => reason.clear(),
        Some((severity, detail)) => {
            reason.block(*severity, detail);
        }
    }
    trouble
}

/// What an operator has to know of an authority, and what to do; nothing while it is valid.
fn trouble(validity: Validity, remedy: &str) -> Option<(Severity, String)> {
    let not_ready = |to_do: &str| Some((Severity::NotReady, format!("nothing is issued: {validity}{to_do}")));
    match validity {
        Validity::Valid => None,
        Validity::Ending { .. } => Some((
            Severity::Degraded,
            format!(
                "{validity}: every SVID ends then at the latest, and nothing more is issued, for no rotation of its keys \
                 has succeeded. {remedy}"
            ),
        )),
        Validity::Over { .. } => not_ready(&format!(". {remedy}")),
        Validity::BeforeRelease => not_ready("; set the clock: timedatectl"),
        Validity::NotYetValid { .. } => not_ready(&format!(
            "; set the clock: timedatectl. If the clock is right, it was wrong when the authority was made. \
             {remedy}"
        )),
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
        tokio::spawn(watch_authority(Arc::new(authority), clock.clone(), readiness.register("authority")));
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
        tokio::spawn(watch_authority(Arc::new(authority), clock, readiness.register("authority")));
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

    #[test]
    fn the_clock_is_named_only_where_it_can_be_the_cause() {
        let at = SystemTime::UNIX_EPOCH + RELEASE_DATE;
        for (validity, is_named) in [
            (Validity::BeforeRelease, true),
            (Validity::NotYetValid { begins: at }, true),
            (Validity::Ending { ends: at }, false),
            (Validity::Over { since: at }, false),
        ] {
            let (_, detail) = trouble(validity, "Make new keys").unwrap();
            assert_eq!(detail.contains("clock"), is_named, "{detail}");
        }
    }
}
