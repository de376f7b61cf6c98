//! A process, held by its pidfd.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::future::Shared;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::event::poll;
use rustix::fs::AtFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::process::PidfdFlags;
use rustix::process::pidfd_open;

use crate::attestation::host::stat::Stat;
use crate::attestation::host::status::Status;
use crate::attestation::kernel::Executable;
use crate::attestation::kernel::FileIdentity;
use crate::attestation::kernel::Ids;
use crate::attestation::kernel::Namespace;
use crate::attestation::kernel::PidfdFacts;
use crate::attestation::kernel::ProcDirectory;
use crate::attestation::kernel::ProcFile;
use crate::attestation::kernel::Process;
use crate::attestation::kernel::Unanswered;
use crate::attestation::linux::files;
use crate::attestation::linux::files::read;
use crate::evidence::Credentials;
use crate::evidence::Level;
use crate::evidence::Undecided;
use crate::sys;

/// How often the pidfd is polled where it cannot be registered with `epoll`.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// SPEC: user_namespaces(7): user namespaces are nested at most 32 deep.
const MOST_USER_NAMESPACES: usize = 40;

/// A process of this machine.
#[derive(Debug)]
pub struct LinuxProcess {
    proc: Arc<OwnedFd>,
    pidfd: Arc<OwnedFd>,
    peer: Credentials,
    level: Level,
    /// The start time at [`Level::Reduced`], where the pidfd was opened by PID.
    started: Option<u64>,
    /// Its `/proc/PID`, opened when it is asked for first.
    ///
    /// SECURITY: an open directory is of one process. Once that is reaped its files answer `ESRCH`, whoever has the number
    /// then.
    directory: OnceLock<Arc<OwnedFd>>,
    /// The shared wait for its exit. An `epoll` accepts a descriptor once, and every stream waits.
    exit: OnceLock<Shared<BoxFuture<'static, ()>>>,
}

impl LinuxProcess {
    /// The peer of an accepted socket.
    pub(super) fn connected(proc: Arc<OwnedFd>, socket: BorrowedFd<'_>, level: Level) -> Result<Self, Unanswered> {
        let credentials = getsockopt(&socket, sockopt::PeerCredentials).map_err(unanswered_nix)?;
        let peer = Credentials {
            // SECURITY: for a process outside the daemon's PID namespace the kernel reports PID 0; `by_peer` refuses
            // it.
            pid: u32::try_from(credentials.pid()).unwrap_or(0),
            uid: credentials.uid(),
            gid: credentials.gid(),
        };
        if level == Level::Reduced {
            return Self::opened_by_pid(proc, peer);
        }
        let pidfd = match getsockopt(&socket, sockopt::PeerPidfd) {
            Ok(pidfd) => Arc::new(pidfd),
            // Linux before 6.16 returns no pidfd for a process that was reaped.
            Err(nix::Error::EINVAL | nix::Error::ESRCH) => return Err(Unanswered::Gone),
            Err(errno) => return Err(unanswered_nix(errno)),
        };
        Ok(Self::new(proc, pidfd, peer, level))
    }

    /// The process that has this PID now, with its effective ids as credentials. There is no connection to it, so
    /// nothing is sent to it.
    pub(super) fn numbered(proc: Arc<OwnedFd>, pid: u32, level: Level) -> Result<Self, Unanswered> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Unanswered::Absent)?;
        let pidfd = Arc::new(pidfd_open(number, PidfdFlags::empty()).map_err(unanswered)?);
        let directory = open_directory(&proc, pid)?;
        let status = Status::parse(&read(&directory, "status").map_err(unanswered)?).map_err(|_| Unanswered::Absent)?;
        let peer = Credentials { pid, uid: status.uids.effective, gid: status.gids.effective };
        let process = Self::new(proc, pidfd, peer, level);
        process.alive().map(|()| process)
    }

    fn new(proc: Arc<OwnedFd>, pidfd: Arc<OwnedFd>, peer: Credentials, level: Level) -> Self {
        Self { proc, pidfd, peer, level, started: None, directory: OnceLock::new(), exit: OnceLock::new() }
    }

    /// Opens a peer by its PID, where the kernel has no `SO_PEERPIDFD`.
    ///
    /// SECURITY: the PID may have been reused before this call, which cannot be detected. The equal start times before
    /// and after `pidfd_open` show only that it was not reused *during* the call.
    fn opened_by_pid(proc: Arc<OwnedFd>, peer: Credentials) -> Result<Self, Unanswered> {
        let pid = i32::try_from(peer.pid).ok().and_then(Pid::from_raw).ok_or(Unanswered::Absent)?;
        let started = start_time(&open_directory(&proc, peer.pid)?)?;
        let pidfd = Arc::new(pidfd_open(pid, PidfdFlags::empty()).map_err(unanswered)?);
        let process = Self { started: Some(started), ..Self::new(proc, pidfd, peer, Level::Reduced) };
        process.open_directory().map(|_| process)
    }

    /// Opens the process's directory. The live pidfd then proves that the PID was not reused.
    fn open_directory(&self) -> Result<OwnedFd, Unanswered> {
        let directory = open_directory(&self.proc, self.peer.pid)?;
        if let Some(started) = self.started
            && start_time(&directory)? != started
        {
            return Err(Unanswered::Gone);
        }
        self.alive()?;
        Ok(directory)
    }
}

