//! The input of every decision besides the evidence: entries and rules, in one value that is replaced as a whole and
//! has one epoch.
//!
//! A permit, the issuer and the check before a secret's first byte compare this epoch. So a change of any part makes
//! every earlier decision stale. Any further input, such as blocks by `revoke`, belongs here.

use std::time::Duration;

use crate::evidence::Level;
use crate::registration::EntryIndex;

/// The rules that apply to all entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The kernel level below which every caller is denied.
    pub minimum: Level,
    /// How long a first answer waits for pending evidence.
    pub wait: Duration,
}

/// The entries and rules of one epoch.
#[derive(Debug)]
pub struct Rulebook {
    epoch: u64,
    entries: EntryIndex,
    rules: Rules,
}

impl Rulebook {
    /// A rulebook. `epoch` must differ from that of every other rulebook of this run.
    #[must_use]
    pub fn new(epoch: u64, entries: EntryIndex, rules: Rules) -> Self {
        Self { epoch, entries, rules }
    }

    /// The epoch, which no other rulebook of this run has.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The entries, with the accounts for the names that they use.
    #[must_use]
    pub fn entries(&self) -> &EntryIndex {
        &self.entries
    }

    /// The rules for all entries.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }
}

#[cfg(test)]
impl Rulebook {
    /// A rulebook of epoch 1 that accepts every kernel level.
    pub(crate) fn example(entries: Vec<crate::registration::Entry>) -> Self {
        Self::new(1, EntryIndex::new(entries), Rules { minimum: Level::Reduced, wait: Duration::from_secs(5) })
    }
}
