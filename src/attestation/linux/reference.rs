//! Start-up checks: may the daemon trust what `/proc` shows of other processes? If not, it refuses to start and says
//! why.

use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sys::socket::AddressFamily;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockType;
use nix::sys::socket::getsockopt;
use nix::sys::socket::socketpair;
use nix::sys::socket::sockopt;
use procfs::process::MountInfos;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::PidfdFlags;
use rustix::process::getpid;
use rustix::process::pidfd_open;
use serde::Deserialize;
use serde::Serialize;

use crate::attestation::kernel::Namespace;
use crate::attestation::kernel::Unanswered;
use crate::attestation::linux::files::read;
use crate::attestation::linux::process::namespace_of;
use crate::attestation::linux::process::open_directory;
use crate::evidence::Level;
use crate::sys;

/// Inodes of the namespaces that the kernel starts with (SPEC: linux/proc_ns.h).
const INITIAL_USER: u64 = 4_026_531_837;
const INITIAL_CGROUP: u64 = 4_026_531_835;

/// `f_type` of `/proc`.
const PROC: i64 = 0x9FA0;

/// The only line of a `uid_map` or `gid_map` that maps every id to itself.
const IDENTITY: [&str; 3] = ["0", "0", "4294967295"];

/// The process whose root and namespaces callers are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// PID 1.
    FirstProcess,
    /// The daemon, because it may not read the namespaces of PID 1.
    OwnRoot,
}

/// Why the daemon cannot run on this host. Each message says what is wrong, why that matters, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedHost {
    /// `/proc` is not a proc file system.
    #[error(
        "/proc is not the kernel's process file system; unmount what covers it, or mount it: mount -t proc proc /proc"
    )]
    NotProc,
    /// `/proc` shows the processes of another PID namespace.
    #[error(
        "/proc shows the processes of another PID namespace than the daemon's own; \
         start the daemon in the host's PID namespace (hostPID: true, --pid=host), or mount /proc again: \
         mount -t proc proc /proc"
    )]
    ForeignProc,
    /// `hidepid` or `ProtectProc=` hides processes, and the daemon lacks CAP_SYS_PTRACE.
    #[error(
        "/proc hides other users' processes from the daemon: it is mounted with hidepid={hidepid} (ProtectProc= sets \
         it, too); give the daemon CAP_SYS_PTRACE, or mount /proc without hidepid"
    )]
    HiddenProc {
        /// The value of the mount option.
        hidepid: String,
    },
    /// `/proc/1` cannot be read, and `hidepid` is not the cause.
    #[error(
        "the daemon may not read /proc/1, and /proc is not mounted with hidepid; \
         allow it in the security module (SELinux, AppArmor) or the container runtime"
    )]
    ClosedProc,
    /// The daemon is not in the user namespace of PID 1 or, where that is unknown, of the host.
    #[error(
        "the daemon's user namespace ({own}) is not that of PID 1 or of the host ({reference}), so it cannot tell users \
         apart; start it without PrivateUsers=, --userns or unshare --user"
    )]
    UserNamespace {
        /// The daemon's namespace.
        own: u64,
        /// The namespace of the reference.
        reference: u64,
    },
    /// The daemon's user namespace maps ids.
    #[error(
        "the daemon's user namespace maps ids ({map} is not the identity), so different users look the same; \
         start it in the host's user namespace"
    )]
    MappedIds {
        /// `uid_map` or `gid_map`.
        map: &'static str,
    },
    /// The daemon is not in the PID namespace of PID 1.
    #[error(
        "the daemon's PID namespace ({own}) is not that of PID 1 ({reference}), so callers outside it have no PID here; \
         start it in the host's PID namespace (hostPID: true, --pid=host)"
    )]
    PidNamespace {
        /// The daemon's namespace.
        own: u64,
        /// The namespace of the reference.
        reference: u64,
    },
    /// The kernel has no pidfds.
    #[error("this kernel has no pidfd_open; bonafide needs it to identify callers; use Linux 5.3 or later")]
    KernelTooOld,
    /// The kernel supports less than the configured minimum.
    #[error(
        "this kernel gives the level \"{}\", below the configured minimum \"{}\"; \
         use Linux 6.5 (pinned) or 6.13 (full), or lower [attest] minimum", name(*.found), name(*.minimum)
    )]
    BelowMinimum {
        /// The level of the kernel.
        found: Level,
        /// The configured minimum.
        minimum: Level,
    },
    /// A system call failed that must not fail.
    #[error(
        "{doing} failed: {error}; the kernel, or a filter around the daemon, does not allow it: run `bonafide doctor`"
    )]
    Kernel {
        /// The failed operation.
        doing: &'static str,
        /// The error of the kernel.
        error: Errno,
    },
}

