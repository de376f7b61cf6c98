//! The owner of the authority's state: takes keys from stage to stage, on disk first and in memory then.
//!
//! RACE: a step is durable before it is known to anybody. Whether a store that failed has changed the disk is not known; a
//! step is such that a start on either side of it serves nothing that was not so: a key is in the bundle on both sides of
//! its first use and of its retirement, and the sequence number of an unfinished step was shown to nobody.

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use crate::authority::NoAuthority;
use crate::authority::RELEASE_DATE;
use crate::authority::Served;
use crate::authority::embedded::rotation;
use crate::authority::embedded::rotation::ASKED_LEAD;
use crate::authority::embedded::rotation::KeysOfKind;
use crate::authority::embedded::rotation::NextKey;
use crate::authority::embedded::rotation::RotationStep;
use crate::authority::embedded::rotation::TAINTED_LEAD;
use crate::authority::embedded::rotation::TAINTED_STAY;
use crate::authority::embedded::state::AuthorityKey;
use crate::authority::embedded::state::AuthorityState;
use crate::authority::embedded::state::PublicPart;
use crate::authority::embedded::usage::Retiring;
use crate::authority::embedded::usage::Signed;
use crate::authority::keys::KeyKind;
use crate::authority::keys::KeyStatus;
use crate::authority::keys::NotRotated;
use crate::authority::keys::RotationOrder;
use crate::authority::keys::Stage;
use crate::authority::signing::life::seconds;
use crate::durable::DataDir;
use crate::durable::Name;
use crate::identity::Bundle;
use crate::identity::TrustDomain;
use crate::time::Moment;
use crate::time::date::rfc3339;

/// How long after a failure a step is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// So many keys of one kind are kept at the most: each is in the bundle that every workload holds.
const MOST_KEYS: usize = 16;

/// The state with what is known of it in this process alone.
#[derive(Debug)]
pub(super) struct Keeper {
    state: AuthorityState,
    trust_domain: TrustDomain,
    data_dir: Option<Arc<DataDir>>,
    /// Tainted keys that sign no more and are in the bundle still. After a start nobody holds what they signed.
    leaving: Vec<AuthorityKey>,
    /// Keys that were retired, and whose last signature was not finished.
    retiring: Vec<Retiring>,
    /// When the active key of each kind was first used, or read.
    witnessed: [Moment; 2],
    /// Why the step that is due was not taken, and when it is tried again.
    failed: Option<(String, Duration)>,
}

impl Keeper {
    /// Of a state that is durable by now.
    pub(super) fn new(
        mut state: AuthorityState,
        trust_domain: TrustDomain,
        data_dir: Option<Arc<DataDir>>,
        now: Moment,
    ) -> Self {
        let ends = KeyKind::ALL.map(|kind| state.active(kind).map(|key| (kind, key.life.not_after)));
        for key in &mut state.keys {
            let end = ends.into_iter().flatten().find(|(kind, ..)| *kind == key.kind());
            let wait = match key.stage {
                Stage::Published => {
                    let lead = rotation::plan(key.made, key.life.not_after).lead;
                    let left = key.used_from.map_or(lead, |at| at.duration_since(now.wall).unwrap_or_default());
                    let anew = end.map(|(_, end)| rotation::lead_after_start(end, now.wall));
                    let wait = left.min(lead).max(anew.unwrap_or_default());
                    key.used_from = key.used_from.max(Some(now.wall + wait));
                    wait
                }
                Stage::Retired => key.may_have_signed().longest,
                Stage::Prepared | Stage::Active => Duration::ZERO,
            };
            key.waits_until = now.since_boot.saturating_add(wait);
        }
        let (leaving, retiring) = (Vec::new(), Vec::new());
        Self { state, trust_domain, data_dir, leaving, retiring, witnessed: [now; 2], failed: None }
    }

    /// The key of a kind that signs.
    pub(super) fn active(&self, kind: KeyKind) -> Option<&AuthorityKey> {
        self.state.active(kind)
    }

    /// When the active key of each kind was made.
    pub(super) fn made(&self) -> [SystemTime; 2] {
        KeyKind::ALL.map(|kind| self.state.active(kind).map_or(SystemTime::UNIX_EPOCH + RELEASE_DATE, |key| key.made))
    }

    /// The first step that is due, and of which kind.
    pub(super) fn due(&self, now: Moment, served: Served) -> Option<(KeyKind, RotationStep)> {
        KeyKind::ALL.into_iter().find_map(|kind| Some((kind, rotation::due(&self.standing(kind, now, served)?, now)?)))
    }

