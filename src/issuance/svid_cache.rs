//! The cache of shared SVIDs: one per entry, with one renewal at a time. Does not know how an SVID is signed, or who shares
//! it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use tokio::sync::watch;

use crate::authority::KeyId;
use crate::identity::SpiffeId;
use crate::identity::X509Svid;
use crate::issuance::entry_key::EntriesInForce;
use crate::issuance::entry_key::EntryKey;
use crate::issuance::issuance::Issuance;
use crate::issuance::issue_error::IssueError;
use crate::issuance::renewal;
use crate::policy::Grant;

/// The key of an SVID: an entry and the SPIFFE ID that it gives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct SvidKey {
    pub(super) entry: EntryKey,
    pub(super) id: SpiffeId,
}

/// A signed SVID with its issuance and its renewal time.
#[derive(Debug, Clone)]
pub(super) struct SignedSvid {
    pub(super) issuance: Arc<Issuance>,
    pub(super) svid: X509Svid,
    pub(super) renew_at: SystemTime,
}

/// An SVID that several callers hold.
#[derive(Debug)]
pub(super) struct SharedSvid {
    pub(super) signed: SignedSvid,
    handed_over: AtomicBool,
}

/// What decides whether an SVID may be handed out.
#[derive(Debug)]
pub(super) struct Circumstances {
    pub(super) now: SystemTime,
    /// The keys of the authority that may have leaked: nothing that they signed is handed out.
    pub(super) tainted: Arc<Vec<KeyId>>,
}

/// The result of a renewal; `None` until it ends.
pub(super) type Renewed = Option<Result<Arc<SharedSvid>, IssueError>>;

/// The next step of a caller that wants an SVID.
#[derive(Debug)]
pub(super) enum Next {
    /// Take this SVID. It is due at that time.
    Take(Arc<SharedSvid>, SystemTime),
    /// Wait for the renewal that another caller began.
    Await(watch::Receiver<Renewed>),
    /// Renew it.
    Renew(Renewal),
}

/// The right to renew one SVID. Only one exists at a time; after it is dropped, the next caller gets one.
#[derive(Debug)]
pub(super) struct Renewal {
    key: SvidKey,
    slots: Slots,
    done: watch::Sender<Renewed>,
}

type Slots = Arc<Mutex<HashMap<SvidKey, Slot>>>;

/// SVIDs by their entries, for all who share them.
///
/// INVARIANT: its keys are entries of the current rulebook, which bounds its size.
#[derive(Debug, Default)]
pub(super) struct SvidCache {
    slots: Slots,
}

#[derive(Debug, Default)]
struct Slot {
    held: Option<Arc<SharedSvid>>,
    renewal: Option<watch::Receiver<Renewed>>,
    /// Renewals that failed in a row.
    failures: u32,
    /// The time from the last failure to the next try.
    pause: Option<Range<SystemTime>>,
}

impl SharedSvid {
    /// Notes a hand-over. Returns whether it is the first.
    pub(super) fn hand_over(&self) -> bool {
        !self.handed_over.swap(true, Ordering::Relaxed)
    }
}

impl SvidCache {
    /// The SVID and when it is due, if no renewal is due now.
    pub(super) fn current(&self, key: &SvidKey, at: &Circumstances) -> Option<(Arc<SharedSvid>, SystemTime)> {
        self.slots().get(key)?.current(at)
    }

    /// The SVID, if it has not ended.
    pub(super) fn servable(&self, key: &SvidKey, at: &Circumstances) -> Option<Arc<SharedSvid>> {
        self.slots().get(key)?.servable(at).cloned()
    }

    /// The next step of a caller, if its entry is still in force.
    ///
    /// RACE: `in_force` runs under the lock that [`Self::retain`] takes after the rulebook was replaced, so a dropped entry
    /// is not added again.
    pub(super) fn next(
        &self,
        key: &SvidKey,
        at: &Circumstances,
        in_force: impl FnOnce() -> Result<(), IssueError>,
    ) -> Result<Next, IssueError> {
        let mut slots = self.slots();
        in_force()?;
        let slot = slots.entry(key.clone()).or_default();
        if let Some((svid, due)) = slot.current(at) {
            return Ok(Next::Take(svid, due));
        }
        if let Some(underway) = slot.underway() {
            return Ok(Next::Await(underway.clone()));
        }
        let (done, underway) = watch::channel(None);
        slot.renewal = Some(underway);
        Ok(Next::Renew(Renewal { key: key.clone(), slots: Arc::clone(&self.slots), done }))
    }

