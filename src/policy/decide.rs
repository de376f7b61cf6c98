//! The one decision.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;
use serde::Serialize;

use crate::attestation::Attested;
use crate::attestation::Contradiction;
use crate::evidence::Answer;
use crate::evidence::Credentials;
use crate::evidence::EvidenceSet;
use crate::evidence::Level;
use crate::evidence::Providers;
use crate::evidence::Selector;
use crate::identity::SpiffeId;
use crate::policy::decision_id::DecisionId;
use crate::policy::rulebook::Rulebook;
use crate::registration::Entry;
use crate::registration::entry::Origin;

/// How many entries that did not match a trace keeps. One is kept for every live stream, so it stays small; `explain`
/// shows all of them.
pub(in crate::policy) const MAX_MISSES: usize = 32;

/// Leave to issue one identity to one process, by one rulebook. Not `Clone`: it is used up.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    grant: Grant,
    rulebook_epoch: u64,
    decision: DecisionId,
}

/// One identity that a verdict gives: what a [`Permit`] says, without the power to issue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The SPIFFE ID.
    pub id: SpiffeId,
    /// The entry that gives it.
    pub entry: Arc<Entry>,
    /// The hint to serve it with: none where an earlier identity of the same process has it.
    pub hint: Option<String>,
}

/// An identity that providers without an answer could still give, or give before another one that comes before it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenGrant {
    /// The SPIFFE ID.
    pub id: SpiffeId,
    /// The providers whose facts its entry lacks; never empty.
    pub awaits: Providers,
    /// How many of the grants come before it; 0: it would be the default identity.
    pub place: usize,
}

/// Why a caller gets nothing: a completed "no".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Denial {
    /// No entry's selectors all hold.
    #[error("no entry matches")]
    NoEntry,
    /// The process is pinned less firmly than `[attest] minimum` demands.
    #[error("the process is pinned at a lower kernel level than [attest] minimum demands")]
    BelowMinimum,
    /// The caller is not who it was, or not anyone.
    #[error(transparent)]
    NotAttested(Contradiction),
    /// It has identities, but not the one it asked for.
    #[error("it is not entitled to the SPIFFE ID that it asked for")]
    NotThatId,
    /// It asked for a token for an audience that its entry does not list.
    #[error("its entry does not list the audience {audience:?}")]
    Audience {
        /// The audience it asked for.
        audience: String,
    },
}

/// What was decided, and why.
#[derive(Debug)]
pub struct Decision {
    /// Its name.
    pub id: DecisionId,
    /// What it came to.
    pub outcome: Outcome,
    /// The identities that may still come, in the order of their entries.
    pub open: Vec<OpenGrant>,
    /// How it came about.
    pub trace: Trace,
}

/// What a decision came to.
#[derive(Debug)]
pub enum Outcome {
    /// Default identity first; never empty.
    Permits(Vec<Permit>),
    /// A completed "no".
    Denied(Denial),
    /// Nothing is permitted yet, and what these providers have not said could change that.
    Awaiting(Providers),
}

/// What some evidence comes to under some rulebook, without the power to issue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What is granted, default identity first.
    pub grants: Vec<Grant>,
    /// What may still be granted, in the order of the entries.
    pub open: Vec<OpenGrant>,
    /// Why nothing is granted and nothing open.
    pub denial: Option<Denial>,
}

/// Everything a decision rested on: enough to decide again and come to the same verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Whom it was about.
    pub peer: Credentials,
    /// How it was pinned.
    pub level: Level,
    /// What was proven of it.
    pub evidence: EvidenceSet,
    /// When it was decided.
    pub at: SystemTime,
    /// The epoch of the rulebook that it was decided by.
    pub rulebook_epoch: u64,
    /// How many entries were compared.
    pub looked_at: usize,
    /// The entries that were compared, because their rarest selector holds, in order: all that match, and the first
    /// 32 of the others.
    pub considered: Vec<Considered>,
}

/// One entry that was compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Considered {
    /// Its SPIFFE ID.
    pub id: String,
    /// Where it was written.
    pub origin: Origin,
    /// What it lacks; empty when it matches.
    pub lacking: Vec<Selector>,
    /// Why it does not count although nothing lacks.
    pub refused: Option<SetAside>,
}

/// Why an entry does not count although all of its selectors hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum SetAside {
    /// At the reduced level the executable may have been another one when the socket was connected.
    #[error("it rests on a path or hash, which at the kernel level \"reduced\" counts only with accept_weak = true")]
    ReducedLevel,
    /// One process has at most one SVID for a SPIFFE ID.
    #[error("an earlier entry already gives this SPIFFE ID")]
    SameIdEarlier,
}

