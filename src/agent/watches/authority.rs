//! Says on the readiness board while the authority cannot sign by the clock: before its life, after it, or before the
//! release's date. It signs again by itself once the clock is right; here that is noticed within a second.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::interval;

use crate::authority::Authority;
use crate::readiness::Readiness;
use crate::readiness::Severity;
use crate::time::Clock;

const PERIOD: Duration = Duration::from_secs(1);

/// The reason on the readiness board.
const REASON: &str = "authority";

/// Asks every second whether the authority could sign now. Never ends.
pub async fn watch_authority(authority: Arc<dyn Authority>, clock: Arc<dyn Clock>, readiness: Readiness) {
    let mut ticks = interval(PERIOD);
    loop {
        ticks.tick().await;
        match authority.can_sign(clock.now()) {
            Ok(()) => readiness.clear(REASON),
            Err(why) => {
                readiness.block(
                    REASON,
                    Severity::NotReady,
                    format!("nothing is issued: {why}; look at the clock: date"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::SystemTime;

    use tokio::time::timeout;

    use super::*;
    use crate::authority::embedded::Embedded;
    use crate::authority::embedded::RELEASE_DATE;
    use crate::authority::embedded::Settings;
    use crate::randomness::SystemRandomness;

    #[derive(Debug)]
    struct Hand(Mutex<SystemTime>);

    impl Clock for Hand {
        fn now(&self) -> SystemTime {
            *self.0.lock().unwrap()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_outside_the_authoritys_life_is_not_ready_until_a_second_after_it_is_right() {
        const HOUR: Duration = Duration::from_secs(3600);
        let right = SystemTime::UNIX_EPOCH + RELEASE_DATE + HOUR;
        let settings = Settings { trust_domain: "example.org".parse().unwrap(), ca_ttl: HOUR, jwt_issuer: None };
        let authority = Embedded::in_memory(settings, right, Arc::new(SystemRandomness)).unwrap();
        let clock = Arc::new(Hand(Mutex::new(right)));
        let readiness = Readiness::default();
        let mut reasons = readiness.watch();
        tokio::spawn(watch_authority(Arc::new(authority), clock.clone(), readiness.clone()));
        for (wrong, said) in [
            (SystemTime::UNIX_EPOCH, "before this release"),
            (right - 49 * HOUR, "before this release"),
            (right + HOUR, "life is over"),
        ] {
            *clock.0.lock().unwrap() = wrong;
            let blocked = reasons.wait_for(|reasons| reasons.iter().any(|reason| reason.detail.contains(said)));
            timeout(PERIOD * 2, blocked).await.expect(said).unwrap();
            assert!(!readiness.is_ready());
            *clock.0.lock().unwrap() = right;
            timeout(PERIOD * 2, reasons.wait_for(|reasons| reasons.is_empty())).await.expect("ready again").unwrap();
        }
    }
}
