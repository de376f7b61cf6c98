//! The data directory: locked, private, and read only where it is whole.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use zeroize::Zeroizing;

use crate::durable::atomic_file;
use crate::durable::disk;
use crate::durable::disk::Disk;
use crate::durable::files::Files;
use crate::durable::files::OpenDataDirError;
use crate::durable::files::Unreadable;
use crate::durable::journal::Damage;
use crate::durable::journal::StoredRecord;
use crate::durable::owner::of_file;

/// How much room a probe asks for: more than any change of the authority's state needs.
const PROBE: usize = 16 * 1024;

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Name {
    /// The embedded authority's keys.
    Authority,
    /// The configuration that was last accepted.
    Configuration,
}

impl Name {
    const fn file(self) -> &'static str {
        match self {
            Self::Authority => "authority.state",
            Self::Configuration => "configuration.accepted",
        }
    }
}

/// Why a record is not read. Nothing is ever made in place of it.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is not what was written.
    #[error(
        "{file} is damaged: {why}; restore it from a backup, or give up what it holds (every identity it signed stops \
         verifying) and type: mv {file} {file}.damaged"
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// How that is known.
        why: Damage,
    },
    /// It must not be trusted, or cannot be read.
    #[error("{file} {why}; {repair}")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why not.
        why: Unreadable,
        /// What makes it readable.
        repair: String,
    },
}

/// What was to be kept is not durable, and must not be acted on.
#[derive(Debug, thiserror::Error)]
#[error("{file} cannot be written: {source}; make room, or make the directory writable")]
pub struct StoreError {
    /// The file.
    pub file: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// A directory that this process alone uses, for as long as the value lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    files: Box<dyn Files>,
    /// One writer at a time: the name of an unfinished file is used again.
    writing: Mutex<()>,
}

impl DataDir {
    /// Opens and locks the directory at `path`, and makes it where there is none.
    ///
    /// # Errors
    /// [`OpenDataDirError`]
    pub fn open(path: &Path) -> Result<Self, OpenDataDirError> {
        Ok(Self::over(path, Box::new(Disk::open(path)?)))
    }

    /// Checks that a daemon of the user `uid` could open the directory at `path`, or make it. Changes nothing.
    ///
    /// # Errors
    /// [`OpenDataDirError`], but never that another daemon has it.
    pub fn check(path: &Path, uid: u32) -> Result<(), OpenDataDirError> {
        disk::check(path, uid)
    }

    /// A data directory over any file layer, which nobody else may use meanwhile.
    #[must_use]
    pub fn over(path: &Path, files: Box<dyn Files>) -> Self {
        Self { path: path.to_owned(), files, writing: Mutex::new(()) }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a record is.
    #[must_use]
    pub fn file(&self, name: Name) -> PathBuf {
        self.path.join(name.file())
    }

    /// What was last stored under `name`; `None` if nothing ever was.
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn load(&self, name: Name) -> Result<Option<Zeroizing<Vec<u8>>>, LoadError> {
        let unreadable = |why| self.unreadable(name, why);
        let Some(bytes) = self.files.read(name.file()).map_err(unreadable)?.map(Zeroizing::new) else {
            return Ok(None);
        };
        let damaged = |why| LoadError::Damaged { file: self.file(name), why };
        let record = StoredRecord::decode(&bytes).map_err(damaged)?;
        Ok(Some(Zeroizing::new(record.payload.to_vec())))
    }

    /// Replaces what `name` stands for. Once this has returned it survives whatever happens to the machine.
    ///
    /// # Errors
    /// [`StoreError`]: whether the old or the new bytes are found at the next start is not known, so nothing may rest
    /// on the new ones.
    pub fn store(&self, name: Name, payload: &[u8]) -> Result<(), StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.files.read(name.file()).ok().flatten().map(Zeroizing::new);
        let generation = before
            .and_then(|bytes| StoredRecord::decode(&bytes).ok().map(|record| record.generation))
            .map_or(1, |generation| generation.saturating_add(1));
        let record = StoredRecord { generation, payload }.encode();
        atomic_file::replace(&*self.files, name.file(), &record)
            .map_err(|source| StoreError { file: self.file(name), source })
    }