    /// Drops the SVIDs of other entries.
    pub(super) fn retain(&self, in_force: &EntriesInForce) {
        self.slots().retain(|key, _| in_force.0.contains(&key.entry));
    }

    /// Drops expired SVIDs that no caller renews.
    pub(super) fn drop_ended(&self, now: SystemTime) {
        self.slots().retain(|_, slot| slot.underway().is_some() || slot.has_not_ended(now));
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<SvidKey, Slot>> {
        lock(&self.slots)
    }
}

impl Renewal {
    /// Receives the result.
    pub(super) fn subscribe(&self) -> watch::Receiver<Renewed> {
        self.done.subscribe()
    }

    /// Stores the result and wakes the callers that wait. After a failure the earlier SVID stays until its own end, and
    /// `spread` in `0.0 ..= 1.0` scatters the next try. Returns whether the earlier SVID is served.
    pub(super) fn finish(self, signed: Result<SignedSvid, IssueError>, now: SystemTime, spread: f64) -> bool {
        let renewed = signed.map(|signed| Arc::new(SharedSvid { signed, handed_over: AtomicBool::new(false) }));
        let mut slots = lock(&self.slots);
        let mut served = false;
        // The slot is missing, or another's, if the entry or the SVID was dropped meanwhile.
        if let Some(slot) = slots.get_mut(&self.key).filter(|slot| self.is_of(slot)) {
            match &renewed {
                Ok(svid) => *slot = Slot { held: Some(Arc::clone(svid)), ..Slot::default() },
                Err(_) => served = slot.failed(now, spread),
            }
            if slot.held.is_none() {
                slots.remove(&self.key);
            }
        }
        drop(slots);
        self.done.send_replace(Some(renewed));
        served
    }

    /// Whether a slot waits for this renewal, and not for one that began after the slot was dropped and made anew.
    fn is_of(&self, slot: &Slot) -> bool {
        slot.renewal.as_ref().is_some_and(|renewal| renewal.same_channel(&self.done.subscribe()))
    }

    /// Wakes the callers that wait with the reason why nothing was signed. Each decides for itself when it tries again, and
    /// the earlier SVID stays until its own end.
    pub(super) fn fail(self, why: IssueError) {
        let mut slots = lock(&self.slots);
        if let Some(slot) = slots.get_mut(&self.key).filter(|slot| self.is_of(slot)) {
            slot.renewal = None;
            if slot.held.is_none() {
                slots.remove(&self.key);
            }
        }
        drop(slots);
        self.done.send_replace(Some(Err(why)));
    }
}

impl SvidKey {
    pub(super) fn of(grant: &Grant) -> Self {
        Self { entry: EntryKey(Arc::clone(&grant.entry)), id: grant.id.clone() }
    }
}

fn lock(slots: &Slots) -> MutexGuard<'_, HashMap<SvidKey, Slot>> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slot {
    fn servable(&self, at: &Circumstances) -> Option<&Arc<SharedSvid>> {
        let is_servable = |held: &&Arc<SharedSvid>| {
            renewal::is_servable(held.signed.svid.not_after, at.now) && !held.signed.issuance.is_of(&at.tainted)
        };
        self.held.as_ref().filter(is_servable)
    }

    fn has_not_ended(&self, now: SystemTime) -> bool {
        self.held.as_ref().is_some_and(|held| renewal::is_servable(held.signed.svid.not_after, now))
    }

    /// A pause that begins in the future is ignored: the clock was set back after it was measured.
    fn current(&self, at: &Circumstances) -> Option<(Arc<SharedSvid>, SystemTime)> {
        let (held, now) = (self.servable(at)?, at.now);
        let due = match &self.pause {
            Some(pause) if pause.contains(&now) => pause.end,
            _ if renewal::has_begun(held.signed.svid.issued, now) => held.signed.renew_at,
            _ => return None,
        };
        (now < due).then(|| (Arc::clone(held), due))
    }

