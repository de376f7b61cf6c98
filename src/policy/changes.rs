//! The callers that a new rulebook affects, computed from the recorded trace of each live caller without a new
//! attestation.

use crate::evidence::Accounts;
use crate::evidence::Answer;
use crate::evidence::EvidenceSet;
use crate::evidence::Fact;
use crate::evidence::Provider;
use crate::evidence::Selector;
use crate::evidence::SelectorKind;
use crate::evidence::WithheldBecause::NamesNotReadable;
use crate::identity::SpiffeId;
use crate::policy::decide::Grant;
use crate::policy::decide::Trace;
use crate::policy::decide::Verdict;
use crate::policy::decide::redecide;
use crate::policy::decide::verdict;
use crate::policy::rulebook::Rulebook;
use crate::registration::EntryIndex;

/// A change that was detected on disk and is not applied, because it would end too many live identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBack {
    /// The SPIFFE IDs that would end, sorted; one item for each caller that has it.
    pub ending: Vec<SpiffeId>,
    /// The number of live identities.
    pub live: usize,
}

/// Whether a caller must be attested again for `new`: its verdict differs, or `new` wants a fact that was not read.
/// A caller that is not affected must not be woken.
#[must_use]
pub fn is_affected(trace: &Trace, old: &Rulebook, new: &Rulebook) -> bool {
    // Groups that no entry named before were not kept.
    let names_more = || !new.entries().named_groups().is_subset(old.entries().named_groups());
    if trace.evidence.further_groups() > 0 && names_more() {
        return true;
    }
    let evidence = with_account_names_of(&trace.evidence, new.entries());
    !new.entries().wants(&evidence).is_empty() || {
        let after = verdict(trace.level, &evidence, new);
        let is_pending = |evidence: &EvidenceSet| evidence.answer_of(&Provider::NAMES) == Some(Answer::Pending);
        // A first answer may wait for the name service, and waits no more once its answer is undecided.
        let in_vain = is_pending(&trace.evidence) && !is_pending(&evidence) && !after.open.is_empty();
        in_vain || !is_equivalent(&redecide(trace, old), &after)
    }
}

/// Holds a change back when it would end more than 10 % of the live identities, and at least two. A file that was
/// truncated between two tables is valid TOML. `live` has one trace per caller. Identities of a caller that must be
/// attested again do not count as ended.
#[must_use]
pub fn held_back<'t>(live: impl IntoIterator<Item = &'t Trace>, old: &Rulebook, new: &Rulebook) -> Option<HeldBack> {
    let mut held = HeldBack { ending: Vec::new(), live: 0 };
    for trace in live {
        let before = redecide(trace, old).grants;
        held.live += before.len();
        let evidence = with_account_names_of(&trace.evidence, new.entries());
        if !new.entries().wants(&evidence).is_empty() {
            continue;
        }
        let after = verdict(trace.level, &evidence, new);
        held.ending.extend(before.into_iter().map(|grant| grant.id).filter(|id| !after.may_give(id)));
    }
    held.ending.sort();
    (held.ending.len() >= 2 && held.ending.len() * 10 > held.live).then_some(held)
}

/// The evidence with the account names of `index`: names belong to an index, and ids to a process.
fn with_account_names_of(evidence: &EvidenceSet, index: &EntryIndex) -> EvidenceSet {
    let accounts = index.accounts();
    let mut renamed = EvidenceSet::default();
    renamed.leave_out_groups(evidence.further_groups());
    for withheld in evidence.withheld().iter().filter(|withheld| withheld.because != NamesNotReadable) {
        renamed.withhold(withheld.kind, withheld.seen.clone(), withheld.because);
    }
    let belongs_to_names = |provider: &Provider| *provider == Provider::NAMES;
    for (provider, answer) in evidence.answers().iter().filter(|(provider, _)| !belongs_to_names(provider)) {
        renamed.answered(provider.clone(), *answer);
    }
    if let (None, Some(because)) = (renamed.withheld_because(SelectorKind::UnixUser), accounts.withheld_because()) {
        NAME_KINDS.iter().for_each(|kind| renamed.withhold(*kind, None, because));
    }
    let counts = renamed.withheld_because(SelectorKind::UnixUser).is_none();
    if let Some(answer) = accounts.answer() {
        renamed.answered(Provider::NAMES, if counts { answer } else { Answer::Settled });
    }
    for Fact { selector, grade, source } in evidence.facts() {
        if counts {
            names_of(selector, accounts).into_iter().for_each(|name| renamed.prove(name, *grade, *source));
        }
        if !NAME_KINDS.contains(&selector.kind()) {
            renamed.prove(selector.clone(), *grade, *source);
        }
    }
    renamed
}

const NAME_KINDS: [SelectorKind; 3] =
    [SelectorKind::UnixUser, SelectorKind::UnixGroup, SelectorKind::UnixSupplementaryGroup];

