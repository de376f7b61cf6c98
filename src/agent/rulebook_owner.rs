//! The only writer of the rulebook. It joins the entries of all sources, the accounts of the names that they use and the
//! rules to one value with the next epoch. A changed account acts like a changed entry. Refuses to know how a source finds
//! its entries, and how a name is asked.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::agent::config::file_entries::FileEntries;
use crate::entitlement::node_state::NodeState;
use crate::evidence::AccountName;
use crate::evidence::Accounts;
use crate::names::NameService;
use crate::policy::HeldBack;
use crate::policy::Rulebook;
use crate::policy::Rules;
use crate::registration::EntryIndex;
use crate::registration::EntrySet;
use crate::registration::EntrySource;
use crate::registration::HoldBack;

/// The shortest time from one change of a source to the next: what changes more often is taken as it is by then.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);

/// A pause is at least so many times as long as the change took, so that indexing leaves the processor to the callers.
const PAUSE_PER_WORK: u32 = 4;

/// The place of the files among the sources.
const FILES: usize = 0;

/// Owns the rulebook.
#[derive(Debug)]
pub(in crate::agent) struct RulebookOwner {
    node_state: Arc<NodeState>,
    files: Arc<FileEntries>,
    names: Arc<NameService>,
    /// The files first.
    sources: Vec<Arc<dyn EntrySource>>,
    /// Held from the reading of a source to the swap, so that no change undoes another.
    in_force: Mutex<Inputs>,
}

/// What the rulebook in force was made of.
#[derive(Debug)]
struct Inputs {
    epoch: u64,
    /// By source. What was held back is not among them.
    sets: Vec<Arc<EntrySet>>,
    /// The names that the entries of the sets use.
    names: Arc<BTreeSet<AccountName>>,
    accounts: Accounts,
    rules: Rules,
}

/// What a change of a source has led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::agent) enum Taken {
    /// It is in force.
    InForce {
        /// How many streams were woken.
        woken: usize,
    },
    /// It waits for the operator; what was in force before still is.
    HeldBack(HeldBack),
}

impl RulebookOwner {
    /// Puts the entries of `files` and of all other sources in force, under `rules`. Their names are pending until
    /// `names` has asked them.
    #[must_use]
    pub(in crate::agent) fn new(
        node_state: Arc<NodeState>,
        files: Arc<FileEntries>,
        others: Vec<Arc<dyn EntrySource>>,
        names: Arc<NameService>,
        rules: Rules,
    ) -> Self {
        let mut sources: Vec<Arc<dyn EntrySource>> = vec![files.clone()];
        sources.extend(others);
        let sets = sources.iter().map(|source| source.entries().borrow().clone()).collect();
        let epoch = node_state.rulebook().epoch() + 1;
        let inputs = Inputs::new(epoch, sets, rules, &names);
        node_state.replace_rulebook(inputs.rulebook());
        Self { node_state, files, names, sources, in_force: Mutex::new(inputs) }
    }

    /// Who asks for the names of the entries.
    #[must_use]
    pub(in crate::agent) fn names(&self) -> &Arc<NameService> {
        &self.names
    }

    /// Puts other entries of the files in force, with the rules that are written beside them.
    pub(in crate::agent) fn replace_files(&self, entries: EntrySet, rules: Rules) -> Taken {
        self.files.publish(entries);
        self.take(FILES, Some(rules))
    }

    /// The sources beside the files, for [`Self::follow`].
    pub(in crate::agent) fn others(&self) -> impl Iterator<Item = usize> + use<> {
        FILES + 1..self.sources.len()
    }

