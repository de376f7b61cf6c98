//! Whether the daemon's own name service is that of PID 1's root, and the local databases of that root.

use std::fs::File;
use std::io;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::Stat;
use rustix::io::Errno;

use crate::names::databases::Databases;

/// The root directory of PID 1, for whoever may read its links.
pub(super) const FIRST_ROOT: &str = "/proc/1/root";

/// What the answers of a name service depend on, besides the services themselves.
pub(super) const FILES: [&str; 3] = ["passwd", "group", "nsswitch.conf"];

/// The ranges of uids that users may map into their namespaces.
pub(super) const SUBORDINATE_UIDS: &str = "subuid";

/// A larger database is not read.
const LARGEST: u64 = 64 << 20;

/// Whose names these databases are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RootOf {
    /// PID 1 has the daemon's root and databases, so the daemon's name service is its own.
    Daemon,
    /// PID 1 has others: of its names, the daemon can read the local databases alone.
    FirstProcess,
}

/// Why the local databases were not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoDatabases {
    /// The daemon may not.
    NotReadable,
    /// A fault that can pass.
    Failed,
}

/// The local databases, which are read again only when a file has changed.
#[derive(Debug, Default)]
pub(super) struct HostDatabases {
    read: Mutex<Option<(Versions, Arc<Databases>)>>,
}

/// Whose files were read, and the version of each.
type Versions = (RootOf, [Option<Version>; 3]);

/// Device, inode, size, and the times of the last change of content and status.
type Version = (u64, u64, i64, [i64; 2], [i64; 2]);

/// So often are the roots compared before they count as different.
const COMPARISONS: usize = 3;

/// Whose names the daemon can read of PID 1's root. May block in a file system.
///
/// RACE: a database that is replaced between two looks at it seems to be another file, so a difference is looked at again.
pub(super) fn find() -> Result<RootOf, NoDatabases> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let first = match rustix::fs::open(FIRST_ROOT, directory, Mode::empty()) {
        Ok(first) => first,
        Err(Errno::ACCESS | Errno::PERM | Errno::NOENT) => return Err(NoDatabases::NotReadable),
        Err(_) => return Err(NoDatabases::Failed),
    };
    let own = rustix::fs::open("/", directory, Mode::empty()).map_err(|_| NoDatabases::Failed)?;
    for _ in 0..COMPARISONS {
        if are_same(&first, &own)? {
            return Ok(RootOf::Daemon);
        }
    }
    Ok(RootOf::FirstProcess)
}

/// Whether both roots are one directory with the same databases.
fn are_same(first: &OwnedFd, own: &OwnedFd) -> Result<bool, NoDatabases> {
    for path in [".", "etc/passwd", "etc/group", "etc/nsswitch.conf"] {
        if place(first, path)? != place(own, path)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Device and inode of the file; `None` where there is none.
fn place(root: &OwnedFd, path: &str) -> Result<Option<(u64, u64)>, NoDatabases> {
    match rustix::fs::statat(root, path, AtFlags::empty()) {
        Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino))),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(Errno::ACCESS | Errno::PERM) => Err(NoDatabases::NotReadable),
        Err(_) => Err(NoDatabases::Failed),
    }
}

impl HostDatabases {
    /// The databases of this root as they are now. May block in a file system.
    pub(super) fn read(&self, root: RootOf) -> Result<Arc<Databases>, NoDatabases> {
        let files = open_all(root)?;
        let versions = (root, files.each_ref().map(|file| file.as_ref().map(|(_, version)| *version)));
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, databases)) = read.as_ref().filter(|(known, _)| *known == versions) {
            return Ok(Arc::clone(databases));
        }
        let [passwd, group, nsswitch] = files;
        let text = |file: Option<(File, Version)>| file.map(|(file, _)| whole(file)).transpose();
        let (passwd, group, nsswitch) = (text(passwd)?, text(group)?, text(nsswitch)?);
        let [passwd, group] = [passwd, group].map(Option::unwrap_or_default);
        let databases = Arc::new(Databases::parse(&passwd, &group, nsswitch.as_deref()));
        *read = Some((versions, Arc::clone(&databases)));
        Ok(databases)
    }
}

/// The text of `/etc/subuid` of this root; empty where there is none. May block in a file system.
pub(super) fn subordinate_uids(root: RootOf) -> Result<Vec<u8>, NoDatabases> {
    let Some(etc) = open_etc(root)? else { return Ok(Vec::new()) };
    let file = open(&etc, SUBORDINATE_UIDS, root)?;
    file.map_or_else(|| Ok(Vec::new()), |(file, _)| whole(file))
}

fn open_etc(root: RootOf) -> Result<Option<OwnedFd>, NoDatabases> {
    let etc = match root {
        RootOf::Daemon => rustix::fs::openat(CWD, "/etc", DIRECTORY, Mode::empty()),
        RootOf::FirstProcess => rustix::fs::open(FIRST_ROOT, DIRECTORY, Mode::empty())
            .and_then(|first| rustix::fs::openat(first, "etc", DIRECTORY | OFlags::NOFOLLOW, Mode::empty())),
    };
    match etc {
        Ok(etc) => Ok(Some(etc)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(why(errno)),
    }
}

fn open_all(root: RootOf) -> Result<[Option<(File, Version)>; 3], NoDatabases> {
    let Some(etc) = open_etc(root)? else { return Ok([None, None, None]) };
    let [passwd, group, nsswitch] = FILES.map(|name| open(&etc, name, root));
    Ok([passwd?, group?, nsswitch?])
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens a regular file, if there is one.
///
/// SECURITY: below PID 1's root no link is followed: an absolute one would lead into the daemon's own root.
fn open(etc: &OwnedFd, name: &str, root: RootOf) -> Result<Option<(File, Version)>, NoDatabases> {
    let links = if root == RootOf::FirstProcess { OFlags::NOFOLLOW } else { OFlags::empty() };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | links;
    let file = match rustix::fs::openat(etc, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(why(errno)),
    };
    let stat = rustix::fs::fstat(file.as_fd()).map_err(|_| NoDatabases::Failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(NoDatabases::Failed);
    }
    Ok(Some((File::from(file), version_of(&stat))))
}

fn why(errno: Errno) -> NoDatabases {
    match errno {
        Errno::ACCESS | Errno::PERM | Errno::LOOP | Errno::NOTDIR => NoDatabases::NotReadable,
        _ => NoDatabases::Failed,
    }
}

fn version_of(stat: &Stat) -> Version {
    let time = |seconds: i64, nanoseconds: u64| [seconds, i64::try_from(nanoseconds).unwrap_or_default()];
    (
        stat.st_dev,
        stat.st_ino,
        stat.st_size,
        time(stat.st_mtime, stat.st_mtime_nsec),
        time(stat.st_ctime, stat.st_ctime_nsec),
    )
}

fn whole(file: File) -> Result<Vec<u8>, NoDatabases> {
    let mut text = Vec::new();
    let read: io::Result<usize> = file.take(LARGEST + 1).read_to_end(&mut text);
    match read {
        Ok(_) if text.len() as u64 <= LARGEST => Ok(text),
        _ => Err(NoDatabases::Failed),
    }
}
