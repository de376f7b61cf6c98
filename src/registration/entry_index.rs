//! The index over all entries: which of them can a set of evidence satisfy, which providers could matter, and what could
//! they still change? Each entry is filed under the rarest of its selectors, so that a look-up grows with the candidates
//! and not with the entries. Knows nothing of who asks or of what an entry is worth.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;

use crate::evidence::Accounts;
use crate::evidence::Answer;
use crate::evidence::EvidenceSet;
use crate::evidence::Provider;
use crate::evidence::Providers;
use crate::evidence::Selector;
use crate::identity::TrustDomain;
use crate::registration::entry::Entry;

/// All entries in force, and the account names that they use: one value, swapped whole, so that names and entries are
/// never of two configurations.
#[derive(Debug, Default)]
pub struct EntryIndex {
    /// INVARIANT: larger priority first, then order.
    entries: Vec<Arc<Entry>>,
    /// Places in `entries`, ascending, by each entry's rarest selector.
    by_rarest: HashMap<Selector, Vec<u32>>,
    groups: Groups,
    federated: BTreeSet<TrustDomain>,
    accounts: Accounts,
}

/// The entries that need facts of other providers beside those of the kernel.
#[derive(Debug, Default)]
struct Groups {
    all: Vec<Group>,
    /// Places in `all` by the rarest of the group's kernel selectors.
    by_rarest: HashMap<Selector, Vec<u32>>,
    /// Places in `all` of those that need nothing of the kernel.
    unconditional: Vec<u32>,
}

/// Entries with the same kernel selectors. A thousand paths of one user are one group: asking which providers matter must
/// not take longer the more paths there are.
#[derive(Debug)]
struct Group {
    kernel: Vec<Selector>,
    /// Places of entries by the first provider that they need.
    by_provider: BTreeMap<Provider, Vec<u32>>,
    /// Places of entries by their first selector of that provider.
    by_selector: HashMap<Selector, Vec<u32>>,
}

/// An entry that a provider which has not answered could still make match.
#[derive(Debug, Clone)]
pub struct OpenEntry<'a> {
    /// The entry.
    pub entry: &'a Arc<Entry>,
    /// The providers without an answer whose facts it lacks; never empty.
    pub awaits: Providers,
}

/// What an entry that needs more than kernel facts lacks for some evidence.
enum Lacks {
    /// Nothing.
    Nothing,
    /// Something that an answer has ruled out.
    Refuted,
    /// First of all a fact of a provider that was not asked.
    Unasked(Provider),
    /// Facts of providers without an answer, and of none that has one.
    Open(Providers),
}

impl EntryIndex {
    /// Puts entries in order and files them.
    #[must_use]
    pub fn new<E: Into<Arc<Entry>>>(entries: Vec<E>) -> Self {
        let mut entries: Vec<Arc<Entry>> = entries.into_iter().map(E::into).collect();
        entries.sort_by_key(|entry| entry.rank());
        let frequencies = Frequencies::of(&entries);
        let mut by_rarest: HashMap<Selector, Vec<u32>> = HashMap::new();
        for (place, entry) in (0..).zip(&entries) {
            // INVARIANT: an entry without selectors is filed nowhere, so it can never match.
            if let Some(rarest) = frequencies.rarest(&entry.selectors) {
                by_rarest.entry(rarest.clone()).or_default().push(place);
            }
        }
        let groups = Groups::of(&entries, &frequencies);
        let federated = entries.iter().flat_map(|entry| entry.federates_with.iter().cloned()).collect();
        Self { by_rarest, groups, federated, accounts: Accounts::default(), entries }
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

    /// The providers that were not asked yet, and whose facts could make an entry match whose other selectors all hold.
    ///
    /// An entry asks its providers one after the other: while the path is not known, no file is hashed beside it. So ask
    /// again after each answer.
    #[must_use]
    pub fn wants(&self, evidence: &EvidenceSet) -> Providers {
        let mut wanted = Providers::new();
        for group in self.groups.that_hold(evidence) {
            let unasked = |provider: &&Provider| evidence.answer_of(provider).is_none();
            wanted.extend(group.by_provider.keys().filter(unasked).cloned());
            for entry in self.entries_at(group.beside(evidence)) {
                if let Lacks::Unasked(provider) = lacks(entry, evidence) {
                    wanted.insert(provider);
                }
            }
        }
        wanted
    }

    /// The entries, in order, that providers without an answer could still make match. Looks at no more entries than have
    /// the same kernel selectors, and at none while every provider has answered.
    #[must_use]
    pub fn open(&self, evidence: &EvidenceSet) -> Vec<OpenEntry<'_>> {
        if !evidence.is_open() {
            return Vec::new();
        }
        let mut places = BTreeSet::new();
        for group in self.groups.that_hold(evidence) {
            let open = |provider: &Provider| evidence.answer_of(provider).is_none_or(Answer::is_open);
            places.extend(group.by_provider.iter().filter(|(provider, _)| open(provider)).flat_map(|(_, at)| at));
            places.extend(group.beside(evidence));
        }
        let open = self.entries_at(places.iter()).filter_map(|entry| match lacks(entry, evidence) {
            Lacks::Open(awaits) => Some(OpenEntry { entry, awaits }),
            _ => None,
        });
        open.collect()
    }