    /// Finds out whether the directory takes writes, by writing to it.
    ///
    /// # Errors
    /// What the system said.
    pub fn probe(&self) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        atomic_file::probe(&*self.files, "probe", PROBE)
    }

    fn unreadable(&self, name: Name, why: Unreadable) -> LoadError {
        let file = self.file(name);
        let repair = match &why {
            Unreadable::TooWide { .. } => format!("type: chmod 0600 {}", file.display()),
            Unreadable::ForeignOwner { own, .. } => of_file(&file, &self.path, own),
            Unreadable::NotOurs => format!("type: mv {0} {0}.foreign", file.display()),
            Unreadable::Io(_) => format!("type: ls -l {}", file.display()),
        };
        LoadError::Unreadable { file, why, repair }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::fs::chown;
    use std::os::unix::fs::symlink;

    use rustix::process::geteuid;
    use tempfile::TempDir;

    use super::*;
    use crate::durable::simulated_disk::SimulatedDisk;
    use crate::durable::simulated_disk::Trouble;
    use crate::durable::simulated_disk::Unsynced;

    fn over(disk: &SimulatedDisk) -> DataDir {
        DataDir::over(Path::new("/data"), Box::new(disk.clone()))
    }

    fn payload(directory: &DataDir) -> Vec<u8> {
        directory.load(Name::Authority).unwrap().unwrap().to_vec()
    }

    fn private() -> TempDir {
        tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o700)).tempdir().unwrap()
    }

    /// Everything a power cut may leave of a file of `length` bytes.
    fn power_cuts(length: usize) -> impl Iterator<Item = Unsynced> {
        let torn = (0..=length).step_by(512).map(Unsynced::TornAt);
        [Unsynced::Lost, Unsynced::Kept, Unsynced::Zeroed].into_iter().chain(torn)
    }

    #[test]
    fn a_power_cut_leaves_the_old_record_or_the_new_one_at_any_step() {
        let (old, new) = (vec![b'o'; 3000], vec![b'n'; 5000]);
        let (mut seen_old, mut seen_new, mut finished) = (false, false, false);
        for step in 0.. {
            let disk = SimulatedDisk::default();
            over(&disk).store(Name::Authority, &old).unwrap();
            disk.expect(Trouble::PowerFailsAt(step));
            let stored = over(&disk).store(Name::Authority, &new).is_ok();
            for unsynced in power_cuts(6000) {
                let found = payload(&over(&disk.after_power_cut(unsynced)));
                assert!(found == new || found == old && !stored, "step {step}, {unsynced:?}");
                seen_old |= found == old;
                seen_new |= found == new;
            }
            finished = stored;
            if finished {
                break;
            }
        }
        assert!(seen_old && seen_new && finished);
    }

    /// The simulated disk is not kinder than a real one: a writer that leaves out one sync is found out.
    #[test]
    fn a_writer_that_renames_before_it_syncs_is_caught() {
        let disk = SimulatedDisk::default();
        over(&disk).store(Name::Authority, b"old").unwrap();
        let record = StoredRecord { generation: 2, payload: b"new" }.encode();
        disk.create("careless").unwrap().write(&record).unwrap();
        disk.rename("careless", Name::Authority.file()).unwrap();
        for unsynced in [Unsynced::TornAt(0), Unsynced::Zeroed] {
            let found = over(&disk.after_power_cut(unsynced)).load(Name::Authority);
            assert!(matches!(found, Err(LoadError::Damaged { .. })), "{unsynced:?}");
        }
        disk.sync_names().unwrap();
        let found = over(&disk.after_power_cut(Unsynced::Lost)).load(Name::Authority);
        assert!(matches!(found, Err(LoadError::Damaged { .. })));
    }

    #[test]
    fn a_failed_step_is_reported_and_leaves_the_old_record_before_the_sync() {
        for (step, what) in ["remove", "create", "write", "sync", "rename", "sync the names"].iter().enumerate() {
            let disk = SimulatedDisk::default();
            over(&disk).store(Name::Authority, b"old").unwrap();
            disk.expect(Trouble::StepFails(step, io::ErrorKind::StorageFull));
            let directory = over(&disk);
            assert!(directory.store(Name::Authority, b"new").is_err(), "{what}");
            assert_eq!(payload(&over(&disk.after_power_cut(Unsynced::Lost))), b"old", "{what}");
            directory.store(Name::Authority, b"newer").unwrap();
            assert_eq!(payload(&over(&disk.after_power_cut(Unsynced::Lost))), b"newer", "{what}");
        }
    }

    #[test]
    fn a_change_of_any_bit_and_a_cut_at_any_length_is_noticed() {
        let disk = SimulatedDisk::default();
        let directory = over(&disk);
        directory.store(Name::Authority, b"a state with a key").unwrap();
        let good = disk.read(Name::Authority.file()).unwrap().unwrap();
        let is_refused = |bytes: &[u8]| {
            disk.overwrite(Name::Authority.file(), bytes);
            matches!(directory.load(Name::Authority), Err(LoadError::Damaged { .. }))
        };
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(is_refused(&bad), "bit {bit} of byte {at}");
            }
            assert!(is_refused(&good[..at]), "cut to {at} bytes");
        }
        assert!(is_refused(&[good.as_slice(), b"\n"].concat()));
        assert!(!is_refused(&good));
    }

    #[test]
    fn a_record_of_a_later_release_is_refused_and_not_overwritten() {
        let disk = SimulatedDisk::default();
        let directory = over(&disk);
        directory.store(Name::Authority, b"x").unwrap();
        let later = crate::durable::journal::sealed(b"bonafide record 2\nsomething else");
        disk.overwrite(Name::Authority.file(), &later);
        let error = directory.load(Name::Authority).unwrap_err();
        assert!(matches!(error, LoadError::Damaged { why: Damage::UnknownForm, .. }), "{error}");
    }

    #[test]
    fn a_directory_made_by_us_is_private_and_so_are_its_files() {
        let parent = TempDir::new().unwrap();
        let path = parent.path().join("var/lib/bonafide");
        let directory = DataDir::open(&path).unwrap();
        directory.store(Name::Authority, b"key").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&directory.file(Name::Authority)), 0o600);
        let names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["authority.state"]);
    }

    /// Attack 126. A umask belongs to a whole process, so the test above runs again in a process of its own.
    #[test]
    fn whatever_the_umask_lets_through_they_are_private() {
        let again = "durable::data_dir::tests::a_directory_made_by_us_is_private_and_so_are_its_files";
        let ran = std::process::Command::new("sh")
            .args(["-c", "umask 000; exec \"$0\" --exact \"$1\""])
            .arg(std::env::current_exe().unwrap())
            .arg(again)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    fn a_second_daemon_is_refused_with_the_pid_of_the_first() {
        let path = private();
        let first = DataDir::open(path.path()).unwrap();
        match DataDir::open(path.path()) {
            Err(OpenDataDirError::Locked { holder: Some(pid), .. }) => assert_eq!(pid, std::process::id()),
            Err(OpenDataDirError::Locked { holder: None, .. }) => {
                eprintln!("skipped: a_second_daemon_is_refused_with_the_pid_of_the_first: no /proc/locks");
            }
            other => panic!("{other:?}"),
        }
        drop(first);
        assert!(DataDir::open(path.path()).is_ok());
    }

    #[test]
    fn a_file_that_others_can_reach_is_refused_with_the_fix() {
        let path = TempDir::new().unwrap();
        let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        chmod(path.path(), 0o750);
        let error = DataDir::open(path.path()).unwrap_err();
        assert!(error.to_string().ends_with(&format!("chmod 0700 {}", path.path().display())), "{error}");
        chmod(path.path(), 0o700);

        let directory = DataDir::open(path.path()).unwrap();
        directory.store(Name::Authority, b"key").unwrap();
        let file = directory.file(Name::Authority);
        for mode in [0o640, 0o604, 0o620, 0o601] {
            chmod(&file, mode);
            let error = directory.load(Name::Authority).unwrap_err();
            assert!(error.to_string().ends_with(&format!("chmod 0600 {}", file.display())), "{error}");
        }
        chmod(&file, 0o600);
        assert_eq!(payload(&directory), b"key");
    }

    #[test]
    fn a_file_of_another_user_is_refused() {
        if !geteuid().is_root() {
            eprintln!("skipped: a_file_of_another_user_is_refused: needs root to give a file away");
            return;
        }
        let path = private();
        let directory = DataDir::open(path.path()).unwrap();
        directory.store(Name::Authority, b"key").unwrap();
        chown(directory.file(Name::Authority), Some(41_000), None).unwrap();
        let error = directory.load(Name::Authority).unwrap_err();
        let LoadError::Unreadable { why: Unreadable::ForeignOwner { owner, .. }, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(owner.uid, 41_000);
        drop(directory);
        chown(path.path(), Some(41_000), None).unwrap();
        let error = DataDir::open(path.path()).unwrap_err();
        assert!(matches!(&error, OpenDataDirError::ForeignOwner { owner, .. } if owner.uid == 41_000), "{error}");
    }

    #[test]
    fn a_link_a_pipe_or_a_directory_in_place_of_a_record_is_not_read() {
        let path = private();
        let directory = DataDir::open(path.path()).unwrap();
        let file = directory.file(Name::Authority);
        let is_not_ours = || {
            let found = directory.load(Name::Authority);
            matches!(found, Err(LoadError::Unreadable { why: Unreadable::NotOurs, .. }))
        };
        symlink("/etc/passwd", &file).unwrap();
        assert!(is_not_ours());
        fs::remove_file(&file).unwrap();
        fs::DirBuilder::new().create(&file).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(is_not_ours());
        fs::remove_dir(&file).unwrap();
        let made = std::process::Command::new("mkfifo").args(["-m", "600"]).arg(&file).status();
        assert!(!made.is_ok_and(|status| status.success()) || is_not_ours());
    }

    #[test]
    fn a_file_where_the_directory_should_be_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(DataDir::open(file.path()), Err(OpenDataDirError::NotADirectory { .. })));
    }
}
