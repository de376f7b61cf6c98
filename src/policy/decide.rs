//! The decision: evidence, entries and rules in; permits, a denial or awaited providers out.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;
use serde::Serialize;

use crate::attestation::Attested;
use crate::attestation::Contradiction;
use crate::evidence::Answer;
use crate::evidence::Credentials;
use crate::evidence::EpochParts;
use crate::evidence::EvidenceSet;
use crate::evidence::Level;
use crate::evidence::Providers;
use crate::evidence::Selector;
use crate::identity::SpiffeId;
use crate::policy::decision_id::DecisionId;
use crate::policy::rulebook::Rulebook;
use crate::registration::Entry;
use crate::registration::entry::Origin;

/// The most entries without a match that a trace keeps. Every live stream keeps a trace, so it must stay small;
/// `explain` compares all entries.
pub(in crate::policy) const MAX_MISSES: usize = 32;

/// The permission to issue one identity to one process under one rulebook. Not `Clone`: the issuer consumes it.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    grant: Grant,
    rulebook_epoch: u64,
    decision: DecisionId,
}

/// One granted identity: the content of a [`Permit`], without the permission to issue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The SPIFFE ID.
    pub id: SpiffeId,
    /// The entry that grants it.
    pub entry: Arc<Entry>,
    /// The hint; `None` where an earlier identity of the same process has the same one.
    pub hint: Option<String>,
}

/// An identity that providers without an answer could still give, or give before another one that comes before it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenGrant {
    /// The SPIFFE ID.
    pub id: SpiffeId,
    /// The open providers whose facts its entry lacks; never empty.
    pub awaits: Providers,
    /// The number of grants that precede it; with 0 it would be the default identity.
    pub place: usize,
    /// What the facts that its entry names rest on.
    pub rests_on: EpochParts,
}

/// Why a caller is denied: the check was completed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Denial {
    /// No entry matches: of each, at least one selector does not hold, or the entry was set aside.
    #[error("no entry matches")]
    NoEntry,
    /// The process is pinned at a lower level than `[attest] minimum`.
    #[error("the process is pinned at a lower kernel level than [attest] minimum demands")]
    BelowMinimum,
    /// Attestation refused the caller.
    #[error(transparent)]
    NotAttested(Contradiction),
    /// The caller has identities, but not the requested one.
    #[error("it is not entitled to the SPIFFE ID that it requested")]
    NotThatId,
    /// The caller requested a token for an audience that its entry does not list.
    #[error("its entry does not list the audience {audience:?}")]
    Audience {
        /// The requested audience.
        audience: String,
    },
    /// The caller lost an identity while a secret of it waited to be sent.
    #[error("it lost {id} while a secret of it waited to be sent, so the connection was cut")]
    Withdrawn {
        /// The lost identity.
        id: String,
    },
}

/// A decision and its reasons.
#[derive(Debug)]
pub struct Decision {
    /// Its id, for audit records and `explain`.
    pub id: DecisionId,
    /// The result.
    pub outcome: Outcome,
    /// The identities that open providers could still add, in the order of their entries.
    pub open: Vec<OpenGrant>,
    /// What the facts rest on that its grants need, the open ones included.
    pub rests_on: EpochParts,
    /// Its inputs, and the entries that were compared.
    pub trace: Arc<Trace>,
}

/// The result of a decision.
#[derive(Debug)]
pub enum Outcome {
    /// The permits, default identity first; never empty.
    Permits(Vec<Permit>),
    /// The caller is denied.
    Denied(Denial),
    /// Nothing is permitted yet, and facts of these open providers could change that.
    Awaiting(Providers),
}

/// The result for some evidence under some rulebook, without the permission to issue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The granted identities, default identity first.
    pub grants: Vec<Grant>,
    /// The identities that open providers could still add, in the order of the entries.
    pub open: Vec<OpenGrant>,
    /// Why nothing is granted and nothing is open.
    pub denial: Option<Denial>,
}

