//! Who the users and groups of one process are, for an operator who asks about it. Nothing is decided by these names.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Gid;
use nix::unistd::Group;
use nix::unistd::Uid;
use nix::unistd::User;
use tokio::sync::Semaphore;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::evidence::Answer;
use crate::evidence::EvidenceSet;
use crate::evidence::Grade;
use crate::evidence::Provider;
use crate::evidence::Selector;
use crate::evidence::SelectorKind;
use crate::evidence::Source;
use crate::evidence::Undecided;
use crate::evidence::WithheldBecause;
use crate::names::system::has_names_of_first_process;

/// How long the name service may take for all names of one process.
const WITHIN: Duration = Duration::from_secs(2);
/// The most threads that may hang in the name service.
const THREADS: usize = 2;

/// An id that may have a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum AccountId {
    User(u32),
    Group(u32),
}

/// The name of an id; `None` where it has none.
type Ask = fn(AccountId) -> Result<Option<String>, Undecided>;

/// Asks the name service for the names of ids.
#[derive(Debug, Clone)]
pub(in crate::agent) struct NamesById {
    threads: Arc<Semaphore>,
    ask: Ask,
}

impl Default for NamesById {
    fn default() -> Self {
        Self::asking(ask_system)
    }
}

impl NamesById {
    fn asking(ask: Ask) -> Self {
        Self { threads: Arc::new(Semaphore::new(THREADS)), ask }
    }

    /// Adds the names of the users and groups of a process to the evidence about it, except where names are withheld.
    pub(in crate::agent) async fn add(&self, evidence: &mut EvidenceSet) {
        let named = evidence.facts().iter().filter_map(|fact| named(&fact.selector));
        let named: Vec<_> = named.filter(|(_, kind, _)| evidence.withheld_because(*kind).is_none()).collect();
        if named.is_empty() {
            return;
        }
        let names = match self.look_up(named.iter().map(|(id, ..)| *id).collect()).await {
            Ok(names) => names,
            // The answer that a decision rests on stands.
            Err(_) if evidence.answer_of(&Provider::NAMES).is_some() => return,
            Err(why) => return evidence.answered(Provider::NAMES, Answer::Undecided(why)),
        };
        for (id, kind, source) in named {
            let Some(name) = names.get(&id) else { continue };
            match format!("{}:{name}", kind.as_str()).parse::<Selector>() {
                Ok(selector) => evidence.prove(selector, Grade::Kernel, source),
                Err(_) => evidence.withhold(kind, Some(name.clone()), WithheldBecause::NotPrintable),
            }
        }
    }

    /// A name service may hang: it is asked on a thread of its own, which holds nothing and dies with the process.
    async fn look_up(&self, ids: BTreeSet<AccountId>) -> Result<BTreeMap<AccountId, String>, Undecided> {
        let place = Arc::clone(&self.threads).try_acquire_owned().map_err(|_| Undecided::TimedOut)?;
        let (send, answer) = oneshot::channel();
        let ask = self.ask;
        let look_up = move || {
            let names = ids.into_iter().filter_map(|id| Some(ask(id).transpose()?.map(|name| (id, name)))).collect();
            drop(place);
            let _asker_gone = send.send(names);
        };
        let started = std::thread::Builder::new().name("names-by-id".to_owned()).spawn(look_up);
        started.map_err(|_| Undecided::OutOfMemory)?;
        match timeout(WITHIN, answer).await {
            Ok(Ok(names)) => names,
            Ok(Err(_)) | Err(_) => Err(Undecided::TimedOut),
        }
    }
}

/// The id that a fact tells, the kind of the name that it may have, and where it was read.
fn named(fact: &Selector) -> Option<(AccountId, SelectorKind, Source)> {
    match fact {
        Selector::UnixUid(uid) => Some((AccountId::User(*uid), SelectorKind::UnixUser, Source::Credentials)),
        Selector::UnixGid(gid) => Some((AccountId::Group(*gid), SelectorKind::UnixGroup, Source::Credentials)),
        Selector::UnixSupplementaryGid(gid) => {
            Some((AccountId::Group(*gid), SelectorKind::UnixSupplementaryGroup, Source::Status))
        }
        _ => None,
    }
}

