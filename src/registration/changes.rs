//! What is different between two sets of entries, for the operator.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::evidence::Selector;
use crate::identity::SpiffeId;
use crate::registration::entry::Entry;
use crate::registration::entry_index::EntryIndex;

/// The difference between two sets of entries, each list in order. An entry is the same one as long as its SPIFFE ID and
/// its selectors are; where it is written does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Only in the new set.
    pub added: Vec<Arc<Entry>>,
    /// Only in the old set.
    pub removed: Vec<Arc<Entry>>,
    /// In both, on other terms; as they are now.
    pub changed: Vec<Arc<Entry>>,
}

impl Changes {
    /// Whether there is no difference.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// Finds what `new` changes.
#[must_use]
pub fn changes(old: &EntryIndex, new: &EntryIndex) -> Changes {
    let mut before: BTreeMap<_, Vec<&Arc<Entry>>> = BTreeMap::new();
    for entry in old.entries().iter().rev() {
        before.entry(key(entry)).or_default().push(entry);
    }
    let mut changes = Changes::default();
    for entry in new.entries() {
        match before.get_mut(&key(entry)).and_then(Vec::pop) {
            None => changes.added.push(Arc::clone(entry)),
            Some(earlier) if !same(earlier, entry) => changes.changed.push(Arc::clone(entry)),
            Some(_) => {}
        }
    }
    changes.removed = before.into_values().flatten().cloned().collect();
    changes.removed.sort_by_key(|entry| entry.order);
    changes
}

fn key(entry: &Entry) -> (&SpiffeId, &[Selector]) {
    (&entry.id, &entry.selectors)
}

fn same(a: &Entry, b: &Entry) -> bool {
    a.grants_the_same_as(b) && a.hint == b.hint && a.priority == b.priority && a.accept_weak == b.accept_weak
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(entries: &[Arc<Entry>]) -> Vec<&str> {
        entries.iter().map(|entry| entry.id.path()).collect()
    }

    #[test]
    fn added_removed_and_changed_entries_are_told_and_moved_ones_are_not() {
        let old = vec![
            Entry::example(0, "/moved", &["unix:uid:1"]),
            Entry::example(1, "/removed", &["unix:uid:2"]),
            Entry::example(2, "/changed", &["unix:uid:3"]),
            Entry::example(3, "/twice", &["unix:uid:4"]),
            Entry::example(4, "/twice", &["unix:uid:4"]),
        ];
        let mut new = vec![
            Entry::example(0, "/changed", &["unix:uid:3"]),
            Entry::example(1, "/added", &["unix:uid:2"]),
            Entry::example(2, "/twice", &["unix:uid:4"]),
            Entry::example(3, "/moved", &["unix:uid:1"]),
        ];
        new[0].hint = Some("internal".to_owned());
        let (old, new) = (EntryIndex::new(old, 1), EntryIndex::new(new, 2));
        let found = changes(&old, &new);
        assert_eq!(ids(&found.added), ["/added"]);
        assert_eq!(ids(&found.removed), ["/removed", "/twice"]);
        assert_eq!(ids(&found.changed), ["/changed"]);
        assert!(changes(&new, &new).is_empty());
    }
}