    /// The current renewal; `None` if it was dropped before it ended.
    fn underway(&self) -> Option<&watch::Receiver<Renewed>> {
        self.renewal.as_ref().filter(|renewal| renewal.has_changed().is_ok())
    }

    /// Notes a failure. Returns whether the earlier SVID is served.
    fn failed(&mut self, now: SystemTime, spread: f64) -> bool {
        self.renewal = None;
        let held = self.held.as_ref().filter(|_| self.has_not_ended(now));
        let Some(not_after) = held.map(|held| held.signed.svid.not_after) else {
            self.held = None;
            return false;
        };
        self.failures = self.failures.saturating_add(1);
        self.pause = Some(now..renewal::retry_at(now, not_after, self.failures, spread));
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;
    use crate::authority::Refused;
    use crate::identity::PrivateKey;
    use crate::issuance::CredentialKind;
    use crate::issuance::IssuanceId;
    use crate::policy::DecisionId;
    use crate::registration::Entry;
    use crate::registration::EntryIndex;

    const LIFE: Duration = Duration::from_secs(600);
    const HALF: Duration = Duration::from_secs(300);

    fn at(now: SystemTime) -> Circumstances {
        Circumstances { now, tainted: Arc::default() }
    }

    fn key() -> SvidKey {
        let entry = Entry::example(0, "/web", &["unix:uid:1"]);
        SvidKey { id: entry.id.clone(), entry: EntryKey(Arc::new(entry)) }
    }

    fn signed(number: u8, issued: SystemTime) -> SignedSvid {
        let (SvidKey { id, entry }, not_after) = (key(), issued + LIFE);
        let issuance = Issuance {
            id: IssuanceId([number; 6]),
            kind: CredentialKind::X509,
            spiffe_id: id.clone(),
            serial: number.to_string(),
            signed_by: Some(KeyId(number.into())),
            not_after,
            entry: entry.0.origin.clone(),
            decision: DecisionId([0; 6]),
        };
        let (chain, key, serial) = (Vec::new(), Arc::new(PrivateKey::from_pkcs8(Vec::new())), number.to_string());
        let svid = X509Svid { id, chain, key, hint: None, serial, issued, not_after };
        SignedSvid { issuance: Arc::new(issuance), svid, renew_at: issued + HALF }
    }

    fn refused() -> Result<SignedSvid, IssueError> {
        Err(Refused::Unavailable("down".to_owned()).into())
    }

    fn renewal_of(cache: &SvidCache, now: SystemTime) -> Renewal {
        match cache.next(&key(), &at(now), || Ok(())).unwrap() {
            Next::Renew(renewal) => renewal,
            next => panic!("{next:?}"),
        }
    }

    #[test]
    fn a_renewal_that_was_dropped_lets_the_next_caller_begin() {
        let cache = SvidCache::default();
        drop(renewal_of(&cache, UNIX_EPOCH));
        let second = renewal_of(&cache, UNIX_EPOCH);
        assert!(matches!(cache.next(&key(), &at(UNIX_EPOCH), || Ok(())), Ok(Next::Await(_))));
        second.finish(Ok(signed(1, UNIX_EPOCH)), UNIX_EPOCH, 0.5);
        assert!(
            matches!(cache.next(&key(), &at(UNIX_EPOCH), || Ok(())), Ok(Next::Take(_, due)) if due == UNIX_EPOCH + HALF)
        );
    }

    #[test]
    fn nothing_is_kept_of_an_entry_whose_svid_has_ended_or_was_never_signed() {
        let cache = SvidCache::default();
        renewal_of(&cache, UNIX_EPOCH).finish(refused(), UNIX_EPOCH, 0.5);
        assert!(cache.slots().is_empty());
        renewal_of(&cache, UNIX_EPOCH).finish(Ok(signed(1, UNIX_EPOCH)), UNIX_EPOCH, 0.5);
        cache.drop_ended(UNIX_EPOCH + HALF);
        assert_eq!(cache.slots().len(), 1);
        let underway = renewal_of(&cache, UNIX_EPOCH + HALF);
        cache.drop_ended(UNIX_EPOCH + LIFE);
        assert_eq!(cache.slots().len(), 1, "it is being renewed");
        underway.finish(refused(), UNIX_EPOCH + LIFE, 0.5);
        assert!(cache.slots().is_empty());
        renewal_of(&cache, UNIX_EPOCH).finish(Ok(signed(1, UNIX_EPOCH)), UNIX_EPOCH, 0.5);
        cache.drop_ended(UNIX_EPOCH + LIFE);
        assert!(cache.slots().is_empty(), "nobody asked for it any more");
    }

    #[test]
    fn a_pause_that_a_clock_measured_before_it_was_set_back_is_over() {
        let (cache, late) = (SvidCache::default(), UNIX_EPOCH + LIFE);
        renewal_of(&cache, UNIX_EPOCH).finish(Ok(signed(1, late - HALF - Duration::from_secs(1))), UNIX_EPOCH, 0.5);
        assert!(renewal_of(&cache, late).finish(refused(), late, 0.5), "the earlier one is served");
        assert!(
            matches!(cache.next(&key(), &at(late), || Ok(())), Ok(Next::Take(_, due)) if due == late + Duration::from_secs(1))
        );
        let set_back = late - Duration::from_secs(1);
        assert!(matches!(cache.next(&key(), &at(set_back), || Ok(())), Ok(Next::Renew(_))));
    }

    #[test]
    fn an_entry_that_is_not_in_force_any_more_does_not_come_back() {
        let cache = SvidCache::default();
        let underway = renewal_of(&cache, UNIX_EPOCH);
        cache.retain(&EntriesInForce::of(&EntryIndex::default()));
        underway.finish(Ok(signed(1, UNIX_EPOCH)), UNIX_EPOCH, 0.5);
        assert!(cache.next(&key(), &at(UNIX_EPOCH), || Err(IssueError::StalePermit)).is_err());
        assert!(cache.slots().is_empty());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Ask,
        Pass(u64),
        SetBack(u64),
        Finish { signs: bool },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => Just(Step::Ask),
            3 => (0_u64..200).prop_map(Step::Pass),
            1 => (0_u64..200).prop_map(Step::SetBack),
            3 => any::<bool>().prop_map(|signs| Step::Finish { signs }),
        ];
        prop::collection::vec(step, 0..80)
    }

