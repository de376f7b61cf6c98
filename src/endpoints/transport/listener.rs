//! A bound Unix socket. Only root and the daemon may change the directories above it; a socket that is there is replaced
//! only if it is the daemon's own and refuses connections; at the end only the inode that was bound is removed.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::AtFlags;
use rustix::fs::FileType;
use rustix::fs::Gid;
use rustix::fs::Mode;
use rustix::fs::Stat;
use rustix::io::Errno;
use rustix::net::AddressFamily;
use rustix::net::SocketAddrUnix;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use tokio::io::unix::AsyncFd;

use crate::sys::passed_descriptors;
use crate::sys::readable;
use crate::trusted_path;
use crate::trusted_path::TrustedUser;
use crate::trusted_path::UntrustedPath;

/// The most bytes a socket's path may have (`sun_path` without its end).
pub const MAX_PATH: usize = 107;

/// How many connects wait in the kernel. SECURITY: they are served in their order, whoever makes them, so a new one waits for
/// all that others have made: at a few microseconds each, some milliseconds.
const BACKLOG: i32 = 1024;

/// Why a socket was not bound.
#[derive(Debug, thiserror::Error)]
pub enum NotBound {
    /// A relative or abstract name, `..`, or none.
    #[error("{path:?} is not the absolute path of a socket; write one, for example \"/run/bonafide/workload.sock\"")]
    NotAbsolute {
        /// What was given.
        path: PathBuf,
    },
    /// More than [`MAX_PATH`] bytes.
    #[error("the path {path:?} has {bytes} bytes; a socket's path has at most 107, so choose a shorter one")]
    PathTooLong {
        /// What was given.
        path: PathBuf,
        /// How many it has.
        bytes: usize,
    },
    /// Others could put a socket of their own in its place.
    #[error("the socket {path:?} could be replaced by others: {why}")]
    Replaceable {
        /// Which.
        path: PathBuf,
        /// How.
        why: UntrustedPath,
    },
    /// Something that is not the daemon's own socket has the name.
    #[error("{path:?} is there and is not the daemon's own socket; remove it if nobody needs it")]
    NameTaken {
        /// Which.
        path: PathBuf,
    },
    /// Another daemon listens under the name.
    #[error("another daemon listens on {path:?}; stop it, or give this one another socket")]
    AlreadyServed {
        /// Which.
        path: PathBuf,
    },
    /// The daemon may not give the socket to a group.
    #[error(
        "{path:?} cannot be given to the group {group}: {source}; let the daemon's user be in it \
         (SupplementaryGroups= in the unit) and restart the daemon"
    )]
    GroupNotGiven {
        /// Which.
        path: PathBuf,
        /// The id of the group.
        group: u32,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused a step.
    #[error("could not {step} {path:?}: {source}; let the daemon's user write there, or give another socket")]
    Kernel {
        /// Which step.
        step: &'static str,
        /// Of what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Who may connect to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketAccess {
    /// Its mode.
    pub mode: u32,
    /// Its group; `None` for that of the daemon.
    pub group: Option<u32>,
}

impl From<u32> for SocketAccess {
    fn from(mode: u32) -> Self {
        Self { mode, group: None }
    }
}

/// A bound and listening socket.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    access: SocketAccess,
    socket: AsyncFd<OwnedFd>,
    bound: Inode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Inode {
    device: u64,
    inode: u64,
}

impl Listener {
    /// Binds `path` for those who may connect, making missing directories. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`NotBound`]
    pub fn bind(path: &Path, access: impl Into<SocketAccess>) -> Result<Self, NotBound> {
        let access = access.into();
        let (socket, bound) = bind(path, access)?;
        Ok(Self { path: path.to_owned(), access, socket, bound })
    }

    /// Its name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The socket, to accept from. `SO_PASSCRED` is set on it, and accepted sockets inherit that.
    #[must_use]
    pub fn socket(&self) -> &AsyncFd<OwnedFd> {
        &self.socket
    }

    /// Binds again if the name was deleted.
    ///
    /// # Errors
    /// [`NotBound`], as long as something else has the name.
    pub fn keep_name(&mut self) -> Result<(), NotBound> {
        if inode_at(&self.path) != Some(self.bound) {
            (self.socket, self.bound) = bind(&self.path, self.access)?;
            tracing::warn!(path = ?self.path, "the socket's name was deleted; it is bound again");
        }
        Ok(())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // RACE: between the check and the removal only root or another daemon of the same user could put a socket of its
        // own here, for the directory is closed to everyone else; that daemon binds again within two seconds.
        if inode_at(&self.path) == Some(self.bound)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = ?self.path, %error, "the socket could not be removed");
        }
    }
}

