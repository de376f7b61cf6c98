//! PEM, and sets of files that are replaced all at once.

use std::fs;
use std::fs::File;
use std::fs::Permissions;
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::fs::FlockOperation;
use zeroize::Zeroizing;

use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::words::printable;

/// Private keys and tokens.
const SECRET: u32 = 0o600;
/// Certificates and bundles.
const PUBLIC: u32 = 0o644;

/// DER as a block of PEM (SPEC: RFC 7468 §2).
pub(in crate::cli::workload::fetch) fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let text = Zeroizing::new(BASE64_STANDARD.encode(der));
    let mut pem = Zeroizing::new(String::with_capacity(text.len() + text.len() / 64 + 80));
    *pem += &format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        // Base64 is ASCII, so every chunk is text.
        *pem += std::str::from_utf8(line).unwrap_or_default();
        pem.push('\n');
    }
    *pem += &format!("-----END {label}-----\n");
    pem
}

/// Files that belong together: a key, its certificate, the bundle beside them.
///
/// Their names are links through one link, `..KIND`, to a directory of this set alone. Replacing that one link replaces
/// all of them, so no reader finds a key beside the certificate of another.
pub(in crate::cli::workload::fetch) struct FileSet {
    kind: &'static str,
    files: Vec<NewFile>,
}

struct NewFile {
    name: String,
    mode: u32,
    text: Zeroizing<String>,
}

impl FileSet {
    /// An empty set. `kind` tells it from other sets in the same folder.
    pub(in crate::cli::workload::fetch) const fn new(kind: &'static str) -> Self {
        Self { kind, files: Vec::new() }
    }

    /// Adds a file that everyone may read.
    pub(in crate::cli::workload::fetch) fn public(&mut self, name: String, text: String) {
        self.files.push(NewFile { name, mode: PUBLIC, text: Zeroizing::new(text) });
    }

    /// Adds a file for its owner alone.
    pub(in crate::cli::workload::fetch) fn secret(&mut self, name: String, text: Zeroizing<String>) {
        self.files.push(NewFile { name, mode: SECRET, text });
    }

    /// Puts the set in place of the one before, whole or not at all. Returns where the files are.
    ///
    /// # Errors
    /// [`Failure`]; the files are what they were.
    pub(in crate::cli::workload::fetch) fn write(&self, folder: &Path) -> Result<Vec<PathBuf>, Failure> {
        let is_there = folder.is_dir();
        self.replace(folder).map_err(|error| {
            let folder = folder.display();
            let next = match error.kind() {
                io::ErrorKind::NotFound if !is_there => format!("mkdir -p -m 0755 {folder}"),
                _ => format!("ls -la {folder}; df {folder}; or name a directory of your own"),
            };
            Failure::new(Exit::No, format!("cannot write to {folder}"), error.to_string(), next)
        })?;
        Ok(self.files.iter().map(|file| folder.join(&file.name)).collect())
    }

    fn replace(&self, folder: &Path) -> io::Result<()> {
        let directory = File::open(folder)?;
        // RACE: of two that write the same set, the second begins when the first is done.
        rustix::fs::flock(&directory, FlockOperation::LockExclusive)?;
        let fresh = nix::unistd::mkdtemp(&folder.join(format!("..{}-XXXXXX", self.kind)))?;
        let replaced = self.fill(&fresh).and_then(|()| self.swap(folder, &fresh)).and_then(|()| directory.sync_all());
        let kept = if replaced.is_ok() { Some(fresh) } else { fs::read_link(folder.join(self.link())).ok() };
        self.tidy(folder, kept.as_deref().and_then(Path::file_name));
        replaced
    }

    /// SECURITY: each file is new and has its mode before it has its bytes.
    fn fill(&self, fresh: &Path) -> io::Result<()> {
        for NewFile { name, mode, text } in &self.files {
            let mut file = File::options().write(true).create_new(true).mode(*mode).open(fresh.join(name))?;
            file.set_permissions(Permissions::from_mode(*mode))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
        }
        fs::set_permissions(fresh, Permissions::from_mode(0o755))?;
        File::open(fresh)?.sync_all()
    }

    /// Points the names at the set first, and the set at its files last: that is the moment when all of them change.
    fn swap(&self, folder: &Path, fresh: &Path) -> io::Result<()> {
        for NewFile { name, .. } in &self.files {
            point(&folder.join(name), &Path::new(&self.link()).join(name))?;
        }
        point(&folder.join(self.link()), Path::new(fresh.file_name().unwrap_or_default()))
    }

    /// Removes what earlier sets have left behind: their directories, and names that are in this set no more.
    fn tidy(&self, folder: &Path, kept: Option<&std::ffi::OsStr>) {
        let ours = format!("..{}-", self.kind);
        for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
            let (name, path) = (entry.file_name(), entry.path());
            if name.as_encoded_bytes().starts_with(ours.as_bytes()) && Some(name.as_os_str()) != kept {
                let _best_effort = fs::remove_dir_all(&path);
            } else if fs::read_link(&path).is_ok_and(|target| target.starts_with(self.link())) && !path.exists() {
                let _best_effort = fs::remove_file(&path);
            }
        }
    }

    fn link(&self) -> String {
        format!("..{}", self.kind)
    }
}