impl Process for LinuxProcess {
    fn peer(&self) -> Credentials {
        self.peer
    }

    fn level(&self) -> Level {
        self.level
    }

    fn alive(&self) -> Result<(), Unanswered> {
        let mut pidfd = [PollFd::new(&self.pidfd, PollFlags::IN)];
        match poll(&mut pidfd, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(0) => Ok(()),
            Ok(_) => Err(Unanswered::Gone),
            Err(errno) => Err(unanswered(errno)),
        }
    }

    fn pidfd_facts(&self) -> Result<Option<PidfdFacts>, Unanswered> {
        if self.level != Level::Full {
            return Ok(None);
        }
        let info = sys::pidfd::info(self.pidfd.as_fd())
            .map_err(|error| Unanswered::from_errno(error.raw_os_error().unwrap_or_default()))?;
        Ok(Some(PidfdFacts {
            pid: info.pid,
            uids: Ids { real: info.ruid, effective: info.euid, saved: info.suid, fs: info.fsuid },
            gids: Ids { real: info.rgid, effective: info.egid, saved: info.sgid, fs: info.fsgid },
            cgroup: info.cgroup,
        }))
    }

    fn directory(&self) -> Result<Box<dyn ProcDirectory>, Unanswered> {
        if let Some(open) = self.directory.get() {
            return Ok(Box::new(LinuxProcDirectory(Arc::clone(open))));
        }
        let opened = Arc::new(self.open_directory()?);
        Ok(Box::new(LinuxProcDirectory(Arc::clone(self.directory.get_or_init(|| opened)))))
    }

    fn exited(&self) -> BoxFuture<'static, ()> {
        self.exit.get_or_init(|| exit_of(Arc::clone(&self.pidfd)).boxed().shared()).clone().boxed()
    }
}

/// Waits for the exit of a process.
async fn exit_of(pidfd: Arc<OwnedFd>) {
    if sys::readable::readable(pidfd.as_fd()).await.is_ok() {
        return;
    }
    // `epoll` accepts no more descriptors: poll instead.
    let mut pidfds = [PollFd::new(&pidfd, PollFlags::IN)];
    while !matches!(poll(&mut pidfds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1)) {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// An open `/proc/PID`.
#[derive(Debug)]
struct LinuxProcDirectory(Arc<OwnedFd>);

impl ProcDirectory for LinuxProcDirectory {
    fn read(&self, file: ProcFile) -> Result<Vec<u8>, Unanswered> {
        let name = match file {
            ProcFile::Status => "status",
            ProcFile::Stat => "stat",
            ProcFile::Cgroup => "cgroup",
        };
        read(&self.0, name).map_err(unanswered)
    }

    fn namespace(&self, namespace: Namespace) -> Result<u64, Unanswered> {
        namespace_of(&self.0, namespace).map_err(unanswered)
    }

    fn user_namespace_owner(&self, host: u64) -> Result<u32, Unanswered> {
        outermost_user_namespace_owner(&self.0, host).map_err(unanswered)
    }

    fn executable(&self) -> Result<FileIdentity, Unanswered> {
        files::identity_at(&self.0, "exe", AtFlags::empty()).map_err(unanswered_link)
    }

    fn executable_link(&self) -> Result<PathBuf, Unanswered> {
        match rustix::fs::readlinkat(&self.0, "exe", Vec::with_capacity(256)) {
            Ok(link) => Ok(PathBuf::from(OsString::from_vec(link.into_bytes()))),
            // Longer than PATH_MAX: an empty path, which matches no selector.
            Err(Errno::NAMETOOLONG) => Ok(PathBuf::new()),
            Err(errno) => Err(unanswered_link(errno)),
        }
    }

    fn executable_file_system(&self) -> Result<i64, Unanswered> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0, "exe", flags, Mode::empty()).map_err(unanswered_link)?;
        Ok(rustix::fs::fstatfs(file).map_err(unanswered)?.f_type)
    }

    fn open_executable(&self) -> Result<Executable, Unanswered> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&self.0, "exe", flags, Mode::empty()).map_err(unanswered_link)?;
        let identity = files::identity(&file).map_err(unanswered)?;
        Ok(Executable { file: File::from(file), identity })
    }
}