/// Checks that a daemon of `user` could bind `path` now, as far as that depends on whose the directories are and what has
/// the name. Changes nothing; a daemon that listens there is no obstacle.
///
/// # Errors
/// [`NotBound`]
pub fn check(path: &Path, user: TrustedUser) -> Result<(), NotBound> {
    let name = check_path(path)?;
    match open_parents(path, user, false) {
        // The start makes it.
        Err(NotBound::Kernel { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(directory) => own_socket_at(&directory, name, path, user).map(drop),
        Err(why) => Err(why),
    }
}

fn inode_at(path: &Path) -> Option<Inode> {
    rustix::fs::lstat(path).ok().map(|found| Inode { device: found.st_dev, inode: found.st_ino })
}

/// SECURITY: the socket is bound under a name that no client knows, gets its mode there, listens, and only then is moved
/// over its real name. No process can connect before the mode is set, and a name that is served is never missing.
fn bind(path: &Path, access: SocketAccess) -> Result<(AsyncFd<OwnedFd>, Inode), NotBound> {
    let failed = |step| move |errno: Errno| NotBound::Kernel { step, path: path.to_owned(), source: errno.into() };
    let name = check_path(path)?;
    let own = TrustedUser::own();
    let directory = open_parents(path, own, true)?;
    check_name(&directory, name, path, own)?;
    let temporary = temporary_name(path, name);
    remove_leftover(&directory, &temporary).map_err(failed("remove what was left beside"))?;

    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(failed("make a socket for"))?;
    rustix::net::sockopt::set_socket_passcred(&socket, true).map_err(failed("have writers named on"))?;
    match passed_descriptors::refuse(socket.as_fd()) {
        Err(error) if error.raw_os_error() != Some(libc::ENOPROTOOPT) => {
            return Err(NotBound::Kernel { step: "refuse descriptors on", path: path.to_owned(), source: error });
        }
        _ => {} // below Linux 6.16 the reader leaves no room for them
    }
    let address = SocketAddrUnix::new(path.with_file_name(&temporary)).map_err(failed("name"))?;
    rustix::net::bind(&socket, &address).map_err(failed("bind"))?;
    if let Some(group) = access.group {
        rustix::fs::chownat(&directory, &temporary, None, Some(Gid::from_raw(group)), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| NotBound::GroupNotGiven { path: path.to_owned(), group, source: errno.into() })?;
    }
    rustix::fs::chmodat(&directory, &temporary, Mode::from_raw_mode(access.mode), AtFlags::empty())
        .map_err(failed("set the mode of"))?;
    rustix::net::listen(&socket, BACKLOG).map_err(failed("listen on"))?;
    let bound = rustix::fs::statat(&directory, &temporary, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("look at"))?;
    rustix::fs::renameat(&directory, &temporary, &directory, name).map_err(failed("give its name to"))?;
    let socket = readable::registered(socket).map_err(|source| NotBound::Kernel {
        step: "wait on",
        path: path.to_owned(),
        source,
    })?;
    Ok((socket, Inode { device: bound.st_dev, inode: bound.st_ino }))
}

fn check_path(path: &Path) -> Result<&OsStr, NotBound> {
    let bytes = path.as_os_str().len();
    if bytes > MAX_PATH {
        return Err(NotBound::PathTooLong { path: path.to_owned(), bytes });
    }
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    match path.file_name() {
        Some(name) if path.is_absolute() && plain && !path.as_os_str().as_bytes().contains(&0) => Ok(name),
        _ => Err(NotBound::NotAbsolute { path: path.to_owned() }),
    }
}

/// Opens the directory of `path`, which nobody else can exchange.
fn open_parents(path: &Path, user: TrustedUser, makes_missing: bool) -> Result<OwnedFd, NotBound> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    trusted_path::open_directory_of_socket(parent, user, makes_missing).map_err(|why| match why {
        UntrustedPath::Unreachable { part, source } => {
            NotBound::Kernel { step: "open the directory", path: part.path().to_owned(), source }
        }
        why => NotBound::Replaceable { path: path.to_owned(), why },
    })
}

fn is_of(found: &Stat, user: TrustedUser) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::Socket && found.st_uid == user.uid
}

/// Whether the name has a socket of `user`'s; false where it is free.
fn own_socket_at(directory: &OwnedFd, name: &OsStr, path: &Path, user: TrustedUser) -> Result<bool, NotBound> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(NotBound::Kernel { step: "look at", path: path.to_owned(), source: errno.into() }),
        Ok(found) if is_of(&found, user) => Ok(true),
        Ok(_) => Err(NotBound::NameTaken { path: path.to_owned() }),
    }
}

/// Checks that the name is free, or has our own socket on which no process listens.
fn check_name(directory: &OwnedFd, name: &OsStr, path: &Path, user: TrustedUser) -> Result<(), NotBound> {
    if !own_socket_at(directory, name, path, user)? {
        return Ok(());
    }
    match probe(path) {
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(()),
        Ok(()) | Err(Errno::AGAIN) => Err(NotBound::AlreadyServed { path: path.to_owned() }),
        Err(errno) => Err(NotBound::Kernel { step: "probe", path: path.to_owned(), source: errno.into() }),
    }
}

fn probe(path: &Path) -> Result<(), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
}

/// `.name`; where that would be a byte too long, without the name's last byte.
fn temporary_name(path: &Path, name: &OsStr) -> PathBuf {
    let mut bytes = [b".", name.as_bytes()].concat();
    if path.as_os_str().len() == MAX_PATH {
        bytes.pop();
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

/// A daemon that died between binding and moving left its socket under the temporary name.
fn remove_leftover(directory: &OwnedFd, name: &Path) -> Result<(), Errno> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}
