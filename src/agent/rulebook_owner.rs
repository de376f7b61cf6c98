//! The only writer of the rulebook. It joins the entries and accounts of all sources and the rules to one value with the
//! next epoch. Refuses to know how a source finds its entries.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::agent::config::file_entries::FileEntries;
use crate::entitlement::node_state::NodeState;
use crate::evidence::Accounts;
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
    /// Puts the entries of `files` and of all other sources in force, under `rules`.
    #[must_use]
    pub(in crate::agent) fn new(
        node_state: Arc<NodeState>,
        files: Arc<FileEntries>,
        others: Vec<Arc<dyn EntrySource>>,
        rules: Rules,
    ) -> Self {
        let mut sources: Vec<Arc<dyn EntrySource>> = vec![files.clone()];
        sources.extend(others);
        let sets = sources.iter().map(|source| source.entries().borrow().clone()).collect();
        let epoch = node_state.rulebook().epoch() + 1;
        let inputs = Inputs { epoch, sets, rules };
        node_state.replace_rulebook(inputs.rulebook());
        Self { node_state, files, sources, in_force: Mutex::new(inputs) }
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
        let inputs = Inputs { epoch: in_force.epoch + 1, sets, rules };
        let rulebook = inputs.rulebook();
        if hold_back == HoldBack::IfManyEnd
            && let Some(held) = self.node_state.held_back(&rulebook)
        {
            return Taken::HeldBack(held);
        }
        let woken = self.node_state.replace_rulebook(rulebook);
        *in_force = inputs;
        Taken::InForce { woken }
    }
}

impl Inputs {
    fn rulebook(&self) -> Rulebook {
        let entries = self.sets.iter().flat_map(|set| set.entries.iter().cloned()).collect();
        let accounts = Accounts::joined(self.sets.iter().map(|set| &set.accounts));
        Rulebook::new(self.epoch, EntryIndex::new::<Arc<_>>(entries).with_accounts(accounts), self.rules)
    }
}
