//! The warnings about user and group names. Whether a name exists is a fact about the machine: it refuses no
//! configuration, and what it selects matches nobody until it exists.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::agent::config::problem::Place;
use crate::agent::config::problem::Problem;
use crate::evidence::AccountName;
use crate::evidence::Accounts;

/// The names of users and groups that a configuration uses, with the first place of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccountNames(BTreeMap<AccountName, Place>);

impl AccountNames {
    pub(in crate::agent::config) fn note(&mut self, name: AccountName, place: Option<Place>) {
        if let (false, Some(place)) = (self.0.contains_key(&name), place) {
            self.0.insert(name, place);
        }
    }

    /// The names alone.
    #[must_use]
    pub fn names(&self) -> BTreeSet<AccountName> {
        self.0.keys().cloned().collect()
    }
}

/// What is wrong with the names, each at its place: those that do not exist, those that the name service does not know
/// about, or that none counts on this node.
#[must_use]
pub fn warnings(names: &AccountNames, accounts: &Accounts) -> Vec<Problem> {
    let withheld = accounts.withheld_because();
    if let (Some(because), Some((_, place))) = (withheld, names.0.iter().min_by_key(|(_, place)| place.position)) {
        let text = format!("no user or group name matches a process on this node: {because}");
        return vec![place.problem(text)];
    }
    let warning = |(name, place): (&AccountName, &Place)| {
        let (database, text) = (name.database(), name.text());
        if accounts.open().contains(name) {
            return Some(place.problem(format!(
                "the name service does not say who {name} is; until it does, nobody new gets what depends on it; try \
                 getent {database} {text}, or name ids with unix:uid or unix:gid"
            )));
        }
        let advice = "this matches nobody until there is; create it, or write another";
        accounts.id_of(name).is_none().then(|| place.problem(format!("there is no {name} on this machine; {advice}")))
    };
    let mut warnings: Vec<_> = names.0.iter().filter_map(warning).collect();
    warnings.sort();
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::config::problem::Position;
    use crate::evidence::Answer;
    use crate::evidence::Undecided;
    use crate::evidence::WithheldBecause;

    fn names(users: &[&str]) -> AccountNames {
        let place = |line| Place { file: "b.toml".into(), position: Position { line, column: 1 } };
        let mut names = AccountNames::default();
        for (line, user) in (1..).zip(users) {
            names.note(AccountName::User((*user).into()), Some(place(line)));
        }
        names
    }

    fn texts(warnings: &[Problem]) -> Vec<String> {
        warnings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_name_that_does_not_exist_is_told_from_one_that_nobody_knows_about() {
        let mut accounts = Accounts::example(&[(1000, "alice")], &[]);
        accounts.leave_open(AccountName::User("late".into()), Answer::Undecided(Undecided::NameService));
        let texts = texts(&warnings(&names(&["alice", "late", "gone"]), &accounts));
        assert_eq!(
            texts,
            [
                "b.toml:2:1: the name service does not say who user \"late\" is; until it does, nobody new gets what \
                 depends on it; try getent passwd late, or name ids with unix:uid or unix:gid",
                "b.toml:3:1: there is no user \"gone\" on this machine; this matches nobody until there is; create it, \
                 or write another",
            ]
        );
    }

    #[test]
    fn names_that_are_withheld_are_one_warning_at_the_first_place() {
        let accounts = Accounts::withheld(WithheldBecause::NamesNotReadable);
        let texts = texts(&warnings(&names(&["zoe", "alice"]), &accounts));
        assert_eq!(texts.len(), 1);
        assert!(
            texts[0].starts_with("b.toml:1:1: no user or group name matches a process on this node: "),
            "{texts:?}"
        );
        assert_eq!(warnings(&names(&[]), &accounts), []);
    }
}
