//! The index over all entries: which of them can a set of evidence satisfy, and which costly facts could matter? Each
//! entry is filed under the rarest of its selectors, so that a look-up grows with the candidates and not with the
//! entries. Knows nothing of who asks or of what an entry is worth.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;

use crate::evidence::Accounts;
use crate::evidence::EvidenceSet;
use crate::evidence::Selector;
use crate::evidence::SelectorKind;
use crate::evidence::Wants;
use crate::evidence::WithheldBecause;
use crate::identity::TrustDomain;
use crate::registration::entry::Entry;

/// All entries of one configuration, and the account names that they use: one value, swapped whole, so that names and
/// entries are never of two configurations.
#[derive(Debug, Default)]
pub struct EntryIndex {
    /// INVARIANT: larger priority first, then order.
    entries: Vec<Arc<Entry>>,
    /// Places in `entries`, ascending, by each entry's rarest selector.
    by_rarest: HashMap<Selector, Vec<u32>>,
    costly: CostlyFacts,
    federated: BTreeSet<TrustDomain>,
    accounts: Accounts,
}

/// Which entries need a path or a hash beside facts that cost nothing.
#[derive(Debug, Default)]
struct CostlyFacts {
    groups: Vec<CostlyGroup>,
    /// Places in `groups` by the rarest of the group's cheap selectors.
    by_rarest: HashMap<Selector, Vec<u32>>,
    /// Places in `groups` of those that need nothing cheap.
    unconditional: Vec<u32>,
}

/// Entries with the same cheap selectors. A thousand paths of one user are one group: asking what is wanted must not
/// take longer the more paths there are.
#[derive(Debug)]
struct CostlyGroup {
    cheap: Vec<Selector>,
    path: bool,
    /// Some entry needs a hash and no path.
    sha256: bool,
    /// The paths beside which a hash is needed.
    sha256_beside: HashSet<Selector>,
}

impl EntryIndex {
    /// Puts entries in order and files them.
    #[must_use]
    pub fn new<E: Into<Arc<Entry>>>(entries: Vec<E>) -> Self {
        let mut entries: Vec<Arc<Entry>> = entries.into_iter().map(E::into).collect();
        entries.sort_by_key(|entry| (Reverse(entry.priority), entry.order));
        let frequencies = Frequencies::of(&entries);
        let mut by_rarest: HashMap<Selector, Vec<u32>> = HashMap::new();
        for (place, entry) in (0..).zip(&entries) {
            // INVARIANT: an entry without selectors is filed nowhere, so it can never match.
            if let Some(rarest) = frequencies.rarest(&entry.selectors) {
                by_rarest.entry(rarest.clone()).or_default().push(place);
            }
        }
        let costly = CostlyFacts::of(&entries, &frequencies);
        let federated = entries.iter().flat_map(|entry| entry.federates_with.iter().cloned()).collect();
        Self { by_rarest, costly, federated, accounts: Accounts::default(), entries }
    }

    /// Adds the accounts behind the user and group names that these entries use.
    #[must_use]
    pub fn with_accounts(mut self, accounts: Accounts) -> Self {
        self.accounts = accounts;
        self
    }

    /// All entries: larger priority first, then order.
    #[must_use]
    pub fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    /// The accounts behind the user and group names that these entries use.
    #[must_use]
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// The foreign trust domains that some entry federates with.
    #[must_use]
    pub fn federated(&self) -> &BTreeSet<TrustDomain> {
        &self.federated
    }

    /// The entries whose rarest selector holds, in order: a superset of those that match. No other entry is looked at.
    #[must_use]
    pub fn candidates(&self, evidence: &EvidenceSet) -> Vec<&Arc<Entry>> {
        let mut places: Vec<u32> =
            evidence.facts().iter().filter_map(|fact| self.by_rarest.get(&fact.selector)).flatten().copied().collect();
        places.sort_unstable();
        places.into_iter().filter_map(|place| self.entries.get(place as usize)).collect()
    }

    /// Which of the facts that nobody has looked for yet could make an entry match whose other selectors all hold.
    ///
    /// While the path is not known, a hash beside a path is wanted; once it is known, only beside the right one. So ask
    /// twice: with the cheap facts, and again with the path before hashing.
    #[must_use]
    pub fn wants(&self, evidence: &EvidenceSet) -> Wants {
        let open = Wants {
            path: !is_settled(evidence, SelectorKind::UnixPath),
            sha256: !is_settled(evidence, SelectorKind::UnixSha256),
        };
        let conditional =
            evidence.facts().iter().filter_map(|fact| self.costly.by_rarest.get(&fact.selector)).flatten();
        let mut wants = Wants::NOTHING;
        for place in self.costly.unconditional.iter().chain(conditional) {
            if wants == open {
                break;
            }
            if let Some(group) = self.costly.groups.get(*place as usize) {
                wants = wants.or(group.wants(evidence, open));
            }
        }
        wants
    }
}