fn names_of(selector: &Selector, accounts: &Accounts) -> Vec<Selector> {
    let users = |uid| accounts.user_names(uid).iter().cloned();
    let groups = |gid| accounts.group_names(gid).iter().cloned();
    match selector {
        Selector::UnixUid(uid) => users(*uid).map(Selector::UnixUser).collect(),
        Selector::UnixGid(gid) => groups(*gid).map(Selector::UnixGroup).collect(),
        Selector::UnixSupplementaryGid(gid) => groups(*gid).map(Selector::UnixSupplementaryGroup).collect(),
        _ => Vec::new(),
    }
}

/// Whether both verdicts are the same for the caller.
fn is_equivalent(before: &Verdict, after: &Verdict) -> bool {
    let alike = |a: &Grant, b: &Grant| a.id == b.id && a.hint == b.hint && a.entry.grants_the_same_as(&b.entry);
    before.grants.len() == after.grants.len()
        && before.grants.iter().zip(&after.grants).all(|(a, b)| alike(a, b))
        && before.open == after.open
        && before.denial == after.denial
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::*;
    use crate::attestation::Attested;
    use crate::evidence::AccountName;
    use crate::evidence::Grade;
    use crate::evidence::Level;
    use crate::evidence::Providers;
    use crate::evidence::Source;
    use crate::evidence::Undecided;
    use crate::evidence::WithheldBecause;
    use crate::policy::decide::decide;
    use crate::policy::decision_id::DecisionId;
    use crate::registration::Entry;
    use crate::registration::entry::Origin;

    /// The trace of a process of `uid` whose path was not read, decided by `rulebook`.
    fn caller(uid: u32, rulebook: &Rulebook) -> Trace {
        let mut evidence = EvidenceSet::default();
        evidence.prove(Selector::UnixUid(uid), Grade::Kernel, Source::Credentials);
        evidence.withhold(SelectorKind::UnixPath, None, WithheldBecause::Deleted);
        let caller = Attested::example(Level::Full, evidence);
        Trace::clone(&decide(&caller, rulebook, DecisionId([0; 6]), SystemTime::UNIX_EPOCH).trace)
    }

    fn web_and_db() -> Vec<Entry> {
        vec![Entry::example(0, "/web", &["unix:uid:1"]), Entry::example(1, "/db", &["unix:uid:2"])]
    }

    fn affected(change: impl Fn(&mut Vec<Entry>)) -> [bool; 2] {
        let old = Rulebook::example(web_and_db());
        let mut entries = web_and_db();
        change(&mut entries);
        let new = Rulebook::example(entries);
        [1, 2].map(|uid| is_affected(&caller(uid, &old), &old, &new))
    }

    #[test]
    fn a_change_affects_only_callers_whose_identity_it_changes() {
        assert_eq!(affected(|_| {}), [false, false]);
        assert_eq!(affected(|entries| entries[0].hint = Some("x".to_owned())), [true, false]);
        assert_eq!(affected(|entries| entries[0].terms.dns = vec!["web.internal".to_owned()]), [true, false]);
        assert_eq!(affected(|entries| drop(entries.remove(1))), [false, true]);
        assert_eq!(affected(|entries| entries.push(Entry::example(2, "/more", &["unix:uid:2"]))), [false, true]);
        assert_eq!(affected(|entries| entries.push(Entry::example(2, "/more", &["unix:uid:3"]))), [false, false]);
    }

    #[test]
    fn moving_an_entry_to_another_line_affects_no_caller() {
        let moved = affected(|entries| {
            entries[0].origin = Origin::File { file: "moved.toml".into(), line: 99 };
            entries[0].order.place = 7;
        });
        assert_eq!(moved, [false, false]);
    }

    #[test]
    fn an_entry_that_wants_an_unread_fact_affects_callers_that_may_have_it() {
        let wants_path = |entries: &mut Vec<Entry>| {
            entries.push(Entry::example(2, "/path", &["unix:uid:2", "unix:path:/usr/bin/db"]));
        };
        assert_eq!(affected(wants_path), [false, true]);
    }

    #[test]
    fn an_entry_with_a_new_user_name_affects_that_user() {
        let old = Rulebook::example(web_and_db());
        let mut entries = web_and_db();
        entries.push(Entry::example(2, "/named", &["unix:user:db"]));
        let accounts = Accounts::example(&[(2, "db")], &[]);
        let new = Rulebook::new(2, EntryIndex::with_accounts(entries, accounts), *old.rules());
        assert!(!is_affected(&caller(1, &old), &old, &new));
        assert!(is_affected(&caller(2, &old), &old, &new));
    }

    /// The rulebook of one entry by the user `db`, whose name is open with this answer, or uid 2.
    fn by_name(answer: Option<Answer>) -> Rulebook {
        let mut accounts = Accounts::default();
        match answer {
            Some(answer) => accounts.leave_open(AccountName::User("db".into()), answer),
            None => accounts.prove(&AccountName::User("db".into()), 2),
        }
        let entries = vec![Entry::example(0, "/db", &["unix:user:db", "unix:gid:7"])];
        Rulebook::new(3, EntryIndex::with_accounts(entries, accounts), *Rulebook::example(Vec::new()).rules())
    }

    /// The trace of a process of uid 2 and this gid, decided by `rulebook` on its names.
    #[test]
    fn a_caller_with_many_groups_is_affected_by_whatever_names_another_group() {
        let crowd = (0..9000).map(|gid| format!("unix:supplementary_gid:{gid}")).collect::<Vec<_>>();
        let selectors: Vec<&str> = crowd.iter().map(String::as_str).chain(["unix:uid:1000"]).collect();
        let caller = Attested::example(Level::Full, EvidenceSet::example(&selectors));
        let with = |gids: &[u32]| {
            let entry = |(place, gid): (u32, &u32)| {
                Entry::example(place, &format!("/{gid}"), &["unix:uid:1000", &format!("unix:supplementary_gid:{gid}")])
            };
            Rulebook::example((0..).zip(gids).map(entry).collect())
        };
        let old = with(&[8000]);
        let trace = decide(&caller, &old, DecisionId([0; 6]), SystemTime::UNIX_EPOCH).trace;
        assert!(trace.heap_bytes() < 4096, "{} bytes", trace.heap_bytes());
        assert_eq!(redecide(&trace, &old).grants.len(), 1, "the group that gave it the identity is kept");
        assert!(is_affected(&trace, &old, &with(&[8000, 8500])), "nobody kept whether it has the group 8500");
        assert!(!is_affected(&trace, &old, &with(&[8000])));
        assert!(is_affected(&trace, &old, &with(&[])));
    }

    fn named_caller(gid: u32, rulebook: &Rulebook) -> Arc<Trace> {
        let mut evidence = EvidenceSet::default();
        evidence.prove(Selector::UnixUid(2), Grade::Kernel, Source::Credentials);
        evidence.prove(Selector::UnixGid(gid), Grade::Kernel, Source::Credentials);
        let evidence = with_account_names_of(&evidence, rulebook.entries());
        decide(&Attested::example(Level::Full, evidence), rulebook, DecisionId([0; 6]), SystemTime::UNIX_EPOCH).trace
    }

    #[test]
    fn a_name_that_opens_or_is_answered_affects_those_alone_who_could_match_by_it() {
        let [pending, undecided, confirmed] =
            [Some(Answer::Pending), Some(Answer::Undecided(Undecided::NameService)), None].map(by_name);
        for (old, new) in [(&confirmed, &undecided), (&undecided, &confirmed), (&pending, &undecided)] {
            assert!(is_affected(&named_caller(7, old), old, new));
            assert!(!is_affected(&named_caller(8, old), old, new), "its group is another one");
        }
        assert!(!is_affected(
            &named_caller(7, &undecided),
            &undecided,
            &by_name(Some(Answer::Undecided(Undecided::NameService)))
        ));
    }

    #[test]
    fn a_name_that_opens_ends_no_identity() {
        let [undecided, confirmed] = [Some(Answer::Undecided(Undecided::NameService)), None].map(by_name);
        let trace = named_caller(7, &confirmed);
        assert_eq!(redecide(&trace, &confirmed).grants.len(), 1);
        let evidence = with_account_names_of(&trace.evidence, undecided.entries());
        let after = verdict(trace.level, &evidence, &undecided);
        assert!(after.grants.is_empty() && after.denial.is_none());
        assert_eq!(after.open[0].awaits, Providers::from([Provider::NAMES]));
    }

    fn held(callers: u32, ended: u32) -> Option<HeldBack> {
        let entry = |uid| Entry::example(uid, &format!("/u{uid}"), &[&format!("unix:uid:{uid}")]);
        let old = Rulebook::example((0..callers).map(entry).collect());
        let new = Rulebook::example((ended..callers).map(entry).collect());
        let live: Vec<_> = (0..callers).map(|uid| caller(uid, &old)).collect();
        held_back(&live, &old, &new)
    }

    #[test]
    fn a_change_that_ends_two_identities_and_over_a_tenth_is_held_back() {
        assert_eq!(held(1, 1), None);
        assert_eq!(held(5, 1), None);
        assert_eq!(held(20, 2), None);
        let halved = held(19, 2).unwrap();
        assert_eq!(halved.live, 19);
        assert_eq!(halved.ending.iter().map(SpiffeId::path).collect::<Vec<_>>(), ["/u0", "/u1"]);
    }
}
