//! One process image: the check that it still is what something was decided for, made at once before a secret leaves, and
//! shared by all streams that only wait; and the latest decision about it.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use crate::attestation::Epoch;
use crate::attestation::NotAttested;
use crate::attestation::PinnedProcess;
use crate::evidence::EpochParts;
use crate::issuance::ImageSvids;
use crate::policy::Decision;

/// A process that became another one is noticed at the latest after this time, whether or not anything is due for it
/// (SPEC: product contract §5, rule 8).
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// A waiting stream uses the result of another stream's check up to this age.
const CHECK_TTL: Duration = Duration::from_secs(8);

/// A decision that is no denial, and on which no source can change its answer, is used again up to this age. Every hand-over
/// checks what it rests on.
const DECISION_TTL: Duration = Duration::from_secs(1);

/// So long a decision says which bundles somebody may have tokens validated by.
const VALIDATION_TTL: Duration = Duration::from_secs(8);

/// A pinned process, the latest liveness check of it and decision about it, and its SVIDs.
#[derive(Debug)]
pub(in crate::entitlement) struct CheckedProcess {
    pub(in crate::entitlement) pinned: PinnedProcess,
    pub(in crate::entitlement) svids: ImageSvids,
    latest: Mutex<Option<LivenessCheck>>,
    decided: Mutex<Option<Standing>>,
}

/// A decision about the process as it was attested.
#[derive(Debug, Clone)]
pub(in crate::entitlement) struct Standing {
    pub(in crate::entitlement) decision: Arc<Decision>,
    pub(in crate::entitlement) epoch: Epoch,
    at: Instant,
}

impl Standing {
    /// A decision that was made now.
    pub(in crate::entitlement) fn new(decision: Decision, epoch: Epoch) -> Self {
        Self { decision: Arc::new(decision), epoch, at: Instant::now() }
    }
}

#[derive(Debug)]
struct LivenessCheck {
    at: Instant,
    /// The process as it was attested, and what of it was checked.
    of: (Epoch, EpochParts),
    result: Result<(), NotAttested>,
}

impl LivenessCheck {
    fn covers(&self, epoch: &Epoch, rests_on: EpochParts) -> bool {
        self.of.0 == *epoch && self.of.1.contains_all(rests_on)
    }
}

impl CheckedProcess {
    pub(in crate::entitlement) fn new(pinned: PinnedProcess) -> Self {
        Self { pinned, svids: ImageSvids::default(), latest: Mutex::default(), decided: Mutex::default() }
    }

    /// Proves now that what something was decided on is as it was.
    pub(in crate::entitlement) fn check_now(&self, epoch: &Epoch, rests_on: EpochParts) -> Result<(), NotAttested> {
        let result = self.pinned.unchanged(epoch, rests_on);
        if result.is_err() {
            self.decide_anew();
        }
        *self.latest() = Some(LivenessCheck { at: Instant::now(), of: (*epoch, rests_on), result });
        result
    }

    /// Notes an attestation that began at `at`, which is a check of everything. Returns whether no later check says otherwise.
    ///
    /// A process that leaves a cgroup and comes back would else be decided again without end by all who share the check that
    /// missed it, until that is too old.
    pub(in crate::entitlement) fn attested(&self, epoch: &Epoch, at: Instant) -> bool {
        let mut latest = self.latest();
        let is_latest = latest.as_ref().is_none_or(|check| check.at <= at);
        if is_latest {
            *latest = Some(LivenessCheck { at, of: (*epoch, EpochParts::ALL), result: Ok(()) });
        }
        is_latest
    }

    /// The result of a check that is at most [`CHECK_TTL`] old.
    ///
    /// INVARIANT: CHECK_TTL < CHECK_INTERVAL, and a stream waits at most CHECK_INTERVAL from the check whose result it
    /// used last. So each stream learns of a change within CHECK_INTERVAL.
    pub(in crate::entitlement) fn check_shared(&self, epoch: &Epoch, rests_on: EpochParts) -> Result<(), NotAttested> {
        let recent = |check: &&LivenessCheck| check.covers(epoch, rests_on) && check.at.elapsed() < CHECK_TTL;
        let shared = self.latest().as_ref().filter(recent).map(|check| check.result);
        shared.unwrap_or_else(|| self.check_now(epoch, rests_on))
    }

    /// How long a stream may wait for its next check; `spread` in `0.0 ..= 1.0` draws connections apart.
    pub(in crate::entitlement) fn next_check_in(&self, epoch: &Epoch, rests_on: EpochParts, spread: f64) -> Duration {
        let wait = CHECK_TTL + (CHECK_INTERVAL - CHECK_TTL).mul_f64(spread);
        match self.latest().as_ref().filter(|check| check.covers(epoch, rests_on)) {
            Some(LivenessCheck { result: Err(NotAttested::No(_)), .. }) => Duration::ZERO,
            Some(check) => wait.saturating_sub(check.at.elapsed()),
            None => wait,
        }
    }

    /// The latest decision, for whoever is handed something by it, where it was made by this rulebook and is not too old.
    pub(in crate::entitlement) fn standing(&self, rulebook_epoch: u64) -> Option<Standing> {
        self.decided_within(DECISION_TTL, rulebook_epoch)
    }

    /// The latest decision, for whoever has a token validated and is handed nothing: only which bundles he may see follows
    /// from it.
    pub(in crate::entitlement) fn standing_for_validation(&self, rulebook_epoch: u64) -> Option<Standing> {
        self.decided_within(VALIDATION_TTL, rulebook_epoch)
    }

    fn decided_within(&self, ttl: Duration, rulebook_epoch: u64) -> Option<Standing> {
        let decided = self.decided();
        let stands = |standing: &&Standing| {
            standing.decision.trace.rulebook_epoch == rulebook_epoch && standing.at.elapsed() < ttl
        };
        decided.as_ref().filter(stands).cloned()
    }

    /// Keeps a decision for those who ask next.
    pub(in crate::entitlement) fn stands(&self, standing: Standing) {
        *self.decided() = Some(standing);
    }

    /// Whoever asks next is attested and decided again.
    pub(in crate::entitlement) fn decide_anew(&self) {
        *self.decided() = None;
    }

    fn decided(&self) -> MutexGuard<'_, Option<Standing>> {
        self.decided.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn latest(&self) -> MutexGuard<'_, Option<LivenessCheck>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
