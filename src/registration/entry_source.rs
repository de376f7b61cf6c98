//! Where entries come from: the configuration's files, or a server that registers them. A source has an order of its own
//! and keeps entries as they are; refuses to know what is decided by them.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use crate::evidence::Accounts;
use crate::registration::entry::Entry;

/// The entries of one source at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntrySet {
    /// All of them.
    pub entries: Vec<Arc<Entry>>,
    /// The accounts behind the user and group names that they use.
    pub accounts: Accounts,
    /// Whether the change to this set may wait for the operator.
    pub hold_back: HoldBack,
}

/// Whether a change that would end many live identities waits until the operator asks for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HoldBack {
    /// It is taken at once: somebody asked for it, or a server is in charge of the entries.
    #[default]
    Never,
    /// It waits: it was merely seen on disk, and a file cut in half between two tables is a good file, too.
    IfManyEnd,
}

/// A source of entries.
pub trait EntrySource: Send + Sync + fmt::Debug {
    /// Its name in the log.
    fn name(&self) -> &str;

    /// Its entries now, and a wait for their change. When the sender is gone, the last entries stay in force.
    fn entries(&self) -> watch::Receiver<Arc<EntrySet>>;
}

impl EntrySet {
    /// Whether both sets mean the same to every caller.
    #[must_use]
    pub fn decides_as(&self, other: &Self) -> bool {
        self.entries == other.entries && self.accounts == other.accounts
    }
}
