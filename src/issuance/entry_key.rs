//! Equality of entries across reloads, for state that is kept per entry.

use std::collections::HashSet;
use std::hash::Hash;
use std::hash::Hasher;
use std::sync::Arc;

use crate::registration::Entry;
use crate::registration::EntryIndex;
use crate::registration::entry::Origin;

/// An entry as a map key. Two entries are equal if the same selectors give the same SPIFFE ID on the same terms. File and
/// line are ignored; a server's entry id is compared, because the server signs by it.
#[derive(Debug, Clone)]
pub(super) struct EntryKey(pub(super) Arc<Entry>);

/// The entries of the current rulebook.
#[derive(Debug)]
pub struct EntriesInForce(pub(super) HashSet<EntryKey>);

impl EntriesInForce {
    /// Those of this index.
    #[must_use]
    pub fn of(entries: &EntryIndex) -> Self {
        Self(entries.entries().iter().cloned().map(EntryKey).collect())
    }
}

impl EntryKey {
    fn server(&self) -> Option<&Origin> {
        Some(&self.0.origin).filter(|origin| matches!(origin, Origin::Server { .. }))
    }
}

impl PartialEq for EntryKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
            && self.0.selectors == other.0.selectors
            && self.0.terms == other.0.terms
            && self.server() == other.server()
    }
}

impl Eq for EntryKey {}

impl Hash for EntryKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
        self.server().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_equal_wherever_they_are_written_and_on_equal_terms_only() {
        let entry = |change: &dyn Fn(&mut Entry)| {
            let mut entry = Entry::example(0, "/web", &["unix:uid:1"]);
            change(&mut entry);
            EntryKey(Arc::new(entry))
        };
        let server = |id: &str| Origin::Server { server: "spire".to_owned(), entry: id.to_owned() };
        let known = [entry(&|_| ()), entry(&|entry| entry.origin = server("1"))];
        let hashed = HashSet::from(known.clone());
        let moved = Origin::File { file: "other.toml".into(), line: 90 };
        assert!(hashed.contains(&entry(&|entry| entry.origin = moved.clone())));
        assert!(hashed.contains(&entry(&|entry| entry.origin = server("1"))));
        for change in [
            &|entry: &mut Entry| entry.terms.dns = vec!["web.internal".to_owned()],
            &|entry: &mut Entry| entry.terms.subject = "O=Example".parse().unwrap(),
            &|entry: &mut Entry| entry.selectors.push("unix:gid:1".parse().unwrap()),
            &|entry: &mut Entry| entry.id = "spiffe://example.org/db".parse().unwrap(),
            &|entry: &mut Entry| entry.origin = server("2"),
        ] as [&dyn Fn(&mut Entry); 5]
        {
            assert!(!known.contains(&entry(change)));
        }
    }
}
