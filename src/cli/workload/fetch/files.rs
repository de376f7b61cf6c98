//! PEM, and sets of files that are replaced all at once.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::fs::AtFlags;
use rustix::fs::Dir;
use rustix::fs::FlockOperation;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::Stat;
use rustix::io::Errno;
use rustix::process::geteuid;
use zeroize::Zeroizing;

use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::words::printable;
use crate::randomness::Randomness;
use crate::randomness::SystemRandomness;
use crate::trusted_path;
use crate::trusted_path::TrustedUser;
use crate::trusted_path::UntrustedPath;

/// Private keys and tokens.
const SECRET: Mode = Mode::from_raw_mode(0o600);
/// Certificates and bundles.
const PUBLIC: Mode = Mode::from_raw_mode(0o644);

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
///
/// SECURITY: root writes into directories where others may write, too. So every step is relative to an open directory and
/// follows no link, and modes are changed on open files: what somebody has put in the place of a name is never touched.
pub(in crate::cli::workload::fetch) struct FileSet {
    kind: &'static str,
    files: Vec<NewFile>,
}

struct NewFile {
    name: String,
    mode: Mode,
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
        let failure =
            |why: String, next| Failure::new(Exit::No, format!("cannot write to {}", folder.display()), why, next);
        let shown = folder.display();
        let directory = trusted_path::open_directory_to_write(folder, TrustedUser::own()).map_err(|why| {
            let next = match &why {
                UntrustedPath::Unreachable { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                    format!("mkdir -p -m 0755 {shown}")
                }
                UntrustedPath::Unreachable { .. } => format!("ls -lad {shown}; or name a directory of your own"),
                _ => "name a directory that you or root own, by a path that nobody else can change".to_owned(),
            };
            failure(why.to_string(), next)
        })?;
        self.replace(&directory).map_err(|error| {
            failure(error.to_string(), format!("ls -la {shown}; df {shown}; or name a directory of your own"))
        })?;
        Ok(self.files.iter().map(|file| folder.join(&file.name)).collect())
    }

    fn replace(&self, folder: &OwnedFd) -> io::Result<()> {
        let folder =
            rustix::fs::openat(folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        // RACE: of two that write the same set, the second begins when the first is done.
        rustix::fs::flock(&folder, FlockOperation::LockExclusive)?;
        let fresh = FreshDirectory::make(&folder, self.kind)?;
        let replaced =
            self.fill(&fresh).and_then(|()| self.swap(&folder, &fresh)).and_then(|()| Ok(rustix::fs::fsync(&folder)?));
        let before = || rustix::fs::readlinkat(&folder, self.link(), Vec::new()).ok();
        let kept =
            if replaced.is_ok() { Some(fresh.name.into_bytes()) } else { before().map(|link| link.into_bytes()) };
        let _best_effort = self.tidy(&folder, kept.as_deref());
        replaced
    }

    /// SECURITY: each file is new and has its mode before it has its bytes.
    fn fill(&self, fresh: &FreshDirectory) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for NewFile { name, mode, text } in &self.files {
            let mut file = File::from(rustix::fs::openat(&fresh.directory, name, flags, *mode)?);
            rustix::fs::fchmod(&file, *mode)?; // whatever the umask took away
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
        }
        rustix::fs::fchmod(&fresh.directory, Mode::from_raw_mode(0o755))?;
        Ok(rustix::fs::fsync(&fresh.directory)?)
    }

    /// Points the names at the set first, and the set at its files last: that is the moment when all of them change.
    fn swap(&self, folder: &OwnedFd, fresh: &FreshDirectory) -> io::Result<()> {
        fresh.check_name(folder)?;
        for NewFile { name, .. } in &self.files {
            point(folder, name, &format!("{}/{name}", self.link()))?;
        }
        point(folder, &self.link(), &fresh.name)
    }

    /// Removes what earlier sets have left behind: their directories, and names that are in this set no more.
    fn tidy(&self, folder: &OwnedFd, kept: Option<&[u8]>) -> io::Result<()> {
        let (ours, through) = (format!("..{}-", self.kind), format!("{}/", self.link()));
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let leads_to = || rustix::fs::readlinkat(folder, name, Vec::new());
            if name.to_bytes().starts_with(ours.as_bytes()) && Some(name.to_bytes()) != kept {
                let _best_effort = remove_set(folder, name);
            } else if leads_to().is_ok_and(|target| target.to_bytes().starts_with(through.as_bytes()))
                && rustix::fs::statat(folder, name, AtFlags::empty()).is_err_and(|errno| errno == Errno::NOENT)
            {
                let _best_effort = rustix::fs::unlinkat(folder, name, AtFlags::empty());
            }
        }
        Ok(())
    }

    fn link(&self) -> String {
        format!("..{}", self.kind)
    }
}