    /// Puts every change of a source in force until `stop`; of changes that come close together, the last.
    pub(in crate::agent) async fn follow(self: Arc<Self>, source: usize, stop: CancellationToken) {
        let Some(followed) = self.sources.get(source) else { return stop.cancelled().await };
        let mut entries = followed.entries();
        // RACE: what changed between `new` and this subscription was seen by neither, so everything counts as a change.
        entries.mark_changed();
        loop {
            let changed = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = entries.changed() => changed,
            };
            if changed.is_err() {
                tracing::warn!(
                    source = followed.name(),
                    "this source of entries is gone; its last entries stay in force"
                );
                return stop.cancelled().await;
            }
            entries.mark_unchanged();
            let begun = Instant::now();
            let owner = Arc::clone(&self);
            // Indexing a hundred thousand entries takes some hundred milliseconds; serving must not wait for it.
            let taken = tokio::task::spawn_blocking(move || owner.take(source, None)).await;
            match taken {
                Ok(Taken::InForce { woken }) => tracing::info!(source = followed.name(), woken, "entries changed"),
                Ok(Taken::HeldBack(held)) => {
                    tracing::warn!(
                        source = followed.name(),
                        ending = held.ending.len(),
                        "a change of entries is held back"
                    );
                }
                Err(panic) => tracing::error!(source = followed.name(), %panic, "entries could not be taken"),
            }
            let pause = SHORTEST_PAUSE.max(begun.elapsed() * PAUSE_PER_WORK);
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// Puts what a source says now in force, and other rules where there are any.
    fn take(&self, source: usize, rules: Option<Rules>) -> Taken {
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((followed, before)) = self.sources.get(source).zip(in_force.sets.get(source)) else {
            return Taken::InForce { woken: 0 };
        };
        let latest = followed.entries().borrow().clone();
        let rules = rules.unwrap_or(in_force.rules);
        if latest.decides_as(before) && rules == in_force.rules {
            return Taken::InForce { woken: 0 };
        }
        let hold_back = latest.hold_back;
        let mut sets = in_force.sets.clone();
        sets.splice(source..=source, [latest]);
        let inputs = Inputs::new(in_force.epoch + 1, sets, rules, &self.names);
        let rulebook = inputs.rulebook();
        if hold_back == HoldBack::IfManyEnd
            && let Some(held) = self.node_state.held_back(&rulebook)
        {
            return Taken::HeldBack(held);
        }
        let woken = self.node_state.replace_rulebook(rulebook);
        *in_force = inputs;
        self.names.keep_only(&in_force.names);
        Taken::InForce { woken }
    }

    /// Forgets the names of a configuration that was not put in force.
    pub(in crate::agent) fn forget_other_names(&self) {
        let in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        self.names.keep_only(&in_force.names);
    }

    /// Puts every change of an account in force until `stop`.
    pub(in crate::agent) async fn follow_names(self: Arc<Self>, stop: CancellationToken) {
        let mut accounts = self.names.accounts();
        // RACE: what changed between `new` and this subscription was seen by neither, so everything counts as a change.
        accounts.mark_changed();
        while let Some(Ok(())) = stop.run_until_cancelled(accounts.changed()).await {
            accounts.mark_unchanged();
            let begun = Instant::now();
            let owner = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || owner.take_names()).await {
                Ok(Some(woken)) => tracing::info!(woken, "users or groups changed"),
                Ok(None) => continue,
                Err(panic) => tracing::error!(%panic, "users and groups could not be taken"),
            }
            let pause = SHORTEST_PAUSE.max(begun.elapsed() * PAUSE_PER_WORK);
            stop.run_until_cancelled(sleep(pause)).await;
        }
        stop.cancelled().await;
    }

    /// Puts the accounts in force as they are now; returns how many streams were woken, if any account has changed.
    fn take_names(&self) -> Option<usize> {
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let accounts = self.names.accounts_of(&in_force.names);
        if accounts == in_force.accounts {
            return None;
        }
        (in_force.accounts, in_force.epoch) = (accounts, in_force.epoch + 1);
        Some(self.node_state.replace_rulebook(in_force.rulebook()))
    }
}

impl Inputs {
    fn new(epoch: u64, sets: Vec<Arc<EntrySet>>, rules: Rules, names: &NameService) -> Self {
        let selectors = sets.iter().flat_map(|set| &set.entries).flat_map(|entry| &entry.selectors);
        let used: BTreeSet<_> = selectors.filter_map(AccountName::of).collect();
        let accounts = names.accounts_of(&used);
        Self { epoch, sets, names: Arc::new(used), accounts, rules }
    }

    fn rulebook(&self) -> Rulebook {
        let entries: Vec<Arc<_>> = self.sets.iter().flat_map(|set| set.entries.iter().cloned()).collect();
        Rulebook::new(self.epoch, EntryIndex::with_accounts(entries, self.accounts.clone()), self.rules)
    }
}
