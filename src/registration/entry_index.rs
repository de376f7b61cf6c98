//! The index over all entries. For a set of evidence it returns the candidates, the providers to ask next, and the
//! entries that open providers could still make match.
//!
//! Each entry is indexed under its rarest selector, so the cost of a look-up grows with the candidates and not with the
//! entries. A user or group name is a fact of the kernel while its id is confirmed, and one of the name service while it
//! is open. Does not know the caller, and does not decide.

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

/// All active entries and the account names that they use. Both are replaced together, as one value, so they never come
/// from two configurations.
#[derive(Debug, Default)]
pub struct EntryIndex {
    /// INVARIANT: larger priority first, then order.
    entries: Vec<Arc<Entry>>,
    /// Positions in `entries`, ascending, by each entry's rarest selector.
    by_rarest: HashMap<Selector, Vec<u32>>,
    groups: KernelGroups,
    federated: BTreeSet<TrustDomain>,
    accounts: Accounts,
    /// The groups that an entry names, by gid or by a name that has it now.
    named_groups: BTreeSet<u32>,
}

/// The entries that need facts of providers other than the kernel, grouped by their kernel selectors.
#[derive(Debug, Default)]
struct KernelGroups {
    all: Vec<KernelGroup>,
    /// Positions in `all`, by the rarest of the group's kernel selectors.
    by_rarest: HashMap<Selector, Vec<u32>>,
    /// Positions in `all` of the groups without kernel selectors.
    unconditional: Vec<u32>,
}

/// Entries with the same kernel selectors. A thousand paths of one user are one group, so the cost of
/// [`EntryIndex::wants`] does not grow with the paths.
#[derive(Debug)]
struct KernelGroup {
    kernel: Vec<Selector>,
    /// Positions of entries, by the first provider, other than the kernel, that they need.
    by_provider: BTreeMap<Provider, Vec<u32>>,
    /// Positions of entries, by their first selector of that provider.
    by_selector: HashMap<Selector, Vec<u32>>,
}

/// An entry that open providers, pending or undecided, could still make match.
#[derive(Debug, Clone)]
pub struct OpenEntry<'a> {
    /// The entry.
    pub entry: &'a Arc<Entry>,
    /// The open providers whose facts the entry lacks; never empty.
    pub awaits: Providers,
}

/// What an entry lacks, as far as the answers of the providers show.
enum Lacks {
    /// Nothing.
    Nothing,
    /// A fact of a provider that has settled: the entry cannot match.
    Refuted,
    /// Only facts of providers that were not asked; this is the first of them.
    Unasked(Provider),
    /// Facts of these open providers, and possibly of some that were not asked.
    Open(Providers),
}

impl EntryIndex {
    /// Sorts and indexes entries that use no user or group names.
    #[must_use]
    pub fn new<E: Into<Arc<Entry>>>(entries: Vec<E>) -> Self {
        Self::with_accounts(entries, Accounts::default())
    }

    /// Sorts and indexes the entries; `accounts` are those for the user and group names that they use.
    #[must_use]
    pub fn with_accounts<E: Into<Arc<Entry>>>(entries: Vec<E>, accounts: Accounts) -> Self {
        let mut entries: Vec<Arc<Entry>> = entries.into_iter().map(E::into).collect();
        entries.sort_by_key(|entry| entry.rank());
        let frequencies = Frequencies::of(&entries);
        let mut by_rarest: HashMap<Selector, Vec<u32>> = HashMap::new();
        for (position, entry) in (0..).zip(&entries) {
            // INVARIANT: an entry without selectors is not indexed, so it can never match.
            if let Some(rarest) = frequencies.rarest(&entry.selectors) {
                by_rarest.entry(rarest.clone()).or_default().push(position);
            }
        }
        let groups = KernelGroups::of(&entries, &frequencies, &accounts);
        let federated = entries.iter().flat_map(|entry| entry.federates_with.iter().cloned()).collect();
        let gids = entries.iter().flat_map(|entry| &entry.selectors).filter_map(|selector| match selector {
            Selector::UnixSupplementaryGid(gid) => Some(*gid),
            _ => None,
        });
        let named_groups = gids.chain(accounts.group_ids()).collect();
        Self { by_rarest, groups, federated, accounts, named_groups, entries }
    }

    /// All entries: larger priority first, then order.
    #[must_use]
    pub fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    /// The accounts for the user and group names that these entries use.
    #[must_use]
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// The supplementary groups that an entry can use.
    #[must_use]
    pub fn named_groups(&self) -> &BTreeSet<u32> {
        &self.named_groups
    }

    /// The foreign trust domains that at least one entry federates with.
    #[must_use]
    pub fn federated(&self) -> &BTreeSet<TrustDomain> {
        &self.federated
    }

    /// The entries whose rarest selector holds, in order: a superset of those that match. No other entry is compared.
    #[must_use]
    pub fn candidates(&self, evidence: &EvidenceSet) -> Vec<&Arc<Entry>> {
        let mut positions: Vec<u32> =
            evidence.facts().iter().filter_map(|fact| self.by_rarest.get(&fact.selector)).flatten().copied().collect();
        positions.sort_unstable();
        positions.into_iter().filter_map(|position| self.entries.get(position as usize)).collect()
    }

