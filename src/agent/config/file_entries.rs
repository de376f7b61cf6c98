//! The configuration's files as a source of entries. A reload publishes here what it has accepted.

use std::sync::Arc;

use tokio::sync::watch;

use crate::registration::EntrySet;
use crate::registration::EntrySource;

/// The entries of the files.
#[derive(Debug)]
pub(in crate::agent) struct FileEntries(watch::Sender<Arc<EntrySet>>);

impl FileEntries {
    /// A source that has `entries` at first.
    #[must_use]
    pub(in crate::agent) fn new(entries: EntrySet) -> Self {
        Self(watch::Sender::new(Arc::new(entries)))
    }

    /// Replaces the entries.
    pub(in crate::agent) fn publish(&self, entries: EntrySet) {
        self.0.send_replace(Arc::new(entries));
    }
}

impl EntrySource for FileEntries {
    fn name(&self) -> &str {
        "files"
    }

    fn entries(&self) -> watch::Receiver<Arc<EntrySet>> {
        self.0.subscribe()
    }
}
