//! The authority's keys and rotations as metrics, read at each scrape. An operator is to learn of an end before it comes.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::authority::Authority;
use crate::authority::KeyKind;
use crate::authority::KeyStatus;
use crate::authority::RotationTally;
use crate::authority::Stage;
use crate::endpoints::metrics::put;
use crate::endpoints::metrics::put_each;
use crate::time::Clock;

/// The figures of one authority.
#[derive(Debug)]
pub struct AuthorityMetrics {
    /// Whose keys.
    pub authority: Arc<dyn Authority>,
    /// How its rotations went.
    pub rotations: Arc<RotationTally>,
    /// By which its tokens are counted.
    pub clock: Arc<dyn Clock>,
}

impl Collector for AuthorityMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let keys = self.authority.keys(self.clock.now());
        self.times(&mut encoder, &keys)?;
        let labelled = KeyKind::ALL.into_iter().flat_map(|kind| Stage::ALL.map(|stage| (kind, stage)));
        let counts = labelled.map(|(kind, stage)| {
            let count = keys.iter().filter(|key| key.kind == kind && key.stage == stage).count();
            let labels = [("kind", kind.as_str()), ("state", stage.as_str())];
            (labels, ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX)))
        });
        put_each(&mut encoder, ("bonafide_authority_keys", "Keys of the authority, by kind and state", None), counts)?;
        let rotations = KeyKind::ALL.map(|kind| (of(kind), ConstCounter::new(self.rotations.done(kind))));
        let help = "Rotations since the start: a new key signs in place of the one before";
        put_each(&mut encoder, ("bonafide_authority_rotations", help, None), rotations)?;
        let help = "Steps of a rotation that could not be taken; each is tried again every 2 s";
        let failures = ConstCounter::new(self.rotations.failures());
        put(&mut encoder, ("bonafide_authority_rotation_failures", help, None), &failures)?;
        let help = "Whether a step of a rotation is due that could not be taken";
        let postponed = ConstGauge::new(i64::from(self.rotations.is_postponed()));
        put(&mut encoder, ("bonafide_authority_rotation_postponed", help, None), &postponed)
    }
}

impl AuthorityMetrics {
    /// When the active keys were made, are replaced, and end. Of an authority whose keys are kept elsewhere only the end of
    /// what it signs is known.
    fn times(&self, encoder: &mut DescriptorEncoder<'_>, keys: &[KeyStatus]) -> fmt::Result {
        let active = || keys.iter().filter(|key| key.stage == Stage::Active);
        let seconds = Some(&Unit::Seconds);
        let made = active().map(|key| (of(key.kind), timestamp(key.made)));
        let help = "When the active key was made, since 1970";
        put_each(encoder, ("bonafide_authority_made_timestamp", help, seconds), made)?;
        let elsewhere = self.authority.not_after().filter(|_| keys.is_empty());
        let ends = active().map(|key| (of(key.kind), timestamp(key.not_after)));
        let ends = ends.chain(elsewhere.map(|end| (of(KeyKind::X509), timestamp(end))));
        let help = "When the active key ends, since 1970, and with it everything it signs";
        put_each(encoder, ("bonafide_authority_not_after_timestamp", help, seconds), ends)?;
        let next = active().map(|key| (of(key.kind), timestamp(key.next_stage_at)));
        let help = "When the active key is to be replaced, since 1970";
        put_each(encoder, ("bonafide_authority_next_rotation_timestamp", help, seconds), next)
    }
}

fn of(kind: KeyKind) -> [(&'static str, &'static str); 1] {
    [("kind", kind.as_str())]
}

fn timestamp(time: SystemTime) -> ConstGauge<f64> {
    ConstGauge::new(time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::authority::Embedded;
    use crate::authority::EmbeddedSettings;
    use crate::authority::Maintained;
    use crate::authority::Note;
    use crate::authority::RELEASE_DATE;
    use crate::authority::RotationOrder;
    use crate::randomness::SystemRandomness;
    use crate::time::Moment;

    const HOUR: Duration = Duration::from_secs(3600);

    #[derive(Debug)]
    struct Stopped(SystemTime);

    impl Clock for Stopped {
        fn now(&self) -> SystemTime {
            self.0
        }

        fn since_boot(&self) -> Duration {
            Duration::ZERO
        }
    }

    #[test]
    fn the_life_the_stages_and_the_rotations_of_each_kind_of_key_are_exported() {
        let made = RELEASE_DATE + HOUR;
        let now = Moment { wall: UNIX_EPOCH + made, since_boot: Duration::ZERO };
        let settings =
            EmbeddedSettings { trust_domain: "example.org".parse().unwrap(), ca_ttl: 10 * HOUR, jwt_issuer: None };
        let authority = Embedded::in_memory(settings, now, Arc::new(SystemRandomness)).unwrap();
        authority.rotate(RotationOrder { kind: Some(KeyKind::Jwt), taint: false }, now).unwrap();
        let rotations = Arc::new(RotationTally::default());
        let used = Note::Used { kind: KeyKind::X509, id: "b".to_owned(), before: "a".to_owned() };
        let postponed = Some("no room".to_owned());
        rotations.count(&Maintained { notes: vec![used], postponed, failed: true });
        let mut registry = Registry::default();
        let clock = Arc::new(Stopped(now.wall));
        registry.register_collector(Box::new(AuthorityMetrics { authority: Arc::new(authority), rotations, clock }));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let at = |since: Duration| since.as_secs_f64();
        for line in [
            format!("bonafide_authority_made_timestamp_seconds{{kind=\"x509\"}} {:?}", at(made)),
            format!("bonafide_authority_not_after_timestamp_seconds{{kind=\"jwt\"}} {:?}", at(made + 10 * HOUR)),
            format!(
                "bonafide_authority_next_rotation_timestamp_seconds{{kind=\"jwt\"}} {:?}",
                at(made + Duration::from_secs(10))
            ),
            "bonafide_authority_keys{kind=\"x509\",state=\"active\"} 1".to_owned(),
            "bonafide_authority_keys{kind=\"x509\",state=\"published\"} 0".to_owned(),
            "bonafide_authority_keys{kind=\"jwt\",state=\"published\"} 1".to_owned(),
            "bonafide_authority_keys{kind=\"jwt\",state=\"prepared\"} 0".to_owned(),
            "bonafide_authority_keys{kind=\"jwt\",state=\"retired\"} 0".to_owned(),
            "bonafide_authority_rotations_total{kind=\"x509\"} 1".to_owned(),
            "bonafide_authority_rotations_total{kind=\"jwt\"} 0".to_owned(),
            "bonafide_authority_rotation_failures_total 1".to_owned(),
            "bonafide_authority_rotation_postponed 1".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
