//! What is watched, and which names belong to it.

use std::ffi::OsStr;
use std::path::Path;
use std::path::PathBuf;

/// What to watch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watched {
    /// One file, there or not.
    File(PathBuf),
    /// Every file directly in a folder whose name ends in `suffix`. Names that begin with `.` or end in `~` are temporary
    /// and backup files of editors, and are ignored.
    Folder {
        /// The folder, there or not.
        folder: PathBuf,
        /// For example `.toml`.
        suffix: String,
    },
}

impl Watched {
    /// The folder whose events concern this.
    pub(super) fn folder(&self) -> &Path {
        match self {
            Self::File(path) => match path.parent() {
                Some(parent) if parent != Path::new("") => parent,
                _ => Path::new("."),
            },
            Self::Folder { folder, .. } => folder,
        }
    }

    /// Whether `path` is watched by this.
    pub(super) fn covers(&self, path: &Path) -> bool {
        match self {
            Self::File(file) => file == path,
            Self::Folder { folder, suffix } => {
                path.parent() == Some(folder) && path.file_name().is_some_and(|name| is_drop_in(name, suffix))
            }
        }
    }
}

fn is_drop_in(name: &OsStr, suffix: &str) -> bool {
    let name = name.as_encoded_bytes();
    !name.starts_with(b".") && !name.ends_with(b"~") && name.ends_with(suffix.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_covers_its_drop_ins_and_no_temporary_or_backup_file() {
        let folder = Watched::Folder { folder: "/etc/entries.d".into(), suffix: ".toml".into() };
        for (path, covered) in [
            ("/etc/entries.d/x.toml", true),
            ("/etc/entries.d/.x.toml", false),
            ("/etc/entries.d/x.toml~", false),
            ("/etc/entries.d/x.toml.dpkg-new", false),
            ("/etc/entries.d/toml", false),
            ("/etc/entries.d/below/x.toml", false),
            ("/etc/x.toml", false),
        ] {
            assert_eq!(folder.covers(Path::new(path)), covered, "{path}");
        }
    }

    #[test]
    fn a_file_is_watched_through_its_folder_which_may_be_the_current_one() {
        for (file, folder) in [("/etc/a.toml", "/etc"), ("a.toml", "."), ("d/a.toml", "d")] {
            assert_eq!(Watched::File(file.into()).folder(), Path::new(folder));
        }
    }
}