impl UnsupportedHost {
    pub(super) fn kernel(doing: &'static str) -> impl Fn(Errno) -> Self {
        move |error| Self::Kernel { doing, error }
    }
}

fn name(level: Level) -> &'static str {
    match level {
        Level::Reduced => "reduced",
        Level::Pinned => "pinned",
        Level::Full => "full",
    }
}

/// The namespaces that callers are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Namespaces {
    user: u64,
    pid: u64,
    mount: u64,
    cgroup: u64,
    shares_cgroups: bool,
}

impl Namespaces {
    pub(super) fn of(&self, namespace: Namespace) -> u64 {
        match namespace {
            Namespace::User => self.user,
            Namespace::Pid => self.pid,
            Namespace::Mount => self.mount,
            Namespace::Cgroup => self.cgroup,
        }
    }

    /// Whether the daemon is in the cgroup namespace of the reference, so paths in `/proc/PID/cgroup` begin at its
    /// root.
    pub(super) fn shares_cgroups(&self) -> bool {
        self.shares_cgroups
    }
}

/// The reference, with its namespaces and its root.
#[derive(Debug)]
pub(super) struct HostReference {
    pub(super) reference: Reference,
    pub(super) namespaces: Namespaces,
    pub(super) root: OwnedFd,
}

/// Opens `/proc`, once for the life of the daemon. Checks that it is a proc file system of the daemon's PID namespace.
pub(super) fn proc_directory() -> Result<OwnedFd, UnsupportedHost> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let proc = rustix::fs::open("/proc", flags, Mode::empty()).map_err(|_| UnsupportedHost::NotProc)?;
    let file_system = rustix::fs::fstatfs(&proc).map_err(UnsupportedHost::kernel("statfs of /proc"))?;
    if file_system.f_type != PROC {
        return Err(UnsupportedHost::NotProc);
    }
    let status = read(&proc, "self/status").map_err(|_| UnsupportedHost::ForeignProc)?;
    if has_only_this_pid(&status, getpid().as_raw_pid()) { Ok(proc) } else { Err(UnsupportedHost::ForeignProc) }
}

/// Whether a `status` shows exactly this PID. In the `/proc` of an outer PID namespace, a process has one PID per
/// level.
fn has_only_this_pid(status: &[u8], pid: i32) -> bool {
    let expected = format!("NSpid:\t{pid}");
    status.split(|byte| *byte == b'\n').any(|line| line == expected.as_bytes())
}

/// The directory of PID 1, which must be readable.
pub(super) fn first_process(proc: &OwnedFd) -> Result<OwnedFd, UnsupportedHost> {
    let first = open_directory(proc, 1).map_err(hidden)?;
    read(&first, "status").map_err(|_| hidden_proc())?;
    Ok(first)
}

fn hidden(unanswered: Unanswered) -> UnsupportedHost {
    match unanswered {
        Unanswered::Undecided(crate::evidence::Undecided::OutOfDescriptors) => {
            UnsupportedHost::Kernel { doing: "opening /proc/1", error: Errno::MFILE }
        }
        _ => hidden_proc(),
    }
}

