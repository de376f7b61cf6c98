//! Says on the readiness board while the authority cannot sign by the clock: before its life, after it, or before the
//! release's date. It signs again by itself once the clock is right; here that is noticed within a second, and a first
//! start that had to wait for the clock makes its keys.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::interval;

use crate::authority::Authority;
use crate::authority::embedded::Embedded;
use crate::readiness::Reason;
use crate::readiness::Severity;
use crate::time::Clock;

const PERIOD: Duration = Duration::from_millis(500);

/// Asks twice a second whether the authority could sign now. Never ends.
pub async fn watch_authority(authority: Arc<Embedded>, clock: Arc<dyn Clock>, reason: Reason) {
    let mut ticks = interval(PERIOD);
    loop {
        ticks.tick().await;
        look(&authority, &*clock, &reason);
    }
}

/// Asks once. A first key goes to the disk here, before there is anybody who could be kept waiting by that.
pub fn look(authority: &Embedded, clock: &dyn Clock, reason: &Reason) {
    let now = clock.now();
    let able = authority.make_first_keys(now).map_err(|why| why.to_string()).and_then(|made| {
        made.iter().for_each(|note| tracing::info!("{note}"));
        authority.can_sign(now).map_err(|why| format!("{why}; look at the clock: date"))
    });
    match able {
        Ok(()) => reason.clear(),
        Err(why) => reason.block(Severity::NotReady, format!("nothing is issued: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::SystemTime;

    use tokio::time::timeout;

    use super::*;
    use crate::authority::embedded::EmbeddedSettings;
    use crate::authority::embedded::Note;
    use crate::authority::embedded::RELEASE_DATE;
    use crate::durable::DataDir;
    use crate::randomness::SystemRandomness;
    use crate::readiness::Readiness;

    #[derive(Debug)]
    struct ManualClock(Mutex<SystemTime>);

    impl Clock for ManualClock {
        fn now(&self) -> SystemTime {
            *self.0.lock().unwrap()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_outside_the_authoritys_life_is_not_ready_until_a_second_after_it_is_right() {
        const HOUR: Duration = Duration::from_secs(3600);
        let right = SystemTime::UNIX_EPOCH + RELEASE_DATE + HOUR;
        let settings =
            EmbeddedSettings { trust_domain: "example.org".parse().unwrap(), ca_ttl: HOUR, jwt_issuer: None };
        let authority = Embedded::in_memory(settings, right, Arc::new(SystemRandomness)).unwrap();
        let clock = Arc::new(ManualClock(Mutex::new(right)));
        let readiness = Readiness::default();
        let mut reasons = readiness.watch();
        tokio::spawn(watch_authority(Arc::new(authority), clock.clone(), readiness.register("authority")));
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
    #[tokio::test(start_paused = true)]
    async fn a_first_start_before_the_clock_is_set_makes_its_keys_once_when_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = Arc::new(DataDir::open(&folder.path().join("data")).unwrap());
        let settings =
            EmbeddedSettings { trust_domain: "example.org".parse().unwrap(), ca_ttl: PERIOD * 3600, jwt_issuer: None };
        let clock = Arc::new(ManualClock(Mutex::new(SystemTime::UNIX_EPOCH)));
        let opened = Embedded::open(data_dir, settings, clock.now(), Arc::new(SystemRandomness)).unwrap();
        assert_eq!(opened.1, [Note::AwaitsClock]);
        let authority = Arc::new(opened.0);
        let mut bundle = authority.bundle();
        assert!(bundle.borrow_and_update().x509_authorities.is_empty());
        tokio::spawn(watch_authority(authority.clone(), clock.clone(), Readiness::default().register("authority")));
        *clock.0.lock().unwrap() += RELEASE_DATE;
        timeout(PERIOD * 2, bundle.changed()).await.expect("keys").unwrap();
        assert_eq!(bundle.borrow_and_update().x509_authorities.len(), 1);
        assert_eq!(authority.can_sign(clock.now()), Ok(()));
        assert!(timeout(PERIOD * 20, bundle.changed()).await.is_err(), "keys were made again");
    }
}