/// The files of a set that was written, one line each.
pub(in crate::cli::workload::fetch) fn written(files: &[PathBuf]) -> String {
    files.iter().map(|file| format!("wrote {}\n", printable(&file.to_string_lossy()))).collect()
}

/// Makes `link` a link to `target`, in place of whatever file has the name.
fn point(link: &Path, target: &Path) -> io::Result<()> {
    if fs::read_link(link).is_ok_and(|present| present == target) {
        return Ok(());
    }
    let mut beside = link.as_os_str().to_owned();
    beside.push(".new");
    let _left_by_a_crash = fs::remove_file(&beside);
    symlink(target, &beside)?;
    fs::rename(&beside, link).inspect_err(|_| drop(fs::remove_file(&beside)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn set(files: &[(&str, &str)]) -> FileSet {
        let mut set = FileSet::new("x509");
        for (name, text) in files {
            if name.ends_with(".key") {
                set.secret((*name).to_owned(), Zeroizing::new((*text).to_owned()));
            } else {
                set.public((*name).to_owned(), (*text).to_owned());
            }
        }
        set
    }

    /// The names in a folder that do not begin with a dot.
    fn names(folder: &Path) -> BTreeSet<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.starts_with('.')).collect()
    }

    #[test]
    fn a_set_replaces_the_one_before_with_its_modes_and_all_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("elsewhere"), "untouched").unwrap();
        symlink(path("elsewhere"), path("svid.0.key")).unwrap();
        fs::write(path("svid.0.pem"), "a file of another program").unwrap();
        let first = [("svid.0.pem", "a"), ("svid.0.key", "b"), ("svid.1.pem", "c"), ("svid.1.key", "d")];
        set(&first).write(folder.path()).unwrap();
        fs::create_dir(path("..x509-killed")).unwrap();
        let second = [("svid.0.pem", "e"), ("svid.0.key", "f")];
        assert_eq!(set(&second).write(folder.path()).unwrap(), [path("svid.0.pem"), path("svid.0.key")]);
        assert_eq!(names(folder.path()), ["elsewhere", "svid.0.key", "svid.0.pem"].map(str::to_owned).into());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 5, "more than the link and its directory is left");
        for ((name, text), mode) in second.into_iter().zip([0o644, 0o600]) {
            assert_eq!(fs::read_to_string(path(name)).unwrap(), text);
            assert_eq!(fs::metadata(path(name)).unwrap().mode() & 0o7777, mode, "{name}");
        }
        assert_eq!(fs::read_to_string(path("elsewhere")).unwrap(), "untouched");
    }

    #[test]
    fn a_set_that_cannot_be_put_in_place_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        set(&[("svid.0.pem", "a"), ("svid.0.key", "b")]).write(folder.path()).unwrap();
        fs::create_dir(folder.path().join("svid.1.pem")).unwrap();
        let larger = set(&[("svid.0.pem", "c"), ("svid.0.key", "d"), ("svid.1.pem", "e")]);
        assert!(larger.write(folder.path()).is_err());
        assert_eq!(fs::read_to_string(folder.path().join("svid.0.pem")).unwrap(), "a");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 5, "something is left beside");
    }

    #[test]
    fn a_reader_sees_one_set_while_sets_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let write = |text: &str| set(&[("svid.0.pem", text), ("svid.0.key", text)]).write(folder.path()).unwrap();
        write("0");
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| (1..200).for_each(|version| drop(write(&version.to_string()))));
            while !writer.is_finished() {
                let Ok(one_set) = fs::canonicalize(folder.path().join("..x509")) else { continue };
                let read = |name| fs::read_to_string(one_set.join(name));
                if let (Ok(certificate), Ok(key)) = (read("svid.0.pem"), read("svid.0.key")) {
                    assert_eq!(certificate, key);
                }
            }
        });
        assert_eq!(fs::read_to_string(folder.path().join("svid.0.key")).unwrap(), "199");
    }

    #[test]
    fn a_missing_folder_is_reported_with_mkdir() {
        let failure = set(&[("svid.0.pem", "")]).write(Path::new("/nonexistent")).unwrap_err();
        assert!(failure.what.contains("/nonexistent") && failure.next.starts_with("mkdir"), "{failure:?}");
    }

    #[test]
    fn pem_has_lines_of_64() {
        assert_eq!(
            *pem("CERTIFICATE", &[0; 50]),
            format!("-----BEGIN CERTIFICATE-----\n{}\nAAA=\n-----END CERTIFICATE-----\n", "A".repeat(64))
        );
    }
}
