//! The real disk: everything relative to one handle of the directory, which stays locked while it is open.

use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use procfs::LockType;
use rustix::fs::AtFlags;
use rustix::fs::FileType;
use rustix::fs::FlockOperation;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::Stat;
use rustix::fs::major;
use rustix::fs::minor;
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::durable::files::Files;
use crate::durable::files::MAX_FILE;
use crate::durable::files::NewFile;
use crate::durable::files::OpenDataDirError;
use crate::durable::files::Unreadable;
use crate::durable::owner::FileOwner;

/// Every permission of anyone but the owner.
const OTHERS: u32 = 0o077;

/// A locked directory.
#[derive(Debug)]
pub(super) struct Disk {
    directory: OwnedFd,
}

impl Disk {
    /// Opens and locks a directory; makes it, with what leads to it, where there is none.
    pub(super) fn open(path: &Path) -> Result<Self, OpenDataDirError> {
        let own = geteuid().as_raw();
        let failed = |doing| move |errno: Errno| failure(path, own, doing, errno);
        let directory = match open_directory(path) {
            Err(Errno::NOENT) => {
                make_directory(path).map_err(failed("make"))?;
                open_directory(path).map_err(failed("open"))?
            }
            Err(Errno::NOTDIR) => return Err(OpenDataDirError::NotADirectory { path: path.to_owned() }),
            Err(Errno::ACCESS) => {
                // The owner is the cause, where it is another one.
                rustix::fs::stat(path).map_or(Ok(()), |stat| judge(path, &stat, own))?;
                return Err(failed("open")(Errno::ACCESS));
            }
            opened => opened.map_err(failed("open"))?,
        };
        let stat = rustix::fs::fstat(&directory).map_err(failed("inspect"))?;
        judge(path, &stat, own)?;
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                Err(OpenDataDirError::Locked { path: path.to_owned(), holder: lock_holder(&stat) })
            }
            locked => locked.map(|()| Self { directory }).map_err(failed("lock")),
        }
    }
}

impl Files for Disk {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Unreadable> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let own = geteuid().as_raw();
        let file = match rustix::fs::openat(&self.directory, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(Unreadable::NotOurs),
            Err(Errno::ACCESS) => {
                let found = rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW);
                found.map_or(Ok(()), |stat| owned(&stat, own))?;
                return Err(Unreadable::Io(Errno::ACCESS.into()));
            }
            opened => opened.map_err(io::Error::from)?,
        };
        // SECURITY: asked of the open file, so that what is checked is what is read.
        let stat = rustix::fs::fstat(&file).map_err(io::Error::from)?;
        owned(&stat, own)?;
        if stat.st_mode & OTHERS != 0 {
            return Err(Unreadable::TooWide { mode: stat.st_mode & 0o7777 });
        }
        let length = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || length > MAX_FILE {
            return Err(Unreadable::NotOurs);
        }
        // Room for all of it at once: growing would leave copies of keys behind.
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default() + 1);
        File::from(file).take(MAX_FILE).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn NewFile>> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let owner_only = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&self.directory, name, flags, owner_only)?;
        // Whatever the umask has taken away.
        rustix::fs::fchmod(&file, owner_only)?;
        Ok(Box::new(File::from(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.directory, from, &self.directory, to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            removed => Ok(removed?),
        }
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.directory)?)
    }
}

impl NewFile for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// Checks, without opening or making anything, whether a daemon of this user could open the directory.
pub(super) fn check(path: &Path, uid: u32) -> Result<(), OpenDataDirError> {
    match rustix::fs::stat(path) {
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failure(path, uid, "inspect", errno)),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => {
            Err(OpenDataDirError::NotADirectory { path: path.to_owned() })
        }
        Ok(stat) => judge(path, &stat, uid),
    }
}

/// Only its own user may enter the directory.
fn judge(path: &Path, stat: &Stat, own: u32) -> Result<(), OpenDataDirError> {
    let mode = stat.st_mode & 0o7777;
    if stat.st_uid != own {
        let (owner, own) = (FileOwner::of(stat.st_uid), FileOwner::of(own));
        return Err(OpenDataDirError::ForeignOwner { path: path.to_owned(), private: mode & OTHERS == 0, owner, own });
    }
    if mode & OTHERS != 0 { Err(OpenDataDirError::TooWide { path: path.to_owned(), mode }) } else { Ok(()) }
}

/// A file has to belong to the user that the daemon runs as.
fn owned(stat: &Stat, own: u32) -> Result<(), Unreadable> {
    if stat.st_uid == own {
        return Ok(());
    }
    Err(Unreadable::ForeignOwner { owner: FileOwner::of(stat.st_uid), own: FileOwner::of(own) })
}

/// The system refused a step.
fn failure(path: &Path, own: u32, doing: &'static str, errno: Errno) -> OpenDataDirError {
    OpenDataDirError::Io { path: path.to_owned(), own: FileOwner::of(own), doing, source: errno.into() }
}

/// A link is followed: a service manager may keep the real directory elsewhere. What is opened is then checked itself.
fn open_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Makes a directory for its owner alone, and makes its name durable, for all that will be in it depends on that.
fn make_directory(path: &Path) -> rustix::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = match open_directory(parent) {
        Err(Errno::NOENT) => {
            make_directory(parent)?;
            open_directory(parent)?
        }
        opened => opened?,
    };
    let name = path.file_name().ok_or(Errno::INVAL)?;
    rustix::fs::mkdirat(&parent, name, Mode::RWXU)?;
    let made = rustix::fs::openat(&parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
    rustix::fs::fchmod(&made, Mode::RWXU)?;
    rustix::fs::fsync(&parent)
}

/// The process that holds the lock on the directory, as far as the kernel shows it.
fn lock_holder(directory: &Stat) -> Option<u32> {
    let locks = procfs::locks().ok()?.into_iter();
    let on_inode: Vec<_> =
        locks.filter(|lock| lock.lock_type == LockType::FLock && lock.inode == directory.st_ino).collect();
    let device = (major(directory.st_dev), minor(directory.st_dev));
    let on_device = on_inode.iter().find(|lock| (lock.devmaj, lock.devmin) == device);
    // Of a Btrfs subvolume the kernel shows another device here than fstat(2) does.
    let only = || on_inode.first().filter(|_| on_inode.len() == 1);
    on_device.or_else(only).and_then(|lock| u32::try_from(lock.pid?).ok()).filter(|pid| *pid != 0)
}