    /// Whether there is anything to do now.
    pub(super) fn is_due(&self, now: Moment, served: Served) -> bool {
        !self.leaving.is_empty()
            || self.lead_begins(served)
            || self.may_try(now) && (!self.retiring.is_empty() || self.due(now, served).is_some())
    }

    fn lead_begins(&self, served: Served) -> bool {
        served.sequence == Some(self.state.sequence) && self.state.keys.iter().any(|key| key.lead.is_some())
    }

    /// Counts the leads of published keys from now on, where those who are served have their bundle: a slow disk makes no
    /// lead shorter.
    pub(super) fn begin_leads(&mut self, now: Moment, served: Served) {
        if self.lead_begins(served) {
            for key in &mut self.state.keys {
                if let Some(lead) = key.lead.take() {
                    key.waits_until = now.since_boot.saturating_add(lead);
                }
            }
        }
    }

    /// Whether enough time has passed since a step failed.
    pub(super) fn may_try(&self, now: Moment) -> bool {
        self.failed.as_ref().is_none_or(|(_, again)| now.since_boot >= *again)
    }

    /// Notes what came of the steps that were due.
    pub(super) fn tried(&mut self, tried: Result<(), NoAuthority>, now: Moment) {
        self.failed = tried.err().map(|why| (why.to_string(), now.since_boot.saturating_add(TRY_AGAIN)));
    }

    /// Why the step that is due was not taken.
    pub(super) fn postponed(&self) -> Option<String> {
        self.failed.as_ref().map(|(why, _)| why.clone())
    }

    fn standing(&self, kind: KeyKind, now: Moment, served: Served) -> Option<KeysOfKind> {
        let active = self.state.active(kind)?;
        let next = self.state.next(kind).map(|next| match next.stage {
            Stage::Published => NextKey::Published {
                life: next.life,
                lead_is_over: now.since_boot >= next.waits_until,
                is_served: served.sequence == Some(self.state.sequence),
            },
            _ => NextKey::Prepared { life: next.life },
        });
        let retired_is_over = self.state.of_kind(kind).any(|key| is_over(key, now));
        let [x509, jwt] = self.witnessed;
        let witnessed = match kind {
            KeyKind::X509 => x509,
            KeyKind::Jwt => jwt,
        };
        Some(KeysOfKind { active: (active.life, active.made), next, retired_is_over, witnessed })
    }

    /// Keeps a new key that nobody knows yet, in place of one that was to follow and is of no use any more.
    pub(super) fn prepare(&mut self, key: AuthorityKey) -> Result<(), NoAuthority> {
        let (mut after, kind) = (self.state.clone(), key.kind());
        let replaced: Vec<_> = after.keys.extract_if(.., |key| is_next(key, kind)).collect();
        after.sequence += u64::from(replaced.iter().any(|key| key.stage == Stage::Published));
        after.keys.push(key);
        self.store(after)
    }

    /// Puts the next key into the bundle. Returns it with the time of its use.
    pub(super) fn publish(&mut self, kind: KeyKind, now: Moment) -> Result<Option<(String, SystemTime)>, NoAuthority> {
        let Some(active) = self.state.active(kind) else { return Ok(None) };
        let plan = rotation::plan(active.made, active.life.not_after);
        let mut after = self.state.clone();
        let Some(key) = after.next_mut(kind) else { return Ok(None) };
        let lead = rotation::lead_before(&plan, &active.life, &key.life, now.wall);
        show(key, lead, now);
        let published = (key.id(), now.wall + lead);
        after.sequence = after_change(after.sequence, now);
        self.store(after)?;
        Ok(Some(published))
    }

    /// Lets the next key sign, and retires the one before; one that is tainted is forgotten with all its kind, needs no disk for
    /// that, and stays in the bundle until it [departs](Self::depart). `retiring` follows what the key before is still signing. Returns the ids of
    /// both.
    pub(super) fn activate(
        &mut self,
        kind: KeyKind,
        retiring: Option<Retiring>,
        now: Moment,
    ) -> Result<Option<(String, String)>, NoAuthority> {
        let mut after = self.state.clone();
        let Some(used) = after.next_mut(kind) else { return Ok(None) };
        (used.stage, used.used_from, used.waits_until, used.lead) = (Stage::Active, None, Duration::ZERO, None);
        let used = used.id();
        let before = after.keys.iter_mut().find(|key| is_active(key, kind) && key.id() != used);
        let before = before.map(|key| {
            key.retire();
            key.id()
        });
        let mut leaving: Vec<_> = after.keys.extract_if(.., |key| key.kind() == kind && key.tainted).collect();
        after.sequence += u64::from(after.refresh_hint() != self.state.refresh_hint());
        for key in &mut leaving {
            key.needed_until = Some(now.wall + TAINTED_STAY);
            key.waits_until = now.since_boot.saturating_add(TAINTED_STAY);
        }
        if leaving.is_empty() {
            self.store(after)?;
            self.retiring.extend(retiring);
        } else {
            // The disk has had it so since they were tainted.
            self.state = after;
            self.leaving.extend(leaving);
        }
        match kind {
            KeyKind::X509 => self.witnessed[0] = now,
            KeyKind::Jwt => self.witnessed[1] = now,
        }
        Ok(Some((used, before.unwrap_or_default())))
    }

