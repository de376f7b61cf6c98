//! The user and group names that entries use, as resolved when their source was loaded.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

/// Names by id. An id can have several names. Only names that an entry uses are listed, so the request path never calls
/// the system's name service (NSS).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    /// User names by uid.
    pub users: BTreeMap<u32, Vec<Arc<str>>>,
    /// Group names by gid.
    pub groups: BTreeMap<u32, Vec<Arc<str>>>,
}

impl Accounts {
    /// Merges accounts; for a name in several of them the first one's id counts.
    ///
    /// SECURITY: two look-ups at different times can resolve a name to two ids. With both, the entry would also match
    /// the former owner of the name.
    #[must_use]
    pub fn joined<'a>(all: impl Iterator<Item = &'a Self> + Clone) -> Self {
        Self { users: joined(all.clone().map(|one| &one.users)), groups: joined(all.map(|one| &one.groups)) }
    }

    /// The names of a user; empty where no entry uses one.
    #[must_use]
    pub fn user_names(&self, uid: u32) -> &[Arc<str>] {
        self.users.get(&uid).map_or(&[], Vec::as_slice)
    }

    /// The names of a group; empty where no entry uses one.
    #[must_use]
    pub fn group_names(&self, gid: u32) -> &[Arc<str>] {
        self.groups.get(&gid).map_or(&[], Vec::as_slice)
    }
}

fn joined<'a>(all: impl Iterator<Item = &'a BTreeMap<u32, Vec<Arc<str>>>>) -> BTreeMap<u32, Vec<Arc<str>>> {
    let (mut joined, mut known) = (BTreeMap::<_, Vec<_>>::new(), BTreeSet::new());
    for names_by_id in all {
        let before = known.clone();
        for (id, names) in names_by_id {
            for name in names.iter().filter(|name| !before.contains(*name)) {
                known.insert(Arc::clone(name));
                joined.entry(*id).or_default().push(Arc::clone(name));
            }
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_two_sources_keeps_the_id_of_the_first() {
        let of = |users: &[(u32, &str)]| Accounts {
            users: users.iter().map(|(uid, name)| (*uid, vec![Arc::from(*name)])).collect(),
            ..Accounts::default()
        };
        let (files, server) = (of(&[(1000, "alice")]), of(&[(1000, "al"), (1001, "alice"), (1002, "bob")]));
        let both = Accounts::joined([&files, &server].into_iter());
        assert_eq!(both.user_names(1000), ["alice".into(), "al".into()]);
        assert!(both.user_names(1001).is_empty());
        assert_eq!(both.user_names(1002), ["bob".into()]);
    }
}