/// The inode of a namespace, from its link below an open `/proc/PID`.
pub(super) fn namespace_of(directory: &OwnedFd, namespace: Namespace) -> Result<u64, Errno> {
    let name = match namespace {
        Namespace::User => "ns/user",
        Namespace::Mount => "ns/mnt",
        Namespace::Pid => "ns/pid",
        Namespace::Cgroup => "ns/cgroup",
    };
    let mut buffer = [0; 64];
    let length = rustix::fs::readlinkat_raw(directory, name, &mut buffer[..])?;
    let link = buffer.get(..length).and_then(|link| std::str::from_utf8(link).ok());
    let inode = link.and_then(|link| link.split_once(":[")?.1.strip_suffix(']')?.parse().ok());
    inode.ok_or(Errno::INVAL)
}

/// The owner of the outermost user namespace below `host` on the way up from that of an open `/proc/PID`.
fn outermost_user_namespace_owner(directory: &OwnedFd, host: u64) -> Result<u32, Errno> {
    let mut namespace = rustix::fs::openat(directory, "ns/user", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    for _ in 0..MOST_USER_NAMESPACES {
        let parent = sys::user_namespace::parent(namespace.as_fd()).map_err(errno)?;
        if rustix::fs::fstat(&parent)?.st_ino == host {
            return sys::user_namespace::owner(namespace.as_fd()).map_err(errno);
        }
        namespace = parent;
    }
    Err(Errno::INVAL)
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

pub(super) fn open_directory(proc: &OwnedFd, pid: u32) -> Result<OwnedFd, Unanswered> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(proc, pid.to_string(), flags, Mode::empty()).map_err(unanswered)
}

fn start_time(directory: &OwnedFd) -> Result<u64, Unanswered> {
    let text = read(directory, "stat").map_err(unanswered)?;
    Stat::parse(&text).map(|stat| stat.started).map_err(|_| Unanswered::Undecided(Undecided::Kernel))
}

fn unanswered(errno: Errno) -> Unanswered {
    Unanswered::from_errno(errno.raw_os_error())
}

fn unanswered_nix(errno: nix::Error) -> Unanswered {
    Unanswered::from_errno(errno as i32)
}

/// A live process can have no `exe` link: a kernel thread, or a process whose first thread has exited.
fn unanswered_link(errno: Errno) -> Unanswered {
    if errno == Errno::NOENT { Unanswered::Absent } else { unanswered(errno) }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::future::join_all;

    use super::*;
    use crate::attestation::linux::reference::proc_directory;

    #[tokio::test(start_paused = true)]
    async fn waits_for_an_exit_are_not_polled_while_the_process_lives() {
        let proc = Arc::new(proc_directory().unwrap());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = LinuxProcess::numbered(proc, child.id(), Level::Pinned).unwrap();
        let mut all = join_all((0..10).map(|_| process.exited()));
        let mut polls = 0;
        let counted = poll_fn(|cx| {
            polls += 1;
            all.poll_unpin(cx)
        });
        assert!(tokio::time::timeout(Duration::from_secs(3600), counted).await.is_err());
        assert!(polls < 10, "polled {polls} times in an hour in which nothing happened");
        child.kill().unwrap();
        all.await;
        child.wait().unwrap();
    }
}