/// The inputs of a decision, recorded: deciding again by the same rulebook gives the same verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The credentials of the process.
    pub peer: Credentials,
    /// The level at which the process was pinned.
    pub level: Level,
    /// The evidence about the process, without the groups that no entry can use.
    pub evidence: EvidenceSet,
    /// The time of the decision.
    pub at: SystemTime,
    /// The epoch of the rulebook.
    pub rulebook_epoch: u64,
    /// The number of entries that were compared.
    pub looked_at: usize,
    /// The compared entries, in order: all that match, and the first 32 of the others.
    pub considered: Vec<Considered>,
}

/// One entry that was compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Considered {
    /// Its SPIFFE ID.
    pub id: String,
    /// The origin of the entry.
    pub origin: Origin,
    /// The selectors that do not hold.
    pub lacking: Vec<Selector>,
    /// Why the entry was set aside although all of its selectors hold.
    pub refused: Option<SetAside>,
    /// The earlier entry because of which this one was set aside, or goes without its hint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<Origin>,
    /// What the process goes without because of that entry, as it is written in the configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
}

/// Why an entry was set aside although all of its selectors hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum SetAside {
    /// At the reduced level the process may have run another executable when it connected.
    #[error("it depends on a path or hash, which at the kernel level \"reduced\" counts only with accept_weak = true")]
    ReducedLevel,
    /// An earlier entry grants the SPIFFE ID; a process gets at most one SVID for it.
    #[error("an earlier entry already gives this SPIFFE ID")]
    SameIdEarlier,
}

/// Decides which identities an attested process gets. The permits are valid for that process and this rulebook only.
#[must_use]
pub fn decide(caller: &Attested, rulebook: &Rulebook, id: DecisionId, now: SystemTime) -> Decision {
    let candidates = rulebook.entries().candidates(caller.evidence());
    let compared = compare(caller.level(), caller.evidence(), &candidates, MAX_MISSES);
    let Verdict { grants, open, denial } = conclude(caller.level(), caller.evidence(), rulebook, compared.grants);
    let granted = grants.iter().map(|grant| grant.entry.rests_on());
    let rests_on = granted.chain(open.iter().map(|open| open.rests_on)).fold(EpochParts::default(), EpochParts::union);
    let permit = |grant| Permit { grant, rulebook_epoch: rulebook.epoch(), decision: id };
    let outcome = match denial {
        Some(denial) => Outcome::Denied(denial),
        None if grants.is_empty() => Outcome::Awaiting(open.iter().flat_map(|open| open.awaits.clone()).collect()),
        None => Outcome::Permits(grants.into_iter().map(permit).collect()),
    };
    let trace = Arc::new(Trace {
        peer: caller.peer(),
        level: caller.level(),
        evidence: caller.evidence().to_keep(|gid| rulebook.entries().named_groups().contains(&gid)),
        at: now,
        rulebook_epoch: rulebook.epoch(),
        looked_at: candidates.len(),
        considered: compared.considered,
    });
    Decision { id, outcome, open, rests_on, trace }
}

/// Decides again on recorded evidence. With the same rulebook the verdict is the same.
#[must_use]
pub fn redecide(trace: &Trace, rulebook: &Rulebook) -> Verdict {
    verdict(trace.level, &trace.evidence, rulebook)
}

/// The verdict for some evidence.
pub(in crate::policy) fn verdict(level: Level, evidence: &EvidenceSet, rulebook: &Rulebook) -> Verdict {
    let compared = compare(level, evidence, &rulebook.entries().candidates(evidence), 0);
    conclude(level, evidence, rulebook, compared.grants)
}

/// The result of comparing entries with evidence.
pub(in crate::policy) struct Compared {
    grants: Vec<Grant>,
    pub(in crate::policy) considered: Vec<Considered>,
}