    /// The providers to ask next: not asked yet, and the next one of an entry whose kernel selectors all hold.
    ///
    /// The providers of an entry are asked one after the other: a file is hashed only after the path beside it has been
    /// proven. So call this again after each answer. An entry is compared only after its first provider has proven its
    /// first selector; until then that provider is wanted, whatever the entry lacks of the others.
    #[must_use]
    pub fn wants(&self, evidence: &EvidenceSet) -> Providers {
        let mut wanted = Providers::new();
        for group in self.groups.satisfied_by(evidence) {
            let unasked = |provider: &&Provider| evidence.answer_of(provider).is_none();
            wanted.extend(group.by_provider.keys().filter(unasked).cloned());
            for entry in self.entries_at(group.first_proven(evidence)) {
                if let Lacks::Unasked(provider) = self.lacks(entry, evidence) {
                    wanted.insert(provider);
                }
            }
        }
        wanted
    }

    /// The entries, in order, that open providers could still make match. Compares only entries whose kernel selectors
    /// all hold, and none where every provider has settled.
    #[must_use]
    pub fn open(&self, evidence: &EvidenceSet) -> Vec<OpenEntry<'_>> {
        if !evidence.is_open() {
            return Vec::new();
        }
        let mut positions = BTreeSet::new();
        for group in self.groups.satisfied_by(evidence) {
            let open = |provider: &Provider| evidence.answer_of(provider).is_none_or(Answer::is_open);
            positions.extend(group.by_provider.iter().filter(|(provider, _)| open(provider)).flat_map(|(_, at)| at));
            positions.extend(group.first_proven(evidence));
        }
        let open = self.entries_at(positions.iter()).filter_map(|entry| match self.lacks(entry, evidence) {
            Lacks::Open(awaits) => Some(OpenEntry { entry, awaits }),
            _ => None,
        });
        open.collect()
    }

    fn entries_at<'a>(&self, positions: impl Iterator<Item = &'a u32>) -> impl Iterator<Item = &Arc<Entry>> {
        positions.filter_map(|position| self.entries.get(*position as usize))
    }

    /// What an entry lacks for this evidence.
    fn lacks(&self, entry: &Entry, evidence: &EvidenceSet) -> Lacks {
        let mut awaits = Providers::new();
        let mut unasked = None;
        for selector in entry.selectors.iter().filter(|selector| !evidence.holds(selector)) {
            let provider = provider_of(selector, &self.accounts);
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
}

/// Who proves this selector now.
///
/// SECURITY: by name and not for all names together: one name that has no answer must not leave entries open that use
/// other names.
fn provider_of(selector: &Selector, accounts: &Accounts) -> Provider {
    if accounts.leaves_open(selector) { Provider::NAMES } else { selector.provider() }
}

impl KernelGroups {
    fn of(entries: &[Arc<Entry>], frequencies: &Frequencies<'_>, accounts: &Accounts) -> Self {
        let mut groups = Self::default();
        let mut positions: HashMap<Vec<&Selector>, usize> = HashMap::new();
        for (at, entry) in (0..).zip(entries) {
            let by_provider = entry.selectors.iter().map(|selector| (provider_of(selector, accounts), selector));
            let (kernel, others): (Vec<_>, Vec<_>) =
                by_provider.partition(|(provider, _)| *provider == Provider::KERNEL);
            let Some((provider, first)) = others.into_iter().min() else { continue };
            let kernel = kernel.into_iter().map(|(_, selector)| selector).collect();
            let position = *positions.entry(kernel).or_insert_with_key(|kernel| groups.add(kernel, frequencies));
            let Some(group) = groups.all.get_mut(position) else { continue };
            group.by_provider.entry(provider).or_default().push(at);
            group.by_selector.entry(first.clone()).or_default().push(at);
        }
        groups
    }

    fn add(&mut self, kernel: &[&Selector], frequencies: &Frequencies<'_>) -> usize {
        let kernel: Vec<Selector> = kernel.iter().map(|selector| (*selector).clone()).collect();
        let position = self.all.len();
        let positions = match frequencies.rarest(&kernel) {
            Some(rarest) => self.by_rarest.entry(rarest.clone()).or_default(),
            None => &mut self.unconditional,
        };
        positions.extend(u32::try_from(position));
        self.all.push(KernelGroup { kernel, by_provider: BTreeMap::new(), by_selector: HashMap::new() });
        position
    }

    /// The groups whose kernel selectors all hold.
    fn satisfied_by(&self, evidence: &EvidenceSet) -> impl Iterator<Item = &KernelGroup> {
        let conditional = evidence.facts().iter().filter_map(|fact| self.by_rarest.get(&fact.selector)).flatten();
        let positions = self.unconditional.iter().chain(conditional);
        let groups = positions.filter_map(|position| self.all.get(*position as usize));
        groups.filter(|group| group.kernel.iter().all(|selector| evidence.holds(selector)))
    }
}

impl KernelGroup {
    /// The positions of entries whose first provider has proven their first selector.
    fn first_proven(&self, evidence: &EvidenceSet) -> impl Iterator<Item = &u32> {
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

    /// The selector that the fewest entries have. Among equals it is the smallest, so the same entries give the same
    /// index.
    fn rarest<'s>(&self, selectors: &'s [Selector]) -> Option<&'s Selector> {
        selectors.iter().min_by_key(|selector| (self.0.get(selector), *selector))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::AccountName;
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
    fn only_entries_whose_rarest_selector_holds_are_candidates() {
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
    fn candidates_are_sorted_by_priority_and_then_by_their_order() {
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
    fn an_entry_without_selectors_is_never_a_candidate() {
        let index = EntryIndex::new(vec![Entry::example(0, "/everyone", &[])]);
        assert!(index.candidates(&evidence(&["unix:uid:0", "host:true"])).is_empty());
        assert_eq!(index.wants(&evidence(&["unix:uid:0"])), Providers::new());
    }

    #[test]
    fn a_path_is_wanted_only_where_the_kernel_selectors_of_its_entry_hold() {
        let index = EntryIndex::new(vec![Entry::example(0, "/web", &["unix:uid:1", "unix:path:/usr/bin/web"])]);
        assert_eq!(index.wants(&evidence(&["unix:uid:1"])), providers(["path"]));
        assert_eq!(index.wants(&evidence(&["unix:uid:2"])), Providers::new());
        assert_eq!(index.wants(&evidence(&["unix:uid:1", "unix:path:/usr/bin/other"])), Providers::new());
    }

    #[test]
    fn a_hash_is_wanted_only_after_the_path_of_its_entry_is_proven() {
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
    fn a_provider_with_an_answer_is_not_wanted_again() {
        let index = EntryIndex::new(vec![Entry::example(0, "/web", &["unix:uid:1", "unix:path:/usr/bin/web"])]);
        let mut caller = evidence(&["unix:uid:1"]);
        caller.withhold(SelectorKind::UnixPath, None, WithheldBecause::Deleted);
        assert_eq!(index.wants(&caller), providers(["path"]));
        for answer in [Answer::Settled, Answer::Pending, Answer::Undecided(Undecided::TimedOut)] {
            caller.answered(Provider::PATH, answer);
            assert_eq!(index.wants(&caller), Providers::new(), "{answer:?}");
        }
    }

    #[test]
    fn an_entry_with_only_a_path_wants_the_path_of_every_process() {
        let index = EntryIndex::new(vec![Entry::example(0, "/web", &["unix:path:/usr/bin/web"])]);
        assert_eq!(index.wants(&evidence(&["unix:uid:1"])), providers(["path"]));
    }

    #[test]
    fn a_hundred_thousand_paths_of_one_user_are_one_group() {
        let entries = (0..100_000)
            .map(|n| Entry::example(n, &format!("/e{n}"), &["unix:uid:1", &format!("unix:path:/opt/{n}")]))
            .collect();
        let index = EntryIndex::new(entries);
        assert_eq!(index.groups.all.len(), 1);
        assert_eq!(index.wants(&evidence(&["unix:uid:1"])), providers(["path"]));
        assert_eq!(index.groups.all[0].first_proven(&evidence(&["unix:uid:1", "unix:path:/opt/7"])).count(), 1);
    }

    fn open(index: &EntryIndex, evidence: &EvidenceSet) -> Vec<(String, Providers)> {
        index.open(evidence).into_iter().map(|open| (open.entry.id.path().to_owned(), open.awaits)).collect()
    }

    #[test]
    fn an_entry_is_open_while_only_facts_of_open_providers_lack() {
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

    #[test]
    fn an_open_name_leaves_its_own_entries_open_and_no_other() {
        let undecided = Answer::Undecided(Undecided::NameService);
        let mut accounts = Accounts::example(&[(1, "bob")], &[]);
        accounts.leave_open(AccountName::User("alice".into()), undecided);
        let entries = vec![
            Entry::example(0, "/alice", &["unix:user:alice", "unix:gid:7"]),
            Entry::example(1, "/bob", &["unix:user:bob", "unix:gid:7"]),
            Entry::example(2, "/absent", &["unix:user:nobody-here", "unix:gid:7"]),
            Entry::example(3, "/program", &["unix:user:alice", "unix:gid:7", "unix:path:/usr/bin/web"]),
        ];
        let index = EntryIndex::with_accounts(entries, accounts);
        let mut caller = evidence(&["unix:uid:2", "unix:gid:7"]);
        caller.answered(Provider::NAMES, undecided);
        assert_eq!(index.wants(&caller), Providers::new(), "no path is read for a name that nobody knows");
        let awaits = providers(["names"]);
        assert_eq!(open(&index, &caller), [("/alice".to_owned(), awaits.clone()), ("/program".to_owned(), awaits)]);
        let mut stranger = evidence(&["unix:uid:2", "unix:gid:8"]);
        stranger.answered(Provider::NAMES, undecided);
        assert_eq!(open(&index, &stranger), []);
    }
}
