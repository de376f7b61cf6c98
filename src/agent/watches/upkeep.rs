//! Takes the authority's keys from stage to stage, on a thread that serves nobody: each step goes to the disk. Has what a
//! tainted key signed renewed, and reports a step that is due and cannot be taken.

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use tokio::time::Instant;
use tokio::time::MissedTickBehavior;
use tokio::time::interval;

use crate::authority::Authority;
use crate::authority::KeyId;
use crate::authority::KeyStatus;
use crate::authority::RotationTally;
use crate::authority::Stage;
use crate::entitlement::node_state::NodeState;
use crate::readiness::Reason;
use crate::readiness::Severity;
use crate::time::Clock;
use crate::time::date::rfc3339;

const PERIOD: Duration = Duration::from_millis(500);
/// A disk that takes longer for one step is reported.
const SLOW: Duration = Duration::from_secs(10);
const HANGS: &str = "a rotation of the authority's keys is due, and the disk of data_dir has not taken it for 10 s: issuing \
                     goes on with the key before; look at the disk: dmesg | tail";

/// The upkeep of one authority.
#[derive(Debug)]
pub struct Upkeep {
    /// Whose keys.
    pub authority: Arc<dyn Authority>,
    /// Those who are served.
    pub node_state: Arc<NodeState>,
    /// Both clocks.
    pub clock: Arc<dyn Clock>,
    /// Blocked while a step that is due is not taken.
    pub reason: Reason,
    /// How the rotations went.
    pub rotations: Arc<RotationTally>,
}

impl Upkeep {
    /// Does what is due, twice a second. Never ends.
    pub async fn run(self) {
        let upkeep = Arc::new(self);
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tainted = Arc::default();
        loop {
            ticks.tick().await;
            if !upkeep.authority.is_due(upkeep.clock.moment(), upkeep.node_state.served()) {
                continue;
            }
            let (due, begun) = (Arc::clone(&upkeep), Instant::now());
            let mut done = tokio::task::spawn_blocking(move || due.once());
            let ended = loop {
                tokio::select! {
                    biased;
                    ended = &mut done => break ended,
                    _ = ticks.tick() => {}
                }
                // A step may have been taken before the one that waits.
                upkeep.renew_tainted(&mut tainted);
                if begun.elapsed() >= SLOW {
                    upkeep.report(Some((Severity::Degraded, HANGS.to_owned())));
                }
            };
            upkeep.renew_tainted(&mut tainted);
            if let Err(panicked) = ended {
                upkeep.report(Some((Severity::Degraded, format!("the upkeep of the authority failed: {panicked}"))));
            }
        }
    }

    /// Has renewed what was signed by keys that were tainted since.
    fn renew_tainted(&self, known: &mut Arc<Vec<KeyId>>) {
        let tainted = self.authority.tainted();
        if tainted != *known {
            *known = tainted;
            let woken = self.node_state.key_was_tainted();
            tracing::warn!(woken, "what tainted keys signed is renewed");
        }
    }

    /// Does what is due now. Blocks while it writes to disk.
    pub fn once(&self) {
        let now = self.clock.moment();
        let trouble = match self.authority.maintain(now, self.node_state.served()) {
            Err(why) => Some((Severity::NotReady, format!("nothing is issued: {why}"))),
            Ok(done) => {
                self.rotations.count(&done);
                done.notes.iter().for_each(|note| tracing::info!("{note}"));
                done.postponed
                    .map(|why| (Severity::Degraded, postponed(&why, &self.authority.keys(now.wall), now.wall)))
            }
        };
        self.report(trouble);
    }

    fn report(&self, trouble: Option<(Severity, String)>) {
        let Some((severity, detail)) = trouble else { return self.reason.clear() };
        if self.reason.block(severity, &detail) {
            tracing::warn!("{detail}");
        }
    }
}

/// What an operator has to know of a step that could not be taken.
fn postponed(why: &str, keys: &[KeyStatus], now: SystemTime) -> String {
    let ends = keys.iter().filter(|key| key.stage == Stage::Active).map(|key| key.not_after).min();
    let meanwhile = match ends.filter(|end| *end > now) {
        Some(end) => format!("; the keys in use sign until {}", rfc3339(end)),
        None => String::new(),
    };
    format!("the rotation of the authority's keys is postponed: {why}. It is tried again every 2 s{meanwhile}")
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::authority::KeyKind;

    #[test]
    fn a_postponed_rotation_says_until_when_the_keys_sign_unless_they_do_not() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let keys = KeyKind::ALL.map(|kind| KeyStatus {
            kind,
            id: "a".to_owned(),
            stage: Stage::Active,
            tainted: false,
            made: at(0),
            not_after: at(1_800_000_000),
            next_stage_at: at(1_700_000_000),
            tokens: 0,
        });
        let begins = "the rotation of the authority's keys is postponed: no room. It is tried again every 2 s";
        let ends = format!("{begins}; the keys in use sign until 2027-01-15T08:00:00Z");
        assert_eq!(postponed("no room", &keys, at(1_799_999_999)), ends);
        assert_eq!(postponed("no room", &keys, at(1_800_000_000)), begins);
    }
}