/// Compares `candidates` with the evidence, in order. Records all matches, and the first `max_misses` of the others.
pub(in crate::policy) fn compare(
    level: Level,
    evidence: &EvidenceSet,
    candidates: &[&Arc<Entry>],
    max_misses: usize,
) -> Compared {
    let mut grants: Vec<Grant> = Vec::new();
    let mut considered = Vec::new();
    let mut misses = 0;
    let mut ids: BTreeMap<&SpiffeId, &Entry> = BTreeMap::new();
    let mut hints: BTreeMap<&str, &Entry> = BTreeMap::new();
    for entry in candidates {
        let mut compared = compare_one(entry, level, evidence);
        if compared.matches()
            && let Some(earlier) = first_of(&mut ids, &entry.id, entry)
        {
            compared.refused = Some(SetAside::SameIdEarlier);
            (compared.earlier, compared.lost) = (Some(earlier.origin.clone()), entry.lost_to(earlier));
        }
        if compared.matches() {
            // SPEC: Workload API §5.2.1: hints are unique in a response. The first identity keeps the hint.
            let earlier = entry.hint.as_deref().and_then(|hint| first_of(&mut hints, hint, entry));
            let hint = entry.hint.clone().filter(|_| earlier.is_none());
            if let Some(earlier) = earlier {
                compared.earlier = Some(earlier.origin.clone());
                compared.lost = entry.hint.iter().map(|hint| format!("hint = {hint:?}")).collect();
            }
            grants.push(Grant { id: entry.id.clone(), entry: Arc::clone(entry), hint });
        } else {
            misses += 1;
        }
        if compared.matches() || misses <= max_misses {
            considered.push(compared);
        }
    }
    Compared { grants, considered }
}

/// The entry that had `key` before; the first keeps it.
fn first_of<'a, K: Ord>(first: &mut BTreeMap<K, &'a Entry>, key: K, entry: &'a Entry) -> Option<&'a Entry> {
    match first.entry(key) {
        Slot::Occupied(slot) => Some(slot.get()),
        Slot::Vacant(slot) => {
            slot.insert(entry);
            None
        }
    }
}

/// Compares one entry with the evidence, regardless of other entries.
fn compare_one(entry: &Entry, level: Level, evidence: &EvidenceSet) -> Considered {
    let lacking: Vec<Selector> = entry.selectors.iter().filter(|selector| !evidence.holds(selector)).cloned().collect();
    let refused = (lacking.is_empty() && is_too_weak(entry, level)).then_some(SetAside::ReducedLevel);
    let (id, origin) = (entry.id.to_string(), entry.origin.clone());
    Considered { id, origin, lacking, refused, earlier: None, lost: Vec::new() }
}

/// SECURITY: below Linux 6.5 the pidfd is opened by PID after the accept, and the number can belong to another process of
/// the same user by then. At every level an exec before the accept gives the caller the path and the hash of another
/// program, but not its user (attack 155).
fn is_too_weak(entry: &Entry, level: Level) -> bool {
    level == Level::Reduced && entry.rests_on_executable() && !entry.accept_weak
}

/// The verdict for the grants of the matching entries.
fn conclude(level: Level, evidence: &EvidenceSet, rulebook: &Rulebook, grants: Vec<Grant>) -> Verdict {
    if level < rulebook.rules().minimum {
        return Verdict { denial: Some(Denial::BelowMinimum), ..Verdict::default() };
    }
    let open = open_grants(level, evidence, rulebook, &grants);
    let denial = (grants.is_empty() && open.is_empty()).then_some(Denial::NoEntry);
    Verdict { grants, open, denial }
}