    fn entries_at<'a>(&self, places: impl Iterator<Item = &'a u32>) -> impl Iterator<Item = &Arc<Entry>> {
        places.filter_map(|place| self.entries.get(*place as usize))
    }
}

fn lacks(entry: &Entry, evidence: &EvidenceSet) -> Lacks {
    let mut awaits = Providers::new();
    let mut unasked = None;
    for selector in entry.selectors.iter().filter(|selector| !evidence.holds(selector)) {
        let provider = selector.provider();
        match evidence.answer_of(&provider) {
            Some(Answer::Settled) => return Lacks::Refuted,
            Some(Answer::Pending | Answer::Undecided(_)) => drop(awaits.insert(provider)),
            None if unasked.as_ref().is_none_or(|first| provider < *first) => unasked = Some(provider),
            None => {}
        }
    }
    match unasked {
        _ if !awaits.is_empty() => Lacks::Open(awaits),
        Some(provider) => Lacks::Unasked(provider),
        None => Lacks::Nothing,
    }
}

impl Groups {
    fn of(entries: &[Arc<Entry>], frequencies: &Frequencies<'_>) -> Self {
        let mut groups = Self::default();
        let mut places: HashMap<Vec<&Selector>, usize> = HashMap::new();
        for (at, entry) in (0..).zip(entries) {
            let others = entry.selectors.iter().map(|selector| (selector.provider(), selector));
            let Some((provider, first)) = others.filter(|(provider, _)| *provider != Provider::KERNEL).min() else {
                continue;
            };
            let kernel = entry.selectors.iter().filter(|selector| selector.provider() == Provider::KERNEL).collect();
            let place = *places.entry(kernel).or_insert_with_key(|kernel| groups.add(kernel, frequencies));
            let Some(group) = groups.all.get_mut(place) else { continue };
            group.by_provider.entry(provider).or_default().push(at);
            group.by_selector.entry(first.clone()).or_default().push(at);
        }
        groups
    }

    fn add(&mut self, kernel: &[&Selector], frequencies: &Frequencies<'_>) -> usize {
        let kernel: Vec<Selector> = kernel.iter().map(|selector| (*selector).clone()).collect();
        let place = self.all.len();
        let files = match frequencies.rarest(&kernel) {
            Some(rarest) => self.by_rarest.entry(rarest.clone()).or_default(),
            None => &mut self.unconditional,
        };
        files.extend(u32::try_from(place));
        self.all.push(Group { kernel, by_provider: BTreeMap::new(), by_selector: HashMap::new() });
        place
    }

    /// The groups whose kernel selectors all hold.
    fn that_hold(&self, evidence: &EvidenceSet) -> impl Iterator<Item = &Group> {
        let conditional = evidence.facts().iter().filter_map(|fact| self.by_rarest.get(&fact.selector)).flatten();
        let places = self.unconditional.iter().chain(conditional);
        let groups = places.filter_map(|place| self.all.get(*place as usize));
        groups.filter(|group| group.kernel.iter().all(|selector| evidence.holds(selector)))
    }
}

