//! The text of the local databases. Pure.

use std::collections::HashMap;

use crate::evidence::AccountName;

/// The ids of the local databases, by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Databases {
    users: HashMap<String, u32>,
    groups: HashMap<String, u32>,
    /// For users and for groups: whether `nsswitch.conf` asks the local database before every other service.
    files_first: (bool, bool),
}

impl Databases {
    /// Reads `passwd`, `group` and, where there is one, `nsswitch.conf`.
    #[must_use]
    pub fn parse(passwd: &[u8], group: &[u8], nsswitch: Option<&[u8]>) -> Self {
        let first = |database| nsswitch.is_none_or(|text| files_come_first(text, database));
        Self { users: ids(passwd), groups: ids(group), files_first: (first("passwd"), first("group")) }
    }

    /// The id that the local database has for a name.
    #[must_use]
    pub fn id_of(&self, name: &AccountName) -> Option<u32> {
        match name {
            AccountName::User(name) => self.users.get(&**name).copied(),
            AccountName::Group(name) => self.groups.get(&**name).copied(),
        }
    }

    /// Whether the local database is asked first for such names, so that no other service can say otherwise.
    #[must_use]
    pub fn come_first(&self, name: &AccountName) -> bool {
        match name {
            AccountName::User(_) => self.files_first.0,
            AccountName::Group(_) => self.files_first.1,
        }
    }
}

/// SPEC: passwd(5), group(5): the name is the first field of a line and the id the third; of two lines with one name the
/// first counts. A name that begins with `+` or `-` stands for another service.
fn ids(text: &[u8]) -> HashMap<String, u32> {
    let mut ids = HashMap::new();
    for (name, id) in text.split(|byte| *byte == b'\n').filter_map(name_and_id) {
        ids.entry(name.to_owned()).or_insert(id);
    }
    ids
}

/// SECURITY: a line without a field after the id may be the beginning of a longer one that is being written, and its id the
/// beginning of another.
fn name_and_id(line: &[u8]) -> Option<(&str, u32)> {
    let mut fields = std::str::from_utf8(line).ok()?.split(':');
    let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with(['+', '-', '#']))?;
    let id = fields.nth(1).filter(|id| id.bytes().all(|byte| byte.is_ascii_digit()))?;
    fields.next()?;
    Some((name, id.parse().ok()?))
}

/// SPEC: nsswitch.conf(5): `database: service [action] service ...`; a database without a line has `files` first.
fn files_come_first(nsswitch: &[u8], database: &str) -> bool {
    let text = String::from_utf8_lossy(nsswitch);
    let services = text.lines().find_map(|line| {
        let (name, services) = line.split('#').next()?.split_once(':')?;
        (name.trim() == database).then_some(services)
    });
    services.is_none_or(|services| services.split_whitespace().next() == Some("files"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> AccountName {
        AccountName::User(name.into())
    }

    #[test]
    fn the_first_line_of_a_name_counts_and_a_broken_line_does_not() {
        let passwd =
            b"alice:x:1000:1000::/:/bin/sh\nalice:x:7:7::/:/bin/sh\n+nis:x:5:5\n\nbroken:x\n\xff:x:6:6\nneg:x:-1:0\ncut:x:10";
        let databases = Databases::parse(passwd, b"alice:x:50:bob\n", None);
        assert_eq!(databases.id_of(&user("alice")), Some(1000));
        assert_eq!(databases.id_of(&AccountName::Group("alice".into())), Some(50));
        for none in ["+nis", "broken", "neg", "cut", "", "bob"] {
            assert_eq!(databases.id_of(&user(none)), None, "{none:?}");
        }
    }

    #[test]
    fn the_files_come_first_unless_nsswitch_names_another_service_before_them() {
        for (nsswitch, first) in [
            ("passwd: files systemd\ngroup: sss files\n", (true, false)),
            ("# passwd: sss\npasswd:\tfiles # sss\n", (true, true)),
            ("passwd: compat\ngroup:", (false, false)),
            ("", (true, true)),
        ] {
            let databases = Databases::parse(b"", b"", Some(nsswitch.as_bytes()));
            assert_eq!(databases.files_first, first, "{nsswitch:?}");
        }
        assert!(Databases::parse(b"", b"", None).come_first(&user("alice")));
    }
}