/// The identities that open providers could still add; each once, by its first entry.
fn open_grants(level: Level, evidence: &EvidenceSet, rulebook: &Rulebook, grants: &[Grant]) -> Vec<OpenGrant> {
    let mut open: Vec<OpenGrant> = Vec::new();
    for candidate in rulebook.entries().open(evidence) {
        let entry = candidate.entry;
        let place = grants.iter().filter(|grant| grant.entry.rank() < entry.rank()).count();
        let granted = grants.iter().position(|grant| grant.id == entry.id).is_some_and(|at| at <= place);
        let known = granted || open.iter().any(|open| open.id == entry.id);
        if !known && !is_too_weak(entry, level) {
            let (id, rests_on) = (entry.id.clone(), entry.rests_on());
            open.push(OpenGrant { id, awaits: candidate.awaits, place, rests_on });
        }
    }
    open
}

impl Trace {
    /// How many bytes of the heap it takes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let considered: usize = self.considered.iter().map(Considered::heap_bytes).sum();
        self.evidence.heap_bytes() + self.considered.capacity() * size_of::<Considered>() + considered
    }
}

impl Considered {
    fn heap_bytes(&self) -> usize {
        let origins = [Some(&self.origin), self.earlier.as_ref()].into_iter().flatten().map(Origin::heap_bytes);
        let selectors = self.lacking.capacity() * size_of::<Selector>();
        let lacking: usize = self.lacking.iter().map(Selector::heap_bytes).sum();
        let lost = self.lost.iter().map(|lost| size_of::<String>() + lost.capacity()).sum::<usize>();
        self.id.capacity() + origins.sum::<usize>() + selectors + lacking + lost
    }

    /// Whether the entry matches and was not set aside.
    #[must_use]
    pub fn matches(&self) -> bool {
        self.lacking.is_empty() && self.refused.is_none()
    }
}

impl Permit {
    /// The granted identity.
    #[must_use]
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// The epoch of the rulebook of the decision.
    #[must_use]
    pub fn rulebook_epoch(&self) -> u64 {
        self.rulebook_epoch
    }

    /// The id of the decision.
    #[must_use]
    pub fn decision(&self) -> DecisionId {
        self.decision
    }
}

impl Decision {
    /// The permits of this decision once more; none where it has none. They are refused like the first ones once the
    /// rulebook is another.
    #[must_use]
    pub fn permits(&self) -> Vec<Permit> {
        let Outcome::Permits(permits) = &self.outcome else { return Vec::new() };
        let again = |permit: &Permit| Permit { grant: permit.grant.clone(), ..*permit };
        permits.iter().map(again).collect()
    }

    /// The pending providers that a first answer waits for (SPEC: product contract §5, rule 7).
    ///
    /// Without `wanted` they are those that could change the default identity; where nothing is permitted, all count.
    /// With `wanted` they are those that could add this identity, if it is not permitted yet. A first answer never waits
    /// for an undecided provider.
    #[must_use]
    pub fn worth_waiting_for(&self, wanted: Option<&SpiffeId>) -> Providers {
        let permitted = |id: &SpiffeId| match &self.outcome {
            Outcome::Permits(permits) => permits.iter().any(|permit| permit.grant.id == *id),
            _ => false,
        };
        let counts = |open: &&OpenGrant| match wanted {
            Some(id) => open.id == *id && !permitted(id),
            None => open.place == 0,
        };
        let providers = self.open.iter().filter(counts).flat_map(|open| &open.awaits);
        let pending = |provider: &&_| self.trace.evidence.answer_of(provider) == Some(Answer::Pending);
        providers.filter(pending).cloned().collect()
    }
}

#[cfg(test)]
impl Outcome {
    /// The permits; panics for any other outcome.
    pub(crate) fn into_permits(self) -> Vec<Permit> {
        match self {
            Self::Permits(permits) => permits,
            other => panic!("no permits but {other:?}"),
        }
    }
}