    /// Takes the retired keys of a kind out of the bundle that are not needed any more. Returns their ids.
    pub(super) fn withdraw(&mut self, kind: KeyKind, now: Moment) -> Result<Vec<String>, NoAuthority> {
        let mut after = self.state.clone();
        let gone = after.keys.extract_if(.., |key| key.kind() == kind && is_over(key, now));
        let gone: Vec<_> = gone.map(|key| key.id()).collect();
        after.sequence = after_change(after.sequence, now);
        self.store(after)?;
        Ok(gone)
    }

    /// Takes tainted keys out of the bundle once nobody holds what they signed, or after their time. Returns their ids.
    ///
    /// A disk that takes no writes does not keep them in: the number that the bundle has then was stored when they were
    /// tainted.
    pub(super) fn depart(&mut self, now: Moment, served: Served) -> Vec<String> {
        let is_served = served.sequence == Some(self.state.sequence) && !served.holds_tainted;
        let departs = |key: &mut AuthorityKey| is_served || now.since_boot >= key.waits_until;
        let gone: Vec<_> = self.leaving.extract_if(.., departs).map(|key| key.id()).collect();
        self.state.sequence += u64::from(!gone.is_empty());
        gone
    }

    /// Notes of retired keys when the last thing they signed ends, once that is known.
    pub(super) fn settle(&mut self, now: Moment) -> Result<(), NoAuthority> {
        let known: Vec<_> = self.retiring.iter().filter_map(|key| Some((key.id.clone(), key.signed()?))).collect();
        if known.is_empty() {
            return Ok(());
        }
        let mut after = self.state.clone();
        for (id, Signed { until, longest }) in &known {
            let retired = after.keys.iter_mut().filter(|key| key.stage == Stage::Retired);
            for key in retired.filter(|key| key.id() == *id) {
                key.needed_until = Some((*until).min(key.life.not_after));
                key.waits_until = now.since_boot.saturating_add(*longest);
            }
        }
        self.store(after)?;
        self.retiring.retain(|key| !known.iter().any(|(id, _)| *id == key.id));
        Ok(())
    }

    /// Publishes new keys because an operator asked, in one step for all kinds. `make` makes a key of a kind.
    pub(super) fn rotate(
        &mut self,
        order: RotationOrder,
        now: Moment,
        make: impl Fn(KeyKind) -> Result<AuthorityKey, NoAuthority>,
    ) -> Result<(), NotRotated> {
        let mut after = self.state.clone();
        for kind in order.kinds() {
            let is_of_use = |key: &AuthorityKey| !order.taint && rotation::signs(&key.life, now.wall);
            after.keys.retain(|key| !is_next(key, kind) || is_of_use(key));
            if order.taint {
                // However many they are: all of them are forgotten when the next one is used.
                after.keys.iter_mut().filter(|key| key.kind() == kind).for_each(|key| key.tainted = true);
            } else {
                too_many(&after, kind)?;
            }
            if after.next(kind).is_none() {
                after.keys.push(make(kind).map_err(|why| NotRotated::NotMade(why.to_string()))?);
            }
            let lead = if order.taint { TAINTED_LEAD } else { ASKED_LEAD };
            if let Some(key) = after.next_mut(kind) {
                show(key, lead, now);
            }
        }
        after.sequence = after_change(after.sequence, now);
        self.store(after).map_err(|why| NotRotated::NotKept(why.to_string()))
    }

    fn store(&mut self, after: AuthorityState) -> Result<(), NoAuthority> {
        if let Some(data_dir) = &self.data_dir {
            let kept = after.to_be_kept();
            // Each departure takes a number without a disk, and so does each first use.
            let leaves = self.leaving.len() + after.keys.iter().filter(|key| key.tainted).count();
            let reserved = (leaves + KeyKind::ALL.len()) as u64;
            data_dir.store(Name::Authority, &kept.to_bytes(&self.trust_domain, reserved)?)?;
        }
        self.state = after;
        Ok(())
    }

