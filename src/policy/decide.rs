//! The one decision.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;
use serde::Serialize;

use crate::attestation::Attested;
use crate::attestation::Contradiction;
use crate::evidence::Credentials;
use crate::evidence::EvidenceSet;
use crate::evidence::Level;
use crate::evidence::Selector;
use crate::identity::SpiffeId;
use crate::policy::decision_id::DecisionId;
use crate::policy::rulebook::Rulebook;
use crate::policy::rulebook::Rules;
use crate::registration::Entry;
use crate::registration::entry::Origin;

/// How many entries that did not match a trace keeps. One is kept for every live caller, so it stays small; whoever
/// wants to see all of them asks `explain`.
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
    /// Permits, default identity first and never empty, or the reason for none.
    pub outcome: Result<Vec<Permit>, Denial>,
    /// How it came about.
    pub trace: Trace,
}

/// What a decision comes to: identities, default first and never empty, or the reason for none.
pub type Verdict = Result<Vec<Grant>, Denial>;

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
    /// How many entries were looked at.
    pub looked_at: usize,
    /// The entries that were looked at, because their rarest selector holds, in order: all that match, and the first
    /// [`MAX_MISSES`] of the others.
    pub considered: Vec<Considered>,
}

/// One entry that was looked at.
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
/// image of that process, under these entries, and no longer.
#[must_use]
pub fn decide(caller: &Attested, rulebook: &Rulebook, id: DecisionId, now: SystemTime) -> Decision {
    let candidates = rulebook.entries().candidates(caller.evidence());
    let judgement = judge(caller.level(), caller.evidence(), &candidates, rulebook.rules(), MAX_MISSES);
    let permit = |grant| Permit { grant, rulebook_epoch: rulebook.epoch(), decision: id };
    Decision {
        id,
        outcome: judgement.verdict.map(|all| all.into_iter().map(permit).collect()),
        trace: Trace {
            peer: caller.peer(),
            level: caller.level(),
            evidence: caller.evidence().clone(),
            at: now,
            rulebook_epoch: rulebook.epoch(),
            looked_at: candidates.len(),
            considered: judgement.considered,
        },
    }
}

/// Decides again on recorded evidence. By the same entries and rules the verdict is the same as then.
///
/// # Errors
/// The [`Denial`] that `decide` would give.
pub fn redecide(trace: &Trace, rulebook: &Rulebook) -> Verdict {
    verdict(trace.level, &trace.evidence, rulebook)
}

/// The verdict on some evidence.
pub(in crate::policy) fn verdict(level: Level, evidence: &EvidenceSet, rulebook: &Rulebook) -> Verdict {
    judge(level, evidence, &rulebook.entries().candidates(evidence), rulebook.rules(), 0).verdict
}

pub(in crate::policy) struct Judgement {
    pub(in crate::policy) verdict: Verdict,
    pub(in crate::policy) considered: Vec<Considered>,
}

/// Decides on evidence alone, asking each of `candidates` in order, and keeps the first `max_misses` of those that do
/// not match.
pub(in crate::policy) fn judge(
    level: Level,
    evidence: &EvidenceSet,
    candidates: &[&Arc<Entry>],
    rules: &Rules,
    max_misses: usize,
) -> Judgement {
    let mut granted: Vec<Grant> = Vec::new();
    let mut considered = Vec::new();
    let mut misses = 0;
    let mut ids = BTreeSet::new();
    let mut hints = BTreeSet::new();
    for entry in candidates {
        let mut weighed = weigh(entry, level, evidence);
        if weighed.matches() && !ids.insert(&entry.id) {
            weighed.refused = Some(SetAside::SameIdEarlier);
        }
        if weighed.matches() {
            let hint = entry.hint.clone().filter(|hint| hints.insert(hint.clone()));
            granted.push(Grant { id: entry.id.clone(), entry: Arc::clone(entry), hint });
        } else {
            misses += 1;
        }
        if weighed.matches() || misses <= max_misses {
            considered.push(weighed);
        }
    }
    let verdict = match granted {
        _ if level < rules.minimum => Err(Denial::BelowMinimum),
        none if none.is_empty() => Err(Denial::NoEntry),
        granted => Ok(granted),
    };
    Judgement { verdict, considered }
}