impl Verdict {
    /// Whether the identity is granted or open.
    #[must_use]
    pub fn may_give(&self, id: &SpiffeId) -> bool {
        self.grants.iter().any(|grant| grant.id == *id) || self.open.iter().any(|open| open.id == *id)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::evidence::Grade;
    use crate::evidence::Provider;
    use crate::evidence::Source;
    use crate::evidence::Undecided;
    use crate::policy::rulebook::Rules;
    use crate::registration::EntryIndex;

    const ID: DecisionId = DecisionId([7; 6]);

    fn caller(level: Level, selectors: &[&str]) -> Attested {
        Attested::example(level, EvidenceSet::example(selectors))
    }

    fn decided(caller: &Attested, entries: &[Entry]) -> Decision {
        decide(caller, &Rulebook::example(entries.to_vec()), ID, NOW)
    }

    fn permits(decision: &Decision) -> &[Permit] {
        match &decision.outcome {
            Outcome::Permits(permits) => permits,
            other => panic!("no permits but {other:?}"),
        }
    }

    fn paths(decision: &Decision) -> Vec<String> {
        permits(decision).iter().map(|permit| permit.grant().id.path().to_owned()).collect()
    }

    fn denial(decision: &Decision) -> &Denial {
        match &decision.outcome {
            Outcome::Denied(denial) => denial,
            other => panic!("no denial but {other:?}"),
        }
    }

    #[test]
    fn every_matching_entry_is_granted_with_the_default_identity_first() {
        let mut entries = vec![
            Entry::example(0, "/b", &["unix:uid:1"]),
            Entry::example(1, "/a", &["unix:uid:1", "unix:gid:2"]),
            Entry::example(2, "/other", &["unix:uid:2"]),
        ];
        entries[1].priority = 1;
        let decision = decided(&caller(Level::Full, &["unix:uid:1", "unix:gid:2"]), &entries);
        assert_eq!(paths(&decision), ["/a", "/b"]);
        let permits = permits(&decision);
        assert!(permits.iter().all(|permit| permit.rulebook_epoch() == 1 && permit.decision() == ID));
    }

    #[test]
    fn the_trace_of_a_denial_has_the_lacking_selectors_of_its_candidates() {
        let entries = [Entry::example(0, "/web", &["unix:uid:1", "unix:gid:2"])];
        let decision = decided(&caller(Level::Full, &["unix:uid:1", "unix:gid:1"]), &entries);
        let rarest_holds = decided(&caller(Level::Full, &["unix:gid:2"]), &entries);
        assert_eq!(denial(&decision), &Denial::NoEntry);
        assert_eq!(denial(&rarest_holds), &Denial::NoEntry);
        let lacking: Vec<_> =
            [decision, rarest_holds].into_iter().flat_map(|decision| decision.trace.considered.clone()).collect();
        assert_eq!(lacking.len(), 1);
        assert_eq!(lacking[0].lacking.len(), 1);
    }

    #[test]
    fn at_the_reduced_level_a_path_or_hash_needs_an_entry_that_accepts_it() {
        let path = "unix:path:/usr/bin/web";
        let sha256 = format!("unix:sha256:{}", "ab".repeat(32));
        let mut entries = vec![
            Entry::example(0, "/path", &["unix:uid:1", path]),
            Entry::example(1, "/hash", &["unix:uid:1", &sha256]),
            Entry::example(2, "/accepted", &["unix:uid:1", path]),
            Entry::example(3, "/user", &["unix:uid:1"]),
        ];
        entries[2].accept_weak = true;
        let facts = ["unix:uid:1", path, &sha256];
        let reduced = decided(&caller(Level::Reduced, &facts), &entries);
        assert_eq!(paths(&reduced), ["/accepted", "/user"]);
        assert_eq!(reduced.trace.considered[0].refused, Some(SetAside::ReducedLevel));
        let pinned = decided(&caller(Level::Pinned, &facts), &entries);
        assert_eq!(paths(&pinned), ["/path", "/hash", "/accepted", "/user"]);
    }

    #[test]
    fn a_caller_below_the_minimum_level_is_denied() {
        let entries = EntryIndex::new(vec![Entry::example(0, "/web", &["unix:uid:1"])]);
        let rulebook = Rulebook::new(1, entries, Rules { minimum: Level::Pinned, wait: std::time::Duration::ZERO });
        let denied = decide(&caller(Level::Reduced, &["unix:uid:1"]), &rulebook, ID, NOW);
        assert_eq!(denial(&denied), &Denial::BelowMinimum);
        assert_eq!(paths(&decide(&caller(Level::Pinned, &["unix:uid:1"]), &rulebook, ID, NOW)), ["/web"]);
    }

    #[test]
    fn only_the_first_of_two_identities_with_one_hint_keeps_it() {
        let mut entries = vec![
            Entry::example(0, "/a", &["unix:uid:1"]),
            Entry::example(1, "/b", &["unix:uid:1"]),
            Entry::example(2, "/c", &["unix:uid:1"]),
        ];
        entries[0].hint = Some("internal".to_owned());
        entries[1].hint = Some("internal".to_owned());
        entries[2].hint = Some("external".to_owned());
        let decision = decided(&caller(Level::Full, &["unix:uid:1"]), &entries);
        let hints: Vec<_> = permits(&decision).iter().map(|permit| permit.grant().hint.as_deref()).collect();
        assert_eq!(hints, [Some("internal"), None, Some("external")]);
        let second = &decision.trace.considered[1];
        assert!(second.matches());
        assert_eq!(second.earlier, Some(entries[0].origin.clone()));
        assert_eq!(second.lost, ["hint = \"internal\""]);
        entries[1].priority = 1;
        let decision = decided(&caller(Level::Full, &["unix:uid:1"]), &entries);
        let hints: Vec<_> = permits(&decision).iter().map(|permit| permit.grant().hint.as_deref()).collect();
        assert_eq!((paths(&decision)[0].as_str(), hints), ("/b", vec![Some("internal"), None, Some("external")]));
    }

    #[test]
    fn two_entries_with_one_spiffe_id_give_one_identity_by_the_first() {
        let mut entries =
            vec![Entry::example(0, "/a", &["unix:uid:1"]), Entry::example(1, "/a", &["unix:uid:1", "unix:gid:1"])];
        entries[0].hint = Some("first".to_owned());
        entries[1].terms.dns = vec!["a.internal".to_owned()];
        let decision = decided(&caller(Level::Full, &["unix:uid:1", "unix:gid:1"]), &entries);
        assert_eq!(permits(&decision).len(), 1);
        assert_eq!(permits(&decision)[0].grant().hint.as_deref(), Some("first"));
        let second = &decision.trace.considered[1];
        assert_eq!(second.refused, Some(SetAside::SameIdEarlier));
        assert_eq!(second.earlier, Some(entries[0].origin.clone()));
        assert_eq!(second.lost, ["dns = [\"a.internal\"]"]);
    }

    #[test]
    fn a_trace_keeps_all_matches_and_a_bounded_number_of_misses() {
        let mut entries: Vec<Entry> = (0..1000)
            .map(|n| Entry::example(n, &format!("/e{n}"), &["unix:uid:1", "unix:gid:1", "unix:supplementary_gid:1"]))
            .collect();
        entries.push(Entry::example(1000, "/match", &["unix:uid:1"]));
        let decision = decided(&caller(Level::Full, &["unix:uid:1", "unix:gid:1"]), &entries);
        assert_eq!(decision.trace.looked_at, 1001);
        assert_eq!(decision.trace.considered.len(), MAX_MISSES + 1);
        assert_eq!(paths(&decision), ["/match"]);
    }

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    /// Selectors from few values, so that random entries often match random evidence.
    fn selectors() -> impl Strategy<Value = Vec<Selector>> {
        let selector = prop_oneof![
            (0..3u32).prop_map(Selector::UnixUid),
            (0..3u32).prop_map(Selector::UnixGid),
            (0..2u8).prop_map(|n| Selector::UnixPath(format!("/bin/{n}").into())),
            (0..2u8).prop_map(|n| Selector::SystemdId(format!("{n}.service").into())),
            Just(Selector::Host),
            (0..2u8).prop_map(|n| Selector::try_from(format!("docker:label:app:{n}")).unwrap()),
        ];
        prop::collection::vec(selector, 0..5)
    }

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let hint = prop::option::of("[ab]");
        let entry = (selectors(), "/[a-e]", -1..2i64, any::<bool>(), hint);
        prop::collection::vec(entry, 0..12).prop_map(|entries| {
            let made = (0..).zip(entries).map(|(order, (mut selectors, path, priority, accept_weak, hint))| {
                selectors.sort();
                selectors.dedup();
                Entry { selectors, priority, accept_weak, hint, ..Entry::example(order, &path, &[]) }
            });
            made.collect()
        })
    }