    /// What verifies everything that the keys have signed or are about to sign.
    pub(super) fn bundle(&self) -> Bundle {
        let mut bundle = Bundle::empty(self.trust_domain.clone());
        let shown = self.state.keys.iter().filter(|key| key.stage != Stage::Prepared);
        for key in self.leaving.iter().chain(shown) {
            match &key.public {
                PublicPart::X509(own) => bundle.x509_authorities.push(own.der.clone()),
                PublicPart::Jwt { authority, .. } => bundle.jwt_authorities.push(authority.clone()),
            }
        }
        bundle.refresh_hint = self.state.refresh_hint().map(|hint| hint.as_secs());
        bundle.sequence = Some(self.state.sequence);
        bundle
    }

    /// The X.509 keys that may have leaked and are not used any more.
    pub(super) fn leaving_x509(&self) -> impl Iterator<Item = &AuthorityKey> {
        self.leaving.iter().filter(|key| key.kind() == KeyKind::X509)
    }

    /// All keys, those of X.509 first.
    pub(super) fn statuses(&self) -> Vec<KeyStatus> {
        let of_kind = |kind| self.leaving.iter().filter(move |key| key.kind() == kind).chain(self.state.of_kind(kind));
        KeyKind::ALL.into_iter().flat_map(|kind| of_kind(kind).map(move |key| self.status(kind, key))).collect()
    }

    fn status(&self, kind: KeyKind, key: &AuthorityKey) -> KeyStatus {
        let plan = self.state.active(kind).map(|active| rotation::plan(active.made, active.life.not_after));
        let used_from = self.state.next(kind).and_then(|next| next.used_from);
        let next_stage_at = match key.stage {
            Stage::Prepared => plan.map(|plan| plan.publish_at),
            Stage::Published => key.used_from,
            Stage::Active => used_from.or(plan.map(|plan| plan.use_at)),
            // A tainted key goes a minute after it signs no more, whatever it signed.
            Stage::Retired if key.tainted => used_from.map(|at| at + TAINTED_STAY).or(key.needed_until),
            Stage::Retired => key.needed_until,
        };
        let (made, not_after, tainted, tokens) = (key.made, key.life.not_after, key.tainted, 0);
        let next_stage_at = next_stage_at.unwrap_or(not_after);
        KeyStatus { kind, id: key.id(), stage: key.stage, tainted, made, not_after, next_stage_at, tokens }
    }
}

/// Puts a key into the bundle, to be used after a lead; one that is in there already is used at the earlier time.
fn show(key: &mut AuthorityKey, lead: Duration, now: Moment) {
    let at = now.wall + lead;
    if key.stage == Stage::Published && key.lead.is_none() {
        key.waits_until = key.waits_until.min(now.since_boot.saturating_add(lead));
    } else {
        (key.waits_until, key.lead) = (Duration::MAX, Some(key.lead.map_or(lead, |before| before.min(lead))));
    }
    key.used_from = Some(key.used_from.map_or(at, |before| before.min(at)));
    key.stage = Stage::Published;
}

fn is_next(key: &AuthorityKey, kind: KeyKind) -> bool {
    key.kind() == kind && matches!(key.stage, Stage::Prepared | Stage::Published)
}

fn is_active(key: &AuthorityKey, kind: KeyKind) -> bool {
    key.kind() == kind && key.stage == Stage::Active
}

/// Whether the last thing that a retired key signed has ended, by both clocks.
fn is_over(key: &AuthorityKey, now: Moment) -> bool {
    let by_the_wall = key.needed_until.is_none_or(|until| until <= now.wall);
    key.stage == Stage::Retired && by_the_wall && key.waits_until <= now.since_boot
}

fn too_many(state: &AuthorityState, kind: KeyKind) -> Result<(), NotRotated> {
    let count = state.of_kind(kind).count();
    let first = state.of_kind(kind).filter_map(|key| key.needed_until).min();
    match first.filter(|_| count >= MOST_KEYS) {
        None => Ok(()),
        Some(first) => Err(NotRotated::TooManyKeys { kind, count, first: rfc3339(first) }),
    }
}

/// The sequence number of a changed bundle: at least the clock's seconds, which is ahead of any that changes came to one by
/// one. So a bundle that changes after an older copy of the state was restored is newer than those from before.
fn after_change(sequence: u64, now: Moment) -> u64 {
    sequence.saturating_add(1).max(seconds(now.wall))
}