impl CostlyGroup {
    fn wants(&self, evidence: &EvidenceSet, open: Wants) -> Wants {
        if !self.cheap.iter().all(|selector| evidence.holds(selector)) {
            return Wants::NOTHING;
        }
        let beside_path = if open.path {
            !self.sha256_beside.is_empty()
        } else {
            evidence.facts().iter().any(|fact| self.sha256_beside.contains(&fact.selector))
        };
        Wants { path: open.path && self.path, sha256: open.sha256 && (self.sha256 || beside_path) }
    }
}

impl CostlyFacts {
    fn of(entries: &[Arc<Entry>], frequencies: &Frequencies<'_>) -> Self {
        let mut facts = Self::default();
        let mut places: HashMap<Vec<&Selector>, usize> = HashMap::new();
        for entry in entries.iter().filter(|entry| entry.rests_on_executable()) {
            let path = entry.selectors.iter().find(|selector| selector.kind() == SelectorKind::UnixPath);
            let sha256 = entry.selectors.iter().any(|selector| selector.kind() == SelectorKind::UnixSha256);
            let cheap = entry.selectors.iter().filter(|selector| !is_costly(selector)).collect();
            let place = *places.entry(cheap).or_insert_with_key(|cheap| facts.add(cheap, frequencies));
            let Some(group) = facts.groups.get_mut(place) else { continue };
            group.path |= path.is_some();
            match path {
                Some(path) if sha256 => {
                    group.sha256_beside.insert(path.clone());
                }
                _ => group.sha256 |= sha256,
            }
        }
        facts
    }

    fn add(&mut self, cheap: &[&Selector], frequencies: &Frequencies<'_>) -> usize {
        let cheap: Vec<Selector> = cheap.iter().map(|selector| (*selector).clone()).collect();
        let place = self.groups.len();
        let files = match frequencies.rarest(&cheap) {
            Some(rarest) => self.by_rarest.entry(rarest.clone()).or_default(),
            None => &mut self.unconditional,
        };
        files.extend(u32::try_from(place));
        self.groups.push(CostlyGroup { cheap, path: false, sha256: false, sha256_beside: HashSet::new() });
        place
    }
}

/// How many entries have a selector.
struct Frequencies<'a>(HashMap<&'a Selector, u32>);

impl<'a> Frequencies<'a> {
    fn of(entries: &'a [Arc<Entry>]) -> Self {
        let mut count = HashMap::new();
        for selector in entries.iter().flat_map(|entry| &entry.selectors) {
            *count.entry(selector).or_insert(0) += 1;
        }
        Self(count)
    }

    /// The selector that the fewest entries have; among equals the first, so that the same entries give the same index.
    fn rarest<'s>(&self, selectors: &'s [Selector]) -> Option<&'s Selector> {
        selectors.iter().min_by_key(|selector| (self.0.get(selector), *selector))
    }
}

fn is_costly(selector: &Selector) -> bool {
    matches!(selector, Selector::UnixPath(_) | Selector::UnixSha256(_))
}

