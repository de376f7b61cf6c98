//! The few operations on files, and how opening and reading fail: the seam at which a model of a disk loses power
//! between any two of them.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::durable::owner::FileOwner;
use crate::durable::owner::after_failure;
use crate::durable::owner::of_directory;

/// The most bytes that a file of ours may have.
pub(super) const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Why a data directory is not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenDataDirError {
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
    /// Others than its owner may open it.
    #[error("{path} has mode {mode:04o}, so that others can reach the authority's keys; type: chmod 0700 {path}")]
    TooWide {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to another user.
    #[error("{path} belongs to {owner} and the daemon runs as {own}; {}", of_directory(.path, *.private, .owner, .own))]
    ForeignOwner {
        /// The directory.
        path: PathBuf,
        /// Whether nobody but its owner can enter it.
        private: bool,
        /// Its owner.
        owner: FileOwner,
        /// Ours.
        own: FileOwner,
    },
    /// Something else has the name.
    #[error("{path} is not a directory; set data_dir to a directory, or move that file away")]
    NotADirectory {
        /// What was named.
        path: PathBuf,
    },
    /// The system refused a step.
    #[error("cannot {doing} {path}: {source}; {}", after_failure(.path, *.doing == "make", .own))]
    Io {
        /// The directory.
        path: PathBuf,
        /// Ours.
        own: FileOwner,
        /// Which step.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Others than its owner may read or write it.
    #[error("has mode {mode:04o}, so that others can reach it")]
    TooWide {
        /// Permission bits.
        mode: u32,
    },
    /// It belongs to another user.
    #[error("belongs to {owner} and the daemon runs as {own}")]
    ForeignOwner {
        /// Its owner.
        owner: FileOwner,
        /// Ours.
        own: FileOwner,
    },
    /// It is a directory, a link, a pipe, or larger than anything of ours.
    #[error("is not a file of the daemon's")]
    NotOurs,
    /// The system would not give it.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The files of one directory. Names are constants of the program: nothing that came from outside becomes one.
pub trait Files: Send + Sync + fmt::Debug {
    /// The whole of a file; `None` where there is none.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Unreadable>;

    /// A new, empty file that only its owner can read. An error where the name is taken.
    fn create(&self, name: &str) -> io::Result<Box<dyn NewFile>>;

    /// Gives a file another name, in place of what had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Takes a name away; fine where there is none.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Returns when the names are as durable as they can be.
    fn sync_names(&self) -> io::Result<()>;
}

/// A file that is being written.
pub trait NewFile {
    /// Appends all of `bytes`.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Returns when what was written is as durable as it can be.
    fn sync(&mut self) -> io::Result<()>;
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