/// What one entry lacks for this evidence, by itself.
fn weigh(entry: &Entry, level: Level, evidence: &EvidenceSet) -> Considered {
    let lacking: Vec<Selector> = entry.selectors.iter().filter(|selector| !evidence.holds(selector)).cloned().collect();
    // SECURITY: below Linux 6.5 the pidfd is opened by number after the accept, and an exec in between gives the caller
    // the path and the hash of another program, not its user.
    let too_weak = level == Level::Reduced && entry.rests_on_executable() && !entry.accept_weak;
    let refused = (lacking.is_empty() && too_weak).then_some(SetAside::ReducedLevel);
    Considered { id: entry.id.to_string(), origin: entry.origin.clone(), lacking, refused }
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
    /// What the decision comes to, without the power to issue.
    ///
    /// # Errors
    /// The [`Denial`] of the outcome.
    pub fn verdict(&self) -> Verdict {
        match &self.outcome {
            Ok(permits) => Ok(permits.iter().map(|permit| permit.grant.clone()).collect()),
            Err(denial) => Err(denial.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::evidence::Grade;
    use crate::evidence::Source;
    use crate::registration::EntryIndex;

    const ID: DecisionId = DecisionId([7; 6]);

    fn caller(level: Level, selectors: &[&str]) -> Attested {
        let mut evidence = EvidenceSet::default();
        for text in selectors {
            evidence.prove(text.parse().unwrap(), Grade::Kernel, Source::Credentials);
        }
        Attested::example(level, evidence)
    }

    fn decided(caller: &Attested, entries: &[Entry]) -> Decision {
        decide(caller, &Rulebook::example(entries.to_vec()), ID, NOW)
    }

    fn paths(verdict: Verdict) -> Vec<String> {
        verdict.unwrap().iter().map(|granted| granted.entry.id.path().to_owned()).collect()
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
        assert_eq!(paths(decision.verdict()), ["/a", "/b"]);
        let permits = decision.outcome.unwrap();
        assert!(permits.iter().all(|permit| permit.rulebook_epoch() == 1 && permit.decision() == ID));
    }

    #[test]
    fn a_caller_whom_no_entry_fits_is_denied_and_the_trace_says_what_was_lacking() {
        let entries = [Entry::example(0, "/web", &["unix:uid:1", "unix:gid:2"])];
        let decision = decided(&caller(Level::Full, &["unix:uid:1", "unix:gid:1"]), &entries);
        let rarest_holds = decided(&caller(Level::Full, &["unix:gid:2"]), &entries);
        assert_eq!(decision.verdict(), Err(Denial::NoEntry));
        assert_eq!(rarest_holds.verdict(), Err(Denial::NoEntry));
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
        assert_eq!(paths(reduced.verdict()), ["/accepted", "/user"]);
        assert_eq!(reduced.trace.considered[0].refused, Some(SetAside::ReducedLevel));
        let pinned = decided(&caller(Level::Pinned, &facts), &entries);
        assert_eq!(paths(pinned.verdict()), ["/path", "/hash", "/accepted", "/user"]);
    }

    #[test]
    fn nobody_gets_anything_below_the_minimum_level() {
        let entries = EntryIndex::new(vec![Entry::example(0, "/web", &["unix:uid:1"])]);
        let rulebook = Rulebook::new(1, entries, Rules { minimum: Level::Pinned, wait: std::time::Duration::ZERO });
        let denied = decide(&caller(Level::Reduced, &["unix:uid:1"]), &rulebook, ID, NOW);
        assert_eq!(denied.verdict(), Err(Denial::BelowMinimum));
        assert!(decide(&caller(Level::Pinned, &["unix:uid:1"]), &rulebook, ID, NOW).outcome.is_ok());
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
        let granted = decided(&caller(Level::Full, &["unix:uid:1"]), &entries).verdict().unwrap();
        let hints: Vec<_> = granted.iter().map(|granted| granted.hint.as_deref()).collect();
        assert_eq!(hints, [Some("internal"), None, Some("external")]);
    }

    #[test]
    fn two_entries_of_one_spiffe_id_give_one_identity_on_the_terms_of_the_first() {
        let mut entries =
            vec![Entry::example(0, "/a", &["unix:uid:1"]), Entry::example(1, "/a", &["unix:uid:1", "unix:gid:1"])];
        entries[0].hint = Some("first".to_owned());
        let decision = decided(&caller(Level::Full, &["unix:uid:1", "unix:gid:1"]), &entries);
        assert_eq!(decision.verdict().unwrap().len(), 1);
        assert_eq!(decision.outcome.unwrap()[0].grant().hint.as_deref(), Some("first"));
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
        assert_eq!(paths(decision.verdict()), ["/match"]);
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

    proptest! {
        #[test]
        fn the_index_decides_as_asking_every_entry_would(
            entries in entries(),
            held in selectors(),
            level in prop_oneof![Just(Level::Reduced), Just(Level::Pinned), Just(Level::Full)],
        ) {
            let mut evidence = EvidenceSet::default();
            for selector in held {
                evidence.prove(selector, Grade::Kernel, Source::Credentials);
            }
            let expected = naive(level, &evidence, &entries);
            let rulebook = Rulebook::example(entries);
            let decision = decide(&Attested::example(level, evidence), &rulebook, ID, NOW);
            let granted = decision.verdict().unwrap_or_default();
            let found: Vec<_> = granted.iter().map(|granted| (granted.entry.id.to_string(), granted.hint.clone())).collect();
            prop_assert_eq!(found, expected);

            let recorded = serde_json::to_string(&decision.trace).unwrap();
            let read_back: Trace = serde_json::from_str(&recorded).unwrap();
            prop_assert_eq!(&read_back, &decision.trace);
            prop_assert_eq!(redecide(&read_back, &rulebook), decision.verdict());
        }
    }
}