/// Whether somebody has looked for facts of this kind.
fn is_settled(evidence: &EvidenceSet, kind: SelectorKind) -> bool {
    evidence.facts().iter().any(|fact| fact.selector.kind() == kind)
        || evidence
            .withheld()
            .iter()
            .any(|withheld| withheld.kind == kind && withheld.because != WithheldBecause::NotWanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::Grade;
    use crate::evidence::Source;

    fn evidence(selectors: &[&str]) -> EvidenceSet {
        let mut evidence = EvidenceSet::default();
        for text in selectors {
            evidence.prove(text.parse().unwrap(), Grade::Kernel, Source::Credentials);
        }
        evidence
    }

    fn paths(candidates: &[&Arc<Entry>]) -> Vec<String> {
        candidates.iter().map(|entry| entry.id.path().to_owned()).collect()
    }

    #[test]
    fn one_process_among_a_hundred_thousand_entries_looks_at_no_more_than_share_its_rarest_selector() {
        let entries = (0..100_000)
            .map(|n| {
                let service = format!("systemd:id:service-{}.service", n / 100);
                Entry::example(n, &format!("/e{n}"), &["unix:uid:1000", "host:true", &service])
            })
            .collect();
        let index = EntryIndex::new(entries);
        let caller = evidence(&["unix:uid:1000", "host:true", "systemd:id:service-77.service"]);
        assert_eq!(index.candidates(&caller).len(), 100);
        assert_eq!(index.candidates(&evidence(&["unix:uid:1000", "host:true"])).len(), 0);
    }

    #[test]
    fn candidates_come_by_priority_and_then_in_the_order_of_the_files() {
        let mut entries = vec![
            Entry::example(0, "/first", &["unix:uid:7"]),
            Entry::example(1, "/second", &["unix:gid:7"]),
            Entry::example(2, "/urgent", &["unix:uid:7"]),
        ];
        entries[2].priority = 10;
        entries.reverse();
        let index = EntryIndex::new(entries);
        assert_eq!(
            paths(&index.candidates(&evidence(&["unix:uid:7", "unix:gid:7"]))),
            ["/urgent", "/first", "/second"]
        );
    }

    #[test]
    fn an_entry_without_selectors_is_nobodys_candidate() {
        let index = EntryIndex::new(vec![Entry::example(0, "/everyone", &[])]);
        assert!(index.candidates(&evidence(&["unix:uid:0", "host:true"])).is_empty());
        assert_eq!(index.wants(&evidence(&["unix:uid:0"])), Wants::NOTHING);
    }

    #[test]
    fn a_path_is_wanted_only_by_an_entry_that_lacks_nothing_else() {
        let index = EntryIndex::new(vec![Entry::example(0, "/web", &["unix:uid:1", "unix:path:/usr/bin/web"])]);
        assert_eq!(index.wants(&evidence(&["unix:uid:1"])), Wants { path: true, sha256: false });
        assert_eq!(index.wants(&evidence(&["unix:uid:2"])), Wants::NOTHING);
        assert_eq!(index.wants(&evidence(&["unix:uid:1", "unix:path:/usr/bin/other"])), Wants::NOTHING);
    }

    #[test]
    fn a_hash_beside_a_path_is_wanted_only_while_that_path_can_still_hold() {
        let sha256 = format!("unix:sha256:{}", "ab".repeat(32));
        let entries = vec![
            Entry::example(0, "/both", &["unix:uid:1", "unix:path:/usr/bin/web", &sha256]),
            Entry::example(1, "/hash", &["unix:uid:2", &sha256]),
        ];
        let index = EntryIndex::new(entries);
        assert_eq!(index.wants(&evidence(&["unix:uid:1"])), Wants { path: true, sha256: true });
        let right = evidence(&["unix:uid:1", "unix:path:/usr/bin/web"]);
        assert_eq!(index.wants(&right), Wants { path: false, sha256: true });
        assert_eq!(index.wants(&evidence(&["unix:uid:1", "unix:path:/usr/bin/sh"])), Wants::NOTHING);
        assert_eq!(index.wants(&evidence(&["unix:uid:2"])), Wants { path: false, sha256: true });
    }

    #[test]
    fn what_was_withheld_for_a_reason_is_not_wanted_again_and_what_nobody_wanted_is() {
        let index = EntryIndex::new(vec![Entry::example(0, "/web", &["unix:uid:1", "unix:path:/usr/bin/web"])]);
        let mut caller = evidence(&["unix:uid:1"]);
        caller.withhold(SelectorKind::UnixPath, None, WithheldBecause::NotWanted);
        assert!(index.wants(&caller).path);
        caller.withhold(SelectorKind::UnixPath, None, WithheldBecause::PathIsAnotherFile);
        assert!(!index.wants(&caller).path);
    }

    #[test]
    fn an_entry_that_is_only_a_path_wants_it_of_everybody() {
        let index = EntryIndex::new(vec![Entry::example(0, "/web", &["unix:path:/usr/bin/web"])]);
        assert_eq!(index.wants(&evidence(&["unix:uid:1"])), Wants { path: true, sha256: false });
    }

    #[test]
    fn a_hundred_thousand_paths_of_one_user_are_one_question() {
        let entries = (0..100_000)
            .map(|n| Entry::example(n, &format!("/e{n}"), &["unix:uid:1", &format!("unix:path:/opt/{n}")]))
            .collect();
        let index = EntryIndex::new(entries);
        assert_eq!(index.costly.groups.len(), 1);
        assert!(index.wants(&evidence(&["unix:uid:1"])).path);
    }
}