    /// The grants by the product contract, without an index: every entry is compared.
    fn naive(level: Level, evidence: &EvidenceSet, entries: &[Entry]) -> Vec<(String, Option<String>)> {
        let mut entries = entries.to_vec();
        entries.sort_by(|a, b| b.priority.cmp(&a.priority).then(a.order.cmp(&b.order)));
        let mut granted: Vec<(String, Option<String>)> = Vec::new();
        for entry in entries {
            let holds = !entry.selectors.is_empty()
                && entry.selectors.iter().all(|wanted| evidence.facts().iter().any(|fact| fact.selector == *wanted))
                && (level != Level::Reduced || entry.accept_weak || !entry.rests_on_executable());
            let id = entry.id.to_string();
            if holds && granted.iter().all(|(earlier, _)| *earlier != id) {
                let taken = granted.iter().any(|(_, hint)| entry.hint.is_some() && *hint == entry.hint);
                granted.push((id, entry.hint.filter(|_| !taken)));
            }
        }
        granted
    }

    /// Each identity, in order, of which everything lacking may still come, and which is not granted, or further behind.
    fn naive_open(
        level: Level,
        evidence: &EvidenceSet,
        entries: &[Entry],
        granted: &[(String, Option<String>)],
    ) -> Vec<String> {
        let mut entries = entries.to_vec();
        entries.sort_by_key(Entry::rank);
        let (mut open, mut before) = (Vec::new(), BTreeSet::new());
        for entry in entries {
            let mut lacking = entry.selectors.iter().filter(|selector| !evidence.holds(selector)).peekable();
            let is_open = |selector: &Selector| evidence.answer_of(&selector.provider()).is_some_and(Answer::is_open);
            let counts = level != Level::Reduced || entry.accept_weak || !entry.rests_on_executable();
            let id = entry.id.to_string();
            let known = open.contains(&id) || granted.iter().take(before.len() + 1).any(|(granted, _)| *granted == id);
            if lacking.peek().is_none() && counts && !entry.selectors.is_empty() {
                before.insert(id);
            } else if lacking.peek().is_some() && lacking.all(is_open) && counts && !known {
                open.push(id);
            }
        }
        open
    }

