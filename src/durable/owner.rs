//! Whose a directory or a file is, and what to type where that is not the daemon's own user.

use std::fmt;
use std::fs;
use std::path::Path;

/// Names the user that the installed unit runs as; an empty line stands for root.
const USER_OF_UNIT: &str = "systemctl show -P User bonafide";

/// A user, by number and by the name that `/etc/passwd` has for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOwner {
    /// The number.
    pub uid: u32,
    name: Option<String>,
}

impl FileOwner {
    /// Reads `/etc/passwd` alone: a name service that hangs must not hold up the refusal of a start.
    pub(super) fn of(uid: u32) -> Self {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        Self { uid, name: name_of(uid, &passwd) }
    }

    fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// As chown(1) takes it: with the user's login group where the user has a name.
    fn for_chown(&self) -> String {
        self.name.as_ref().map_or_else(|| self.uid.to_string(), |name| format!("{name}:"))
    }
}

/// SPEC: passwd(5): the name is the first field and the number the third.
fn name_of(uid: u32, passwd: &str) -> Option<String> {
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut named = fields.filter(|fields| fields.len() > 3 && fields[2].parse() == Ok(uid));
    // A name is part of a command that somebody may type.
    let is_plain = |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    let name = named.next().map(|fields| fields[0]);
    name.filter(is_plain).filter(|name| !name.is_empty() && !name.starts_with('-')).map(str::to_owned)
}

/// What to do where `directory` belongs to `owner` and the daemon runs as `own`. `private` says that nobody but the owner
/// can enter it.
///
/// SECURITY: never that root takes it from another user: the service of an installed node could not open it any more.
/// Neither that a user gets what others use, too.
pub(super) fn of_directory(directory: &Path, private: bool, owner: &FileOwner, own: &FileOwner) -> String {
    let path = directory.display();
    if own.is_root() {
        let by_hand = match &owner.name {
            Some(name) => format!("as that user: runuser -u {name} -- bonafide run"),
            None => format!("as {owner}"),
        };
        return format!("start the daemon by its unit: systemctl start bonafide, or run it {by_hand}");
    }
    let own_name = own.name.clone().unwrap_or_else(|| own.uid.to_string());
    match (owner.is_root(), private) {
        (true, true) => format!("type: chown -R {} {path}", own.for_chown()),
        (true, false) => format!(
            "if it is there for the daemon alone, type: install -d -m 0700 -o {own_name} {path}; else set data_dir to \
             a directory of {own}"
        ),
        (false, _) => format!(
            "run the daemon as {owner}, or set data_dir to a directory of {own} (there it makes a new authority); if \
             this one was made for {own}, type: chown -R {} {path}",
            own.for_chown()
        ),
    }
}

/// What to do where `file` is another user's, in a `directory` of `own`, whom the daemon runs as.
///
/// SECURITY: keys are given to no user but the daemon's. Which user that is, root alone cannot know.
pub(super) fn of_file(file: &Path, directory: &Path, own: &FileOwner) -> String {
    let (path, whole) = (file.display(), directory.display());
    if !own.is_root() {
        return format!("type: chown -R {} {whole}", own.for_chown());
    }
    format!(
        "type: {USER_OF_UNIT}; if that prints a user USER, type: chown -R USER: {whole} && systemctl start bonafide; if \
         it prints nothing, type: chown root: {path}"
    )
}

/// What to do where the system did not let a daemon that runs as `own` take a step on `directory`.
pub(super) fn after_failure(directory: &Path, is_missing: bool, own: &FileOwner) -> String {
    let path = directory.display();
    if is_missing && !own.is_root() {
        let own = own.name.clone().unwrap_or_else(|| own.uid.to_string());
        return format!("type: install -d -m 0700 -o {own} {path}");
    }
    format!("look at what is on the way to it: namei -l {path}")
}

impl fmt::Display for FileOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => f.write_str(name),
            None => write!(f, "uid {}", self.uid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbonafide:x:990:990::/:/usr/sbin/nologin\n\
                          alice:x:1000:1000::/home/alice:/bin/sh\n$(id):x:7:7::/:/bin/sh\n-R:x:8:8::/:/bin/sh\ncut:x:9\n";

    fn user(uid: u32) -> FileOwner {
        FileOwner { uid, name: name_of(uid, PASSWD) }
    }

    fn directory(owner: u32, own: u32) -> String {
        of_directory(Path::new("/var/lib/bonafide"), true, &user(owner), &user(own))
    }

    fn file(own: u32) -> String {
        let directory = Path::new("/var/lib/bonafide");
        of_file(&directory.join("authority.state"), directory, &user(own))
    }

    #[test]
    fn a_user_has_the_name_that_passwd_gives_it_where_that_is_plain() {
        let shown = |uid| user(uid).to_string();
        assert_eq!([0, 990, 1000].map(shown), ["root", "bonafide", "alice"]);
        assert_eq!([7, 8, 9, 41_000].map(shown), ["uid 7", "uid 8", "uid 9", "uid 41000"]);
    }

    #[test]
    fn root_on_an_installed_node_is_told_to_start_the_unit_and_never_to_take_its_files() {
        for owner in [990, 41_000] {
            let advice = directory(owner, 0);
            assert!(advice.contains("systemctl start bonafide") && !advice.contains("chown"), "{advice}");
        }
        let advice = file(0);
        assert!(advice.contains("prints a user USER, type: chown -R USER: /var/lib/bonafide &&"), "{advice}");
        assert!(
            advice.contains("systemctl start bonafide") && advice.ends_with("root: /var/lib/bonafide/authority.state")
        );
        assert!(
            directory(990, 0).ends_with("as that user: runuser -u bonafide -- bonafide run"),
            "{}",
            directory(990, 0)
        );
        assert!(directory(41_000, 0).ends_with("or run it as uid 41000"));
    }

    #[test]
    fn a_service_user_that_finds_roots_files_is_given_them_by_name() {
        for advice in [directory(0, 990), file(990)] {
            assert_eq!(advice, "type: chown -R bonafide: /var/lib/bonafide");
        }
        assert_eq!(directory(0, 41_000), "type: chown -R 41000 /var/lib/bonafide");
    }

    #[test]
    fn a_directory_that_others_can_enter_is_not_given_away_with_what_is_in_it() {
        let advice = of_directory(Path::new("/etc"), false, &user(0), &user(990));
        assert!(!advice.contains("chown -R") && advice.contains("install -d -m 0700 -o bonafide /etc"), "{advice}");
    }

    #[test]
    fn another_users_directory_is_not_taken_before_its_user_is_named() {
        let advice = directory(1000, 990);
        assert!(advice.starts_with("run the daemon as alice, or set data_dir"), "{advice}");
        assert!(advice.contains("new authority") && advice.contains("made for bonafide, type: chown -R bonafide:"));
    }

    #[test]
    fn no_advice_for_a_directory_that_is_missing_makes_an_authority_elsewhere() {
        let missing = Path::new("/var/lib/bonafide");
        assert_eq!(after_failure(missing, true, &user(990)), "type: install -d -m 0700 -o bonafide /var/lib/bonafide");
        assert!(after_failure(missing, false, &user(990)).ends_with("namei -l /var/lib/bonafide"));
    }
}