/// The error for a hidden `/proc/1`.
fn hidden_proc() -> UnsupportedHost {
    let mounts = procfs::process::Process::myself().and_then(|own| own.mountinfo());
    let hidepid = mounts.ok().and_then(|mounts| hidepid(&mounts));
    hidepid.map_or(UnsupportedHost::ClosedProc, |hidepid| UnsupportedHost::HiddenProc { hidepid })
}

/// The `hidepid` option of `/proc`. Of several mounts there, the last one covers the others.
fn hidepid(mounts: &MountInfos) -> Option<String> {
    let proc = mounts.iter().rfind(|mount| mount.mount_point == Path::new("/proc"))?;
    let hidepid = proc.super_options.get("hidepid")?.clone()?;
    (!matches!(hidepid.as_str(), "0" | "off")).then_some(hidepid)
}

/// The level of this kernel, which must not be below `minimum`.
pub(super) fn level(minimum: Level) -> Result<Level, UnsupportedHost> {
    let (one, _other) =
        socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC).map_err(|errno| {
            UnsupportedHost::Kernel { doing: "socketpair", error: Errno::from_raw_os_error(errno as i32) }
        })?;
    let own = pidfd_open(getpid(), PidfdFlags::empty());
    let peer_pidfd =
        getsockopt(&one, sockopt::PeerPidfd).map(drop).map_err(|errno| Errno::from_raw_os_error(errno as i32));
    let info = match &own {
        Ok(own) => {
            sys::pidfd::info(own.as_fd()).map(drop).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        }
        Err(errno) => Err(*errno),
    };
    let found = level_from(own.map(drop), peer_pidfd, info)?;
    if found < minimum { Err(UnsupportedHost::BelowMinimum { found, minimum }) } else { Ok(found) }
}

/// The level for the results of `pidfd_open`, `SO_PEERPIDFD` and `PIDFD_GET_INFO`.
fn level_from(
    open: Result<(), Errno>,
    peer_pidfd: Result<(), Errno>,
    info: Result<(), Errno>,
) -> Result<Level, UnsupportedHost> {
    match (open, peer_pidfd, info) {
        (Err(Errno::NOSYS), _, _) => Err(UnsupportedHost::KernelTooOld),
        (Err(error), _, _) => Err(UnsupportedHost::Kernel { doing: "pidfd_open", error }),
        (_, Err(Errno::NOPROTOOPT), _) => Ok(Level::Reduced),
        (_, Err(error), _) => Err(UnsupportedHost::Kernel { doing: "SO_PEERPIDFD", error }),
        (_, _, Err(Errno::NOTTY | Errno::INVAL)) => Ok(Level::Pinned),
        (_, _, Err(error)) => Err(UnsupportedHost::Kernel { doing: "PIDFD_GET_INFO", error }),
        (Ok(()), Ok(()), Ok(())) => Ok(Level::Full),
    }
}

/// Determines the reference: PID 1 or, where it may not be read, the daemon.
pub(super) fn find(proc: &OwnedFd) -> Result<HostReference, UnsupportedHost> {
    for map in ["uid_map", "gid_map"] {
        let text =
            read(proc, &format!("self/{map}")).map_err(UnsupportedHost::kernel("reading the daemon's own id maps"))?;
        if !std::str::from_utf8(&text).is_ok_and(|text| text.split_whitespace().eq(IDENTITY)) {
            return Err(UnsupportedHost::MappedIds { map });
        }
    }
    let own_directory = open_directory(proc, getpid().as_raw_pid().unsigned_abs()).map_err(hidden)?;
    let own = namespaces_of(&own_directory).map_err(UnsupportedHost::kernel("reading the daemon's own namespaces"))?;
    let first = first_process(proc)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let first_root = rustix::fs::openat(&first, "root", flags, Mode::empty());
    match (namespaces_of(&first), first_root) {
        (Ok(first), Ok(root)) => Ok(HostReference {
            reference: Reference::FirstProcess,
            namespaces: check_namespaces(own, Some(first))?,
            root,
        }),
        (Err(Errno::ACCESS | Errno::PERM), _) | (_, Err(Errno::ACCESS | Errno::PERM)) => {
            let root = rustix::fs::open("/", flags, Mode::empty()).map_err(UnsupportedHost::kernel("opening /"))?;
            Ok(HostReference { reference: Reference::OwnRoot, namespaces: check_namespaces(own, None)?, root })
        }
        (Err(error), _) | (_, Err(error)) => {
            Err(UnsupportedHost::Kernel { doing: "reading PID 1's namespaces", error })
        }
    }
}