    fn answer() -> impl Strategy<Value = Answer> {
        prop_oneof![Just(Answer::Settled), Just(Answer::Pending), Just(Answer::Undecided(Undecided::TimedOut))]
    }

    #[test]
    fn a_first_answer_waits_only_for_pending_facts_of_its_default_identity() {
        let with_label = |order, path, priority| {
            let mut entry = Entry::example(order, path, &["unix:uid:1"]);
            entry.selectors.push(Selector::try_from("docker:label:app:web".to_owned()).unwrap());
            entry.priority = priority;
            entry
        };
        let docker = Provider::new("docker");
        let waits = |entries: &[Entry], answer, wanted: Option<&SpiffeId>| {
            let mut evidence = EvidenceSet::example(&["unix:uid:1"]);
            evidence.answered(docker.clone(), answer);
            let decision = decided(&Attested::example(Level::Full, evidence), entries);
            !decision.worth_waiting_for(wanted).is_empty()
        };
        let plain = Entry::example(0, "/plain", &["unix:uid:1"]);
        let (behind, before) = (with_label(1, "/behind", 0), with_label(1, "/before", 1));
        assert!(!waits(&[plain.clone(), behind.clone()], Answer::Pending, None));
        assert!(waits(&[plain.clone(), before.clone()], Answer::Pending, None));
        assert!(!waits(&[plain.clone(), before.clone()], Answer::Undecided(Undecided::TimedOut), None));
        assert!(waits(std::slice::from_ref(&behind), Answer::Pending, None), "nothing is permitted yet");
        assert!(waits(&[plain.clone(), behind.clone()], Answer::Pending, Some(&behind.id)), "a token for it");
        assert!(!waits(&[plain.clone(), before], Answer::Pending, Some(&plain.id)), "a token for another");
    }