/// Decides what the caller gets. Whoever calls it needs a proof of who that is, and gets permits that hold for that
/// process, under this rulebook, and no longer.
#[must_use]
pub fn decide(caller: &Attested, rulebook: &Rulebook, id: DecisionId, now: SystemTime) -> Decision {
    let candidates = rulebook.entries().candidates(caller.evidence());
    let compared = compare(caller.level(), caller.evidence(), &candidates, MAX_MISSES);
    let Verdict { grants, open, denial } = conclude(caller.level(), caller.evidence(), rulebook, compared.grants);
    let permit = |grant| Permit { grant, rulebook_epoch: rulebook.epoch(), decision: id };
    let outcome = match denial {
        Some(denial) => Outcome::Denied(denial),
        None if grants.is_empty() => Outcome::Awaiting(open.iter().flat_map(|open| open.awaits.clone()).collect()),
        None => Outcome::Permits(grants.into_iter().map(permit).collect()),
    };
    let trace = Trace {
        peer: caller.peer(),
        level: caller.level(),
        evidence: caller.evidence().clone(),
        at: now,
        rulebook_epoch: rulebook.epoch(),
        looked_at: candidates.len(),
        considered: compared.considered,
    };
    Decision { id, outcome, open, trace }
}

/// Decides again on recorded evidence. By the same rulebook the verdict is the same as then.
#[must_use]
pub fn redecide(trace: &Trace, rulebook: &Rulebook) -> Verdict {
    verdict(trace.level, &trace.evidence, rulebook)
}

/// The verdict on some evidence.
pub(in crate::policy) fn verdict(level: Level, evidence: &EvidenceSet, rulebook: &Rulebook) -> Verdict {
    let compared = compare(level, evidence, &rulebook.entries().candidates(evidence), 0);
    conclude(level, evidence, rulebook, compared.grants)
}

pub(in crate::policy) struct Compared {
    grants: Vec<Grant>,
    pub(in crate::policy) considered: Vec<Considered>,
}

