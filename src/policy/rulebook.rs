//! What every decision is made by: the entries and the rules, in one value that is swapped whole and has one epoch.
//!
//! A permit, the issuer and the check before a secret's first byte compare the same number, so a change of any part
//! of a rulebook makes what was decided by the former one stale. A further part, such as what `revoke` blocks, belongs
//! here and nowhere else.

use std::time::Duration;

use crate::evidence::Level;
use crate::registration::EntryIndex;

/// What the operator decided for all entries together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The kernel level below which nobody gets anything.
    pub minimum: Level,
    /// How long a first answer waits for evidence that is pending.
    pub wait: Duration,
}

/// The entries and rules in force together.
#[derive(Debug)]
pub struct Rulebook {
    epoch: u64,
    entries: EntryIndex,
    rules: Rules,
}

impl Rulebook {
    /// A rulebook. `epoch` is a number that no other rulebook of this run has.
    #[must_use]
    pub fn new(epoch: u64, entries: EntryIndex, rules: Rules) -> Self {
        Self { epoch, entries, rules }
    }

    /// Tells this rulebook from every other one of this run.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The entries, with the accounts behind the names that they use.
    #[must_use]
    pub fn entries(&self) -> &EntryIndex {
        &self.entries
    }

    /// The rules beyond entries.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }
}

#[cfg(test)]
impl Rulebook {
    /// A rulebook of epoch 1 in which every kernel level counts.
    pub(crate) fn example(entries: Vec<crate::registration::Entry>) -> Self {
        Self::new(1, EntryIndex::new(entries), Rules { minimum: Level::Reduced, wait: Duration::from_secs(5) })
    }
}