    #[test]
    fn an_entry_that_may_match_before_another_of_its_identity_is_open() {
        let mut labelled = Entry::example(0, "/web", &["unix:uid:1"]);
        labelled.selectors.push(Selector::try_from("docker:label:app:web".to_owned()).unwrap());
        let [plain, again] = [(1, "/plain"), (2, "/web")].map(|(at, path)| Entry::example(at, path, &["unix:uid:1"]));
        let mut evidence = EvidenceSet::example(&["unix:uid:1"]);
        evidence.answered(Provider::new("docker"), Answer::Pending);
        let caller = Attested::example(Level::Full, evidence);
        let decision = decided(&caller, &[labelled.clone(), plain.clone(), again.clone()]);
        assert_eq!(decision.open.iter().map(|open| (open.id.path(), open.place)).collect::<Vec<_>>(), [("/web", 0)]);
        assert!(!decision.worth_waiting_for(None).is_empty(), "it could become the default identity");
        assert!(decision.worth_waiting_for(Some(&again.id)).is_empty(), "a token needs the later entry alone");
        assert!(decided(&caller, &[labelled.clone(), again.clone()]).open.is_empty(), "the order is the same");
        labelled.order.place = 3;
        assert!(decided(&caller, &[labelled, plain, again]).open.is_empty(), "it would add nothing");
    }

    proptest! {
        #[test]
        fn the_index_gives_the_verdict_of_comparing_every_entry(
            entries in entries(),
            held in selectors(),
            level in prop_oneof![Just(Level::Reduced), Just(Level::Pinned), Just(Level::Full)],
            answers in [answer(), answer()],
        ) {
            let mut evidence = EvidenceSet::default();
            for (provider, answer) in [Provider::PATH, Provider::new("docker")].into_iter().zip(answers) {
                evidence.answered(provider, answer);
            }
            for selector in held {
                evidence.prove(selector, Grade::Kernel, Source::Credentials);
            }
            let expected = naive(level, &evidence, &entries);
            let expected_open = naive_open(level, &evidence, &entries, &expected);
            let rulebook = Rulebook::example(entries);
            let decision = decide(&Attested::example(level, evidence), &rulebook, ID, NOW);
            let verdict = redecide(&decision.trace, &rulebook);
            let found: Vec<_> = verdict.grants.iter().map(|grant| (grant.id.to_string(), grant.hint.clone())).collect();
            prop_assert_eq!(&found, &expected);
            let open: Vec<_> = verdict.open.iter().map(|open| open.id.to_string()).collect();
            prop_assert_eq!(&open, &expected_open);
            match &decision.outcome {
                Outcome::Permits(permits) => prop_assert_eq!(permits.len(), expected.len()),
                Outcome::Awaiting(_) => prop_assert!(expected.is_empty() && !expected_open.is_empty()),
                Outcome::Denied(_) => prop_assert!(expected.is_empty() && expected_open.is_empty()),
            }

            let recorded = serde_json::to_string(&decision.trace).unwrap();
            let read_back: Trace = serde_json::from_str(&recorded).unwrap();
            prop_assert_eq!(&read_back, &*decision.trace);
            prop_assert_eq!(redecide(&read_back, &rulebook), verdict);
        }
    }
}