    proptest! {
        #[test]
        fn a_caller_gets_the_latest_svid_and_at_most_one_renewal_is_underway(steps in steps()) {
            let cache = SvidCache::default();
            let (mut now, mut number, mut last_failure) = (UNIX_EPOCH + 100 * LIFE, 0, None);
            let mut underway: Option<Renewal> = None;
            for step in steps {
                match step {
                    Step::Pass(seconds) => now += Duration::from_secs(seconds),
                    Step::SetBack(seconds) => {
                        now -= Duration::from_secs(seconds);
                        last_failure = None;
                    }
                    Step::Finish { signs } => if let Some(renewal) = underway.take() {
                        number += u8::from(signs);
                        let served = renewal.finish(if signs { Ok(signed(number, now)) } else { refused() }, now, 0.0);
                        last_failure = Some(now).filter(|_| served);
                    },
                    Step::Ask => match cache.next(&key(), &at(now), || Ok(())).unwrap() {
                        Next::Take(svid, due) => {
                            prop_assert_eq!(&svid.signed.svid.serial, &number.to_string());
                            prop_assert!(now < svid.signed.svid.not_after && now < due);
                        }
                        Next::Await(_) => prop_assert!(underway.is_some()),
                        Next::Renew(renewal) => {
                            prop_assert!(underway.is_none());
                            let sooner = |failure| now < failure + Duration::from_secs(1);
                            prop_assert!(!last_failure.is_some_and(sooner));
                            underway = Some(renewal);
                        }
                    },
                }
            }
        }
    }
}