/// The files of a set that was written, one line each.
pub(in crate::cli::workload::fetch) fn written(files: &[PathBuf]) -> String {
    files.iter().map(|file| format!("wrote {}\n", printable(&file.to_string_lossy()))).collect()
}

/// A new directory of this user's, by the descriptor that it was opened with.
struct FreshDirectory {
    directory: OwnedFd,
    name: String,
}

impl FreshDirectory {
    /// Makes a directory that nobody else can enter, with an unused name.
    fn make(folder: &OwnedFd, kind: &str) -> io::Result<Self> {
        let mut random = [0; 8];
        SystemRandomness.fill(&mut random).map_err(io::Error::other)?;
        let name = format!("..{kind}-{:016x}", u64::from_le_bytes(random));
        rustix::fs::mkdirat(folder, &name, Mode::RWXU)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(folder, &name, flags, Mode::empty())?;
        // RACE: somebody may have put another directory in its place meanwhile, but none of ours with files in it that
        // we would write over: each is new (`O_EXCL`).
        if is_own(&rustix::fs::fstat(&directory)?) { Ok(Self { directory, name }) } else { Err(replaced()) }
    }

    /// Checks that the name still stands for the directory.
    fn check_name(&self, folder: &OwnedFd) -> io::Result<()> {
        let own = rustix::fs::fstat(&self.directory)?;
        let named = rustix::fs::statat(folder, &self.name, AtFlags::SYMLINK_NOFOLLOW)?;
        if (own.st_dev, own.st_ino) == (named.st_dev, named.st_ino) { Ok(()) } else { Err(replaced()) }
    }
}

fn is_own(found: &Stat) -> bool {
    found.st_uid == geteuid().as_raw()
}

fn replaced() -> io::Error {
    io::Error::other("another process replaced the directory that was just made")
}

/// Removes the directory of a set that this user has written.
fn remove_set(folder: &OwnedFd, name: &CStr) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let set = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    if !is_own(&rustix::fs::fstat(&set)?) {
        return Ok(());
    }
    for entry in Dir::read_from(&set)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            rustix::fs::unlinkat(&set, entry.file_name(), AtFlags::empty())?;
        }
    }
    Ok(rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?)
}

/// Makes `link` a link to `target`, in place of whatever file has the name.
fn point(folder: &OwnedFd, link: &str, target: &str) -> io::Result<()> {
    if rustix::fs::readlinkat(folder, link, Vec::new()).is_ok_and(|present| present.to_bytes() == target.as_bytes()) {
        return Ok(());
    }
    let beside = format!("{link}.new");
    let _left_by_a_crash = rustix::fs::unlinkat(folder, &beside, AtFlags::empty());
    rustix::fs::symlinkat(target, folder, &beside)?;
    let renamed = rustix::fs::renameat(folder, &beside, folder, link);
    if renamed.is_err() {
        let _best_effort = rustix::fs::unlinkat(folder, &beside, AtFlags::empty());
    }
    Ok(renamed?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::fs::Permissions;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::fs::symlink;

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
    fn what_is_put_in_the_place_of_a_fresh_directory_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("victim"), "of root").unwrap();
        fs::set_permissions(path("victim"), Permissions::from_mode(0o600)).unwrap();
        let open: OwnedFd = File::open(folder.path()).unwrap().into();
        let files = set(&[("svid.0.key", "secret")]);
        let fresh = FreshDirectory::make(&open, "x509").unwrap();
        fs::rename(path(&fresh.name), path("taken")).unwrap();
        symlink(path("victim"), path(&fresh.name)).unwrap();
        files.fill(&fresh).unwrap();
        assert!(files.swap(&open, &fresh).is_err(), "the set is pointed at what somebody put there");
        files.tidy(&open, None).unwrap();
        assert_eq!(fs::metadata(path("victim")).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_to_string(path("victim")).unwrap(), "of root");
        assert_eq!(fs::read_to_string(path("taken/svid.0.key")).unwrap(), "secret");
        assert_eq!(fs::metadata(path("taken/svid.0.key")).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn pem_has_lines_of_64() {
        assert_eq!(
            *pem("CERTIFICATE", &[0; 50]),
            format!("-----BEGIN CERTIFICATE-----\n{}\nAAA=\n-----END CERTIFICATE-----\n", "A".repeat(64))
        );
    }
}
