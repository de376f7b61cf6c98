//! Sources of entries: the configuration files, or a server that registers entries. A source orders its own entries,
//! and does not know what is decided by them.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use crate::registration::entry::Entry;

/// The entries of one source at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntrySet {
    /// The entries.
    pub entries: Vec<Arc<Entry>>,
    /// Whether the change to this set can be held back for the operator.
    pub hold_back: HoldBack,
}

/// Whether a change that would end many live identities is held back until the operator reloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HoldBack {
    /// Applied at once: the operator requested it, or a server manages the entries.
    #[default]
    Never,
    /// Held back: the change was only detected on disk, and a file that was truncated between two tables is valid, too.
    IfManyEnd,
}

/// A source of entries.
pub trait EntrySource: Send + Sync + fmt::Debug {
    /// The name that the log uses.
    fn name(&self) -> &str;

    /// The current entries and their changes. After the sender is dropped, the last entries stay active.
    fn entries(&self) -> watch::Receiver<Arc<EntrySet>>;
}

impl EntrySet {
    /// Whether both sets give the same decision for every caller.
    #[must_use]
    pub fn decides_as(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}