/// Compares each of `candidates`, in order, with the evidence, and keeps the first `max_misses` of those that do not
/// match.
pub(in crate::policy) fn compare(
    level: Level,
    evidence: &EvidenceSet,
    candidates: &[&Arc<Entry>],
    max_misses: usize,
) -> Compared {
    let mut grants: Vec<Grant> = Vec::new();
    let mut considered = Vec::new();
    let mut misses = 0;
    let mut ids = BTreeSet::new();
    let mut hints = BTreeSet::new();
    for entry in candidates {
        let mut compared = compare_one(entry, level, evidence);
        if compared.matches() && !ids.insert(&entry.id) {
            compared.refused = Some(SetAside::SameIdEarlier);
        }
        if compared.matches() {
            // SPEC: Workload API §5.2.1: hints are unique in a response. The first identity keeps its hint.
            let hint = entry.hint.clone().filter(|hint| hints.insert(hint.clone()));
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

/// What one entry lacks for this evidence, by itself.
fn compare_one(entry: &Entry, level: Level, evidence: &EvidenceSet) -> Considered {
    let lacking: Vec<Selector> = entry.selectors.iter().filter(|selector| !evidence.holds(selector)).cloned().collect();
    let refused = (lacking.is_empty() && is_too_weak(entry, level)).then_some(SetAside::ReducedLevel);
    Considered { id: entry.id.to_string(), origin: entry.origin.clone(), lacking, refused }
}

/// SECURITY: below Linux 6.5 the pidfd is opened by number after the accept, and an exec in between gives the caller the
/// path and the hash of another program, not its user.
fn is_too_weak(entry: &Entry, level: Level) -> bool {
    level == Level::Reduced && entry.rests_on_executable() && !entry.accept_weak
}

/// The verdict, once it is known which entries match.
fn conclude(level: Level, evidence: &EvidenceSet, rulebook: &Rulebook, grants: Vec<Grant>) -> Verdict {
    if level < rulebook.rules().minimum {
        return Verdict { denial: Some(Denial::BelowMinimum), ..Verdict::default() };
    }
    let open = open_grants(level, evidence, rulebook, &grants);
    let denial = (grants.is_empty() && open.is_empty()).then_some(Denial::NoEntry);
    Verdict { grants, open, denial }
}

/// The identities that providers without an answer could still add, each once, by its first entry.
fn open_grants(level: Level, evidence: &EvidenceSet, rulebook: &Rulebook, grants: &[Grant]) -> Vec<OpenGrant> {
    let mut open: Vec<OpenGrant> = Vec::new();
    for candidate in rulebook.entries().open(evidence) {
        let entry = candidate.entry;
        let place = grants.iter().filter(|grant| grant.entry.rank() < entry.rank()).count();
        let granted = grants.iter().position(|grant| grant.id == entry.id).is_some_and(|at| at <= place);
        let known = granted || open.iter().any(|open| open.id == entry.id);
        if !known && !is_too_weak(entry, level) {
            open.push(OpenGrant { id: entry.id.clone(), awaits: candidate.awaits, place });
        }
    }
    open
}

impl Considered {
    /// Whether the entry gives its identity.
    #[must_use]
    pub fn matches(&self) -> bool {
        self.lacking.is_empty() && self.refused.is_none()
    }
}

impl Permit {
    /// What it permits, without the power to issue.
    #[must_use]
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// The epoch of the rulebook that it was decided by.
    #[must_use]
    pub fn rulebook_epoch(&self) -> u64 {
        self.rulebook_epoch
    }

    /// The decision that it is a part of.
    #[must_use]
    pub fn decision(&self) -> DecisionId {
        self.decision
    }
}

impl Decision {
    /// The pending providers that a first answer waits for (SPEC: product contract §5, rule 7): those that could give the
    /// default identity, or any where nothing is permitted. Of a request for one identity, those that could give it where
    /// it is not permitted yet. Providers that could not find out are never waited for.
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
    /// The permits of an outcome that has some.
    pub(crate) fn into_permits(self) -> Vec<Permit> {
        match self {
            Self::Permits(permits) => permits,
            other => panic!("no permits but {other:?}"),
        }
    }
}

impl Verdict {
    /// Whether the identity is granted, or may still be.
    #[must_use]
    pub fn may_give(&self, id: &SpiffeId) -> bool {
        self.grants.iter().any(|grant| grant.id == *id) || self.open.iter().any(|open| open.id == *id)
    }
}

#[cfg(test)]
mod tests {
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
    fn a_caller_whom_no_entry_fits_is_denied_and_the_trace_says_what_was_lacking() {
        let entries = [Entry::example(0, "/web", &["unix:uid:1", "unix:gid:2"])];
        let decision = decided(&caller(Level::Full, &["unix:uid:1", "unix:gid:1"]), &entries);
        let rarest_holds = decided(&caller(Level::Full, &["unix:gid:2"]), &entries);
        assert_eq!(denial(&decision), &Denial::NoEntry);
        assert_eq!(denial(&rarest_holds), &Denial::NoEntry);
        let lacking: Vec<_> =
            [decision, rarest_holds].into_iter().flat_map(|decision| decision.trace.considered).collect();
        assert_eq!(lacking.len(), 1);
        assert_eq!(lacking[0].lacking.len(), 1);
    }

    #[test]
    fn at_the_reduced_level_a_path_or_hash_counts_only_for_an_entry_that_accepts_it() {
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
    fn nobody_gets_anything_below_the_minimum_level() {
        let entries = EntryIndex::new(vec![Entry::example(0, "/web", &["unix:uid:1"])]);
        let rulebook = Rulebook::new(1, entries, Rules { minimum: Level::Pinned, wait: std::time::Duration::ZERO });
        let denied = decide(&caller(Level::Reduced, &["unix:uid:1"]), &rulebook, ID, NOW);
        assert_eq!(denial(&denied), &Denial::BelowMinimum);
        assert_eq!(paths(&decide(&caller(Level::Pinned, &["unix:uid:1"]), &rulebook, ID, NOW)), ["/web"]);
    }

    #[test]
    fn the_first_entry_of_a_hint_keeps_it_and_the_next_is_served_without() {
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
    }

    #[test]
    fn two_entries_of_one_spiffe_id_give_one_identity_on_the_terms_of_the_first() {
        let mut entries =
            vec![Entry::example(0, "/a", &["unix:uid:1"]), Entry::example(1, "/a", &["unix:uid:1", "unix:gid:1"])];
        entries[0].hint = Some("first".to_owned());
        let decision = decided(&caller(Level::Full, &["unix:uid:1", "unix:gid:1"]), &entries);
        assert_eq!(permits(&decision).len(), 1);
        assert_eq!(permits(&decision)[0].grant().hint.as_deref(), Some("first"));
        assert_eq!(decision.trace.considered[1].refused, Some(SetAside::SameIdEarlier));
    }

    #[test]
    fn a_trace_keeps_every_match_and_few_misses_and_counts_all() {
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

    /// Selectors from so small a world that random entries and random evidence often meet.
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

    /// What the contract says, without an index: every entry is asked.
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
            let may_come = |selector: &Selector| evidence.answer_of(&selector.provider()).is_some_and(Answer::is_open);
            let counts = level != Level::Reduced || entry.accept_weak || !entry.rests_on_executable();
            let id = entry.id.to_string();
            let known = open.contains(&id) || granted.iter().take(before.len() + 1).any(|(granted, _)| *granted == id);
            if lacking.peek().is_none() && counts && !entry.selectors.is_empty() {
                before.insert(id);
            } else if lacking.peek().is_some() && lacking.all(may_come) && counts && !known {
                open.push(id);
            }
        }
        open
    }

    fn answer() -> impl Strategy<Value = Answer> {
        prop_oneof![Just(Answer::Settled), Just(Answer::Pending), Just(Answer::Undecided(Undecided::TimedOut))]
    }

    #[test]
    fn a_first_answer_waits_for_what_is_pending_and_could_come_first() {
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
        fn the_index_decides_as_asking_every_entry_would(
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
            prop_assert_eq!(&read_back, &decision.trace);
            prop_assert_eq!(redecide(&read_back, &rulebook), verdict);
        }
    }
}