/// The namespace inodes of one process: user, PID, mount, cgroup.
type NamespaceInodes = [u64; 4];

fn namespaces_of(directory: &OwnedFd) -> Result<NamespaceInodes, Errno> {
    let of = |namespace| namespace_of(directory, namespace);
    Ok([of(Namespace::User)?, of(Namespace::Pid)?, of(Namespace::Mount)?, of(Namespace::Cgroup)?])
}

/// The namespaces of the reference. The daemon must be in the user and PID namespace of PID 1.
///
/// Where PID 1 may not be read, the daemon must be in the initial user namespace. That `/proc` belongs to its own PID
/// namespace was checked before.
fn check_namespaces(own: NamespaceInodes, first: Option<NamespaceInodes>) -> Result<Namespaces, UnsupportedHost> {
    let [own_user, own_pid, own_mount, own_cgroup] = own;
    let [user, pid, mount, cgroup] = first.unwrap_or([INITIAL_USER, own_pid, own_mount, INITIAL_CGROUP]);
    if own_user != user {
        return Err(UnsupportedHost::UserNamespace { own: own_user, reference: user });
    }
    if own_pid != pid {
        return Err(UnsupportedHost::PidNamespace { own: own_pid, reference: pid });
    }
    Ok(Namespaces { user, pid, mount, cgroup, shares_cgroups: own_cgroup == cgroup })
}

#[cfg(test)]
mod tests {
    use procfs::FromBufRead;

    use super::*;

    #[test]
    fn the_level_follows_from_the_results_of_the_kernel() {
        let no = |errno| Err(errno);
        for (peer_pidfd, info, level) in [
            (Ok(()), Ok(()), Level::Full),
            (Ok(()), no(Errno::NOTTY), Level::Pinned),
            (Ok(()), no(Errno::INVAL), Level::Pinned),
            (no(Errno::NOPROTOOPT), no(Errno::NOTTY), Level::Reduced),
            (no(Errno::NOPROTOOPT), Ok(()), Level::Reduced),
        ] {
            assert_eq!(level_from(Ok(()), peer_pidfd, info), Ok(level));
        }
    }

    #[test]
    fn an_unexpected_error_is_a_refusal_and_never_a_lower_level() {
        assert_eq!(level_from(Err(Errno::NOSYS), Ok(()), Ok(())), Err(UnsupportedHost::KernelTooOld));
        for (open, peer_pidfd, info) in [
            (Err(Errno::PERM), Ok(()), Ok(())),
            (Ok(()), Err(Errno::PERM), Ok(())),
            (Ok(()), Err(Errno::MFILE), Ok(())),
            (Ok(()), Ok(()), Err(Errno::PERM)),
        ] {
            let refused = level_from(open, peer_pidfd, info);
            assert!(matches!(refused, Err(UnsupportedHost::Kernel { .. })), "{refused:?}");
        }
    }