impl Group {
    /// The places of the entries whose first provider has proven the first of their selectors.
    fn beside(&self, evidence: &EvidenceSet) -> impl Iterator<Item = &u32> {
        evidence.facts().iter().filter_map(|fact| self.by_selector.get(&fact.selector)).flatten()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::SelectorKind;
    use crate::evidence::Undecided;
    use crate::evidence::WithheldBecause;

    fn evidence(selectors: &[&str]) -> EvidenceSet {
        EvidenceSet::example(selectors)
    }

    fn providers<const N: usize>(names: [&'static str; N]) -> Providers {
        names.map(Provider::new).into()
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
        assert_eq!(index.wants(&evidence(&["unix:uid:0"])), Providers::new());
    }

    #[test]
    fn a_path_is_wanted_only_by_an_entry_that_lacks_nothing_else() {
        let index = EntryIndex::new(vec![Entry::example(0, "/web", &["unix:uid:1", "unix:path:/usr/bin/web"])]);
        assert_eq!(index.wants(&evidence(&["unix:uid:1"])), providers(["path"]));
        assert_eq!(index.wants(&evidence(&["unix:uid:2"])), Providers::new());
        assert_eq!(index.wants(&evidence(&["unix:uid:1", "unix:path:/usr/bin/other"])), Providers::new());
    }

    #[test]
    fn a_hash_beside_a_path_is_wanted_once_that_path_holds() {
        let sha256 = format!("unix:sha256:{}", "ab".repeat(32));
        let entries = vec![
            Entry::example(0, "/both", &["unix:uid:1", "unix:path:/usr/bin/web", &sha256]),
            Entry::example(1, "/hash", &["unix:uid:2", &sha256]),
        ];
        let index = EntryIndex::new(entries);
        assert_eq!(index.wants(&evidence(&["unix:uid:1"])), providers(["path"]));
        assert_eq!(index.wants(&evidence(&["unix:uid:1", "unix:path:/usr/bin/web"])), providers(["sha256"]));
        assert_eq!(index.wants(&evidence(&["unix:uid:1", "unix:path:/usr/bin/sh"])), Providers::new());
        assert_eq!(index.wants(&evidence(&["unix:uid:2"])), providers(["sha256"]));
    }

    #[test]
    fn a_provider_that_has_answered_or_was_asked_is_not_wanted_again() {
        let index = EntryIndex::new(vec![Entry::example(0, "/web", &["unix:uid:1", "unix:path:/usr/bin/web"])]);
        let mut caller = evidence(&["unix:uid:1"]);
        caller.withhold(SelectorKind::UnixPath, None, WithheldBecause::NotWanted);
        assert_eq!(index.wants(&caller), providers(["path"]));
        for answer in [Answer::Settled, Answer::Pending, Answer::Undecided(Undecided::TimedOut)] {
            caller.answered(Provider::PATH, answer);
            assert_eq!(index.wants(&caller), Providers::new(), "{answer:?}");
        }
    }

    #[test]
    fn an_entry_that_is_only_a_path_wants_it_of_everybody() {
        let index = EntryIndex::new(vec![Entry::example(0, "/web", &["unix:path:/usr/bin/web"])]);
        assert_eq!(index.wants(&evidence(&["unix:uid:1"])), providers(["path"]));
    }

    #[test]
    fn a_hundred_thousand_paths_of_one_user_are_one_question() {
        let entries = (0..100_000)
            .map(|n| Entry::example(n, &format!("/e{n}"), &["unix:uid:1", &format!("unix:path:/opt/{n}")]))
            .collect();
        let index = EntryIndex::new(entries);
        assert_eq!(index.groups.all.len(), 1);
        assert_eq!(index.wants(&evidence(&["unix:uid:1"])), providers(["path"]));
        assert_eq!(index.groups.all[0].beside(&evidence(&["unix:uid:1", "unix:path:/opt/7"])).count(), 1);
    }

    fn open(index: &EntryIndex, evidence: &EvidenceSet) -> Vec<(String, Providers)> {
        index.open(evidence).into_iter().map(|open| (open.entry.id.path().to_owned(), open.awaits)).collect()
    }

    #[test]
    fn an_entry_is_open_while_all_that_it_lacks_may_still_come() {
        let label = |order, path, selectors: &[&str]| {
            let mut entry = Entry::example(order, path, &[]);
            entry.selectors = selectors.iter().map(|text| Selector::try_from((*text).to_owned()).unwrap()).collect();
            entry.selectors.sort();
            entry
        };
        let index = EntryIndex::new(vec![
            label(0, "/plain", &["unix:uid:1"]),
            label(1, "/label", &["unix:uid:1", "docker:label:app:web"]),
            label(2, "/both", &["unix:uid:1", "docker:label:app:web", "unix:path:/usr/bin/web"]),
            label(3, "/other", &["unix:uid:2", "docker:label:app:web"]),
        ]);
        let mut caller = evidence(&["unix:uid:1"]);
        assert_eq!(open(&index, &caller), []);
        caller.answered(Provider::new("docker"), Answer::Pending);
        let docker = providers(["docker"]);
        assert_eq!(
            open(&index, &caller),
            [("/label".to_owned(), docker.clone()), ("/both".to_owned(), docker.clone())]
        );
        caller.answered(Provider::PATH, Answer::Settled);
        assert_eq!(open(&index, &caller), [("/label".to_owned(), docker)], "the path is another one");
        caller.answered(Provider::new("docker"), Answer::Settled);
        assert_eq!(open(&index, &caller), []);
    }
}
