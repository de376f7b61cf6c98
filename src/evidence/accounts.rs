//! The user and group names that entries use: their ids, and the names without an answer that counts.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::evidence::evidence_set::WithheldBecause;
use crate::evidence::provider::Answer;
use crate::evidence::selector::Selector;

/// The name of a user or of a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccountName {
    /// A user.
    User(Arc<str>),
    /// A group.
    Group(Arc<str>),
}

impl AccountName {
    /// The name that a selector names; `None` for a selector of another kind.
    #[must_use]
    pub fn of(selector: &Selector) -> Option<Self> {
        match selector {
            Selector::UnixUser(name) => Some(Self::User(Arc::clone(name))),
            Selector::UnixGroup(name) | Selector::UnixSupplementaryGroup(name) => Some(Self::Group(Arc::clone(name))),
            _ => None,
        }
    }

    /// The text of the name.
    #[must_use]
    pub fn text(&self) -> &Arc<str> {
        match self {
            Self::User(name) | Self::Group(name) => name,
        }
    }

    /// The database that has it, as `getent` and `nsswitch.conf` call it.
    #[must_use]
    pub const fn database(&self) -> &'static str {
        match self {
            Self::User(_) => "passwd",
            Self::Group(_) => "group",
        }
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "user {name:?}"),
            Self::Group(name) => write!(f, "group {name:?}"),
        }
    }
}

/// Names by id, as far as they are confirmed. An id can have several names. Only names that an entry uses are listed, so
/// the request path never calls the system's name service (NSS). A name that is neither listed nor open does not exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    users: BTreeMap<u32, Vec<Arc<str>>>,
    groups: BTreeMap<u32, Vec<Arc<str>>>,
    /// Names that may have any id now, or none.
    open: BTreeSet<AccountName>,
    /// The answer that the open names wait for; `None` where no name is open.
    answer: Option<Answer>,
    withheld: Option<WithheldBecause>,
}

impl Accounts {
    /// No names count on this node.
    #[must_use]
    pub fn withheld(because: WithheldBecause) -> Self {
        Self { withheld: Some(because), ..Self::default() }
    }

    /// Adds a name with its id.
    pub fn prove(&mut self, name: &AccountName, id: u32) {
        let names_by_id = match name {
            AccountName::User(_) => &mut self.users,
            AccountName::Group(_) => &mut self.groups,
        };
        names_by_id.entry(id).or_default().push(Arc::clone(name.text()));
    }

    /// Adds a name whose answer is pending or undecided. Where both occur, all open names count as pending.
    pub fn leave_open(&mut self, name: AccountName, answer: Answer) {
        self.open.insert(name);
        if self.answer != Some(Answer::Pending) {
            self.answer = Some(answer);
        }
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

    /// The users, with the uid of each.
    pub fn users(&self) -> impl Iterator<Item = (u32, &Arc<str>)> {
        self.users.iter().flat_map(|(uid, names)| names.iter().map(|name| (*uid, name)))
    }

    /// The ids of the groups.
    pub fn group_ids(&self) -> impl Iterator<Item = u32> {
        self.groups.keys().copied()
    }

    /// The id of a name; `None` where it does not exist or is open.
    #[must_use]
    pub fn id_of(&self, name: &AccountName) -> Option<u32> {
        let names_by_id = match name {
            AccountName::User(_) => &self.users,
            AccountName::Group(_) => &self.groups,
        };
        names_by_id.iter().find(|(_, names)| names.contains(name.text())).map(|(id, _)| *id)
    }

    /// The names without an answer that counts.
    #[must_use]
    pub fn open(&self) -> &BTreeSet<AccountName> {
        &self.open
    }

    /// Whether a selector names a user or group without an answer that counts.
    #[must_use]
    pub fn leaves_open(&self, selector: &Selector) -> bool {
        !self.open.is_empty() && AccountName::of(selector).is_some_and(|name| self.open.contains(&name))
    }

    /// The answer that the open names wait for; `None` where every name has one.
    #[must_use]
    pub fn answer(&self) -> Option<Answer> {
        self.answer
    }

    /// Why no name counts on this node, if none does.
    #[must_use]
    pub fn withheld_because(&self) -> Option<WithheldBecause> {
        self.withheld
    }
}

#[cfg(test)]
impl Accounts {
    /// These users and groups.
    pub(crate) fn example(users: &[(u32, &str)], groups: &[(u32, &str)]) -> Self {
        let mut accounts = Self::default();
        users.iter().for_each(|(uid, name)| accounts.prove(&AccountName::User((*name).into()), *uid));
        groups.iter().for_each(|(gid, name)| accounts.prove(&AccountName::Group((*name).into()), *gid));
        accounts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::undecided::Undecided;

    #[test]
    fn an_id_can_have_several_names_and_a_group_is_no_user() {
        let accounts = Accounts::example(&[(1000, "alice"), (1000, "al"), (1002, "bob")], &[(7, "alice")]);
        assert_eq!(accounts.user_names(1000), ["alice".into(), "al".into()]);
        assert_eq!(accounts.id_of(&AccountName::User("bob".into())), Some(1002));
        assert_eq!(accounts.id_of(&AccountName::Group("alice".into())), Some(7));
        assert_eq!(accounts.id_of(&AccountName::Group("bob".into())), None);
    }

    #[test]
    fn a_name_is_open_in_every_selector_of_it_and_in_no_other() {
        let mut accounts = Accounts::example(&[(1000, "alice")], &[]);
        assert_eq!(accounts.answer(), None);
        accounts.leave_open(AccountName::Group("web".into()), Answer::Undecided(Undecided::NameService));
        for (selector, is_open) in [
            ("unix:group:web", true),
            ("unix:supplementary_group:web", true),
            ("unix:user:web", false),
            ("unix:user:alice", false),
            ("unix:gid:7", false),
        ] {
            assert_eq!(accounts.leaves_open(&selector.parse().unwrap()), is_open, "{selector}");
        }
    }

    #[test]
    fn names_are_pending_as_long_as_one_of_them_is() {
        let undecided = Answer::Undecided(Undecided::NameService);
        for answers in [[Answer::Pending, undecided], [undecided, Answer::Pending]] {
            let mut accounts = Accounts::default();
            for (name, answer) in ["a", "b"].into_iter().zip(answers) {
                accounts.leave_open(AccountName::User(name.into()), answer);
            }
            assert_eq!(accounts.answer(), Some(Answer::Pending));
        }
    }
}