    #[test]
    fn the_daemon_must_share_the_user_and_pid_namespace_of_pid_1() {
        let own = [INITIAL_USER, 20, 30, 40];
        let shared = check_namespaces(own, Some([INITIAL_USER, 20, 99, 40])).unwrap();
        assert_eq!(shared.of(Namespace::Mount), 99, "the mount namespace is that of PID 1");
        assert!(shared.shares_cgroups());
        assert!(!check_namespaces(own, Some([INITIAL_USER, 20, 30, 41])).unwrap().shares_cgroups());
        let other_user = check_namespaces(own, Some([11, 20, 30, 40]));
        assert_eq!(other_user, Err(UnsupportedHost::UserNamespace { own: INITIAL_USER, reference: 11 }));
        let other_pid = check_namespaces(own, Some([INITIAL_USER, 21, 30, 40]));
        assert_eq!(other_pid, Err(UnsupportedHost::PidNamespace { own: 20, reference: 21 }));
    }

    #[test]
    fn without_access_to_pid_1_the_daemon_must_be_in_the_initial_user_ns() {
        assert!(check_namespaces([INITIAL_USER, 20, 30, INITIAL_CGROUP], None).unwrap().shares_cgroups());
        assert!(!check_namespaces([INITIAL_USER, 20, 30, 40], None).unwrap().shares_cgroups());
        let own = check_namespaces([11, 20, 30, INITIAL_CGROUP], None);
        assert_eq!(own, Err(UnsupportedHost::UserNamespace { own: 11, reference: INITIAL_USER }));
    }

    #[test]
    fn a_proc_of_an_outer_pid_namespace_shows_several_pids() {
        assert!(has_only_this_pid(b"Name:\tx\nNSpid:\t42\n", 42));
        assert!(!has_only_this_pid(b"Name:\tx\nNSpid:\t4711\t42\n", 42));
        assert!(!has_only_this_pid(b"Name:\tx\nNSpid:\t43\n", 42));
        assert!(!has_only_this_pid(b"Name:\tNSpid:\t42\n", 42));
    }

    #[test]
    fn the_last_mount_of_proc_decides_whether_processes_are_hidden() {
        let hidepid_of = |options: &[&str]| {
            let line = |options: &&str| format!("22 27 0:21 / /proc rw,relatime - proc proc {options}\n");
            let text: String =
                options.iter().map(line).chain(["27 1 8:1 / / rw - ext4 /dev/vda rw\n".into()]).collect();
            hidepid(&MountInfos::from_buf_read(text.as_bytes()).unwrap())
        };
        assert_eq!(hidepid_of(&["rw,hidepid=invisible"]).as_deref(), Some("invisible"));
        assert_eq!(hidepid_of(&["rw,gid=4,hidepid=2"]).as_deref(), Some("2"));
        assert_eq!(hidepid_of(&["rw", "rw,hidepid=noaccess"]).as_deref(), Some("noaccess"));
        for shown in [&["rw"][..], &["rw,hidepid=off"], &["rw,hidepid=2", "rw"], &[]] {
            assert_eq!(hidepid_of(shown), None, "{shown:?}");
        }
    }

    #[test]
    fn every_refusal_says_what_is_wrong_and_what_to_do() {
        for unsupported in [
            UnsupportedHost::NotProc,
            UnsupportedHost::ForeignProc,
            UnsupportedHost::HiddenProc { hidepid: "invisible".to_owned() },
            UnsupportedHost::ClosedProc,
            UnsupportedHost::UserNamespace { own: 1, reference: 2 },
            UnsupportedHost::MappedIds { map: "uid_map" },
            UnsupportedHost::PidNamespace { own: 1, reference: 2 },
            UnsupportedHost::KernelTooOld,
            UnsupportedHost::BelowMinimum { found: Level::Reduced, minimum: Level::Full },
            UnsupportedHost::Kernel { doing: "SO_PEERPIDFD", error: Errno::PERM },
        ] {
            let text = unsupported.to_string();
            assert!(text.contains("; ") || text.contains(": "), "{text}");
        }
    }
}