/// SECURITY: in a container the daemon's own name service knows the users of its image. Names count that PID 1 has.
fn ask_system(id: AccountId) -> Result<Option<String>, Undecided> {
    if !has_names_of_first_process() {
        return Err(Undecided::NotPermitted);
    }
    match id {
        AccountId::User(uid) => User::from_uid(Uid::from_raw(uid)).map(|user| user.map(|user| user.name)),
        AccountId::Group(gid) => Group::from_gid(Gid::from_raw(gid)).map(|group| group.map(|group| group.name)),
    }
    .map_err(|_| Undecided::Kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The user and the group 1000 have names, group 27 one that no selector can have; group 5 has none.
    fn service(id: AccountId) -> Result<Option<String>, Undecided> {
        Ok(match id {
            AccountId::User(1000) => Some("web@corp.example".to_owned()),
            AccountId::Group(1000) => Some("domain users".to_owned()),
            AccountId::Group(27) => Some("a\nb".to_owned()),
            _ => None,
        })
    }

    fn evidence(selectors: &[&str]) -> EvidenceSet {
        let mut evidence = EvidenceSet::default();
        for text in selectors {
            evidence.prove(text.parse().unwrap(), Grade::Kernel, Source::Credentials);
        }
        evidence
    }

    fn texts(evidence: &EvidenceSet) -> Vec<String> {
        evidence.facts().iter().map(|fact| fact.selector.to_string()).collect()
    }

    const IDS: [&str; 5] = [
        "unix:uid:1000",
        "unix:gid:1000",
        "unix:supplementary_gid:5",
        "unix:supplementary_gid:27",
        "unix:supplementary_gid:1000",
    ];

    #[tokio::test]
    async fn every_id_of_a_process_is_shown_with_its_name() {
        let mut evidence = evidence(&IDS);
        NamesById::asking(service).add(&mut evidence).await;
        let names: Vec<_> =
            texts(&evidence).into_iter().filter(|text| text.contains("user") || text.contains("group")).collect();
        assert_eq!(
            names,
            ["unix:user:web@corp.example", "unix:group:domain users", "unix:supplementary_group:domain users"]
        );
        assert_eq!(
            evidence.withheld_because(SelectorKind::UnixSupplementaryGroup),
            Some(WithheldBecause::NotPrintable)
        );
    }

    #[tokio::test]
    async fn names_that_are_withheld_are_not_looked_up() {
        let mut evidence = evidence(&IDS);
        for kind in [SelectorKind::UnixUser, SelectorKind::UnixGroup, SelectorKind::UnixSupplementaryGroup] {
            evidence.withhold(kind, None, WithheldBecause::ForeignUserNamespace);
        }
        let before = evidence.clone();
        NamesById::asking(|_| panic!("asked")).add(&mut evidence).await;
        assert_eq!(evidence, before);
    }

    #[tokio::test]
    async fn a_name_service_that_fails_or_hangs_leaves_the_names_undecided() {
        let undecided = |evidence: &EvidenceSet| evidence.answer_of(&Provider::NAMES);
        let mut failed = evidence(&IDS);
        NamesById::asking(|_| Err(Undecided::Kernel)).add(&mut failed).await;
        assert_eq!((undecided(&failed), texts(&failed).len()), (Some(Answer::Undecided(Undecided::Kernel)), IDS.len()));
        let full = NamesById { threads: Arc::new(Semaphore::new(0)), ask: service };
        let mut hung = evidence(&IDS);
        full.add(&mut hung).await;
        assert_eq!(undecided(&hung), Some(Answer::Undecided(Undecided::TimedOut)));
    }
}
