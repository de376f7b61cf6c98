//! The data directory: locked, private, and read only where it is whole.

use std::fmt;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use zeroize::Zeroizing;

use crate::durable::atomic_file;
use crate::durable::disk::Disk;
use crate::durable::files::Files;
use crate::durable::files::Unreadable;
use crate::durable::journal::Damage;
use crate::durable::journal::Record;

/// How much room a probe asks for: more than any change of the authority's state needs.
const PROBE: usize = 64 * 1024;

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

/// Why a data directory is not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon has it.
    #[error(
        "{path} is in use by {}; stop that daemon, or give this one another data_dir", Holder(*.holder)
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Process id of the other daemon, where the kernel shows it.
        holder: Option<u32>,
    },
    /// Others than its owner may look into it.
    #[error("{path} has mode {mode:04o}, so that others can reach the authority's keys; type: chmod 0700 {path}")]
    TooWide {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to another user.
    #[error("{path} belongs to uid {owner} and the daemon runs as uid {own}; type: chown -R {own} {path}")]
    ForeignOwner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Ours.
        own: u32,
    },
    /// Something else has the name.
    #[error("{path} is not a directory; set data_dir to a directory, or move that file away")]
    NotADirectory {
        /// What was named.
        path: PathBuf,
    },
    /// The system refused a step.
    #[error("cannot {doing} {path}: {source}; give the daemon's user a data_dir of its own with mode 0700")]
    Io {
        /// The directory.
        path: PathBuf,
        /// Which step.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
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
    #[error("{file} {why}; type: {repair}")]
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
    /// [`OpenError`]
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Ok(Self::over(path, Box::new(Disk::open(path)?)))
    }

    /// A data directory over any file layer.
    pub(crate) fn over(path: &Path, files: Box<dyn Files>) -> Self {
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
        let record = Record::decode(&bytes).map_err(damaged)?;
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
            .and_then(|bytes| Record::decode(&bytes).ok().map(|record| record.generation))
            .map_or(1, |generation| generation.saturating_add(1));
        let record = Record { generation, payload }.encode();
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
            Unreadable::TooWide { .. } => format!("chmod 0600 {}", file.display()),
            Unreadable::ForeignOwner { own, .. } => format!("chown {own} {}", file.display()),
            Unreadable::NotOurs => format!("mv {0} {0}.foreign", file.display()),
            Unreadable::Io(_) => format!("ls -l {}", file.display()),
        };
        LoadError::Unreadable { file, why, repair }
    }
}

struct Holder(Option<u32>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("another process"),
        }
    }
}
