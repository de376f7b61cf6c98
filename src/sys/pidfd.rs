//! `PIDFD_GET_INFO`: the ids and the cgroup of a pidfd's process.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::ioctl;

const WITH_PID: u64 = 1 << 0;
const WITH_CREDENTIALS: u64 = 1 << 1;
const WITH_CGROUP: u64 = 1 << 2;

/// `struct pidfd_info` of `linux/pidfd.h`, in its first version (64 bytes); later kernels only append to it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct PidfdInfo {
    mask: u64,
    /// Id of the cgroup in the v2 hierarchy: the inode of its directory.
    pub cgroup: u64,
    /// Process id in the daemon's PID namespace.
    pub pid: u32,
    tgid: u32,
    ppid: u32,
    /// Real user id.
    pub ruid: u32,
    /// Real group id.
    pub rgid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Effective group id.
    pub egid: u32,
    /// Saved user id.
    pub suid: u32,
    /// Saved group id.
    pub sgid: u32,
    /// File system user id.
    pub fsuid: u32,
    /// File system group id.
    pub fsgid: u32,
    exit_code: i32,
}

const _: () = assert!(size_of::<PidfdInfo>() == 64, "the kernel tells versions of this structure apart by its size");

const PIDFD_GET_INFO: ioctl::Opcode = ioctl::opcode::read_write::<PidfdInfo>(0xFF, 11);

/// The process id, all user and group ids and the cgroup of a pidfd's process (Linux 6.13).
///
/// # Errors
/// `ENOTTY` or `EINVAL` on an older kernel; `ESRCH` after the process was reaped; `EREMOTE` for a process outside the
/// daemon's PID namespace.
pub fn info(pidfd: BorrowedFd<'_>) -> io::Result<PidfdInfo> {
    let mut info = PidfdInfo { mask: WITH_PID | WITH_CREDENTIALS | WITH_CGROUP, ..PidfdInfo::default() };
    // SAFETY: the opcode carries the size of `PidfdInfo`, and the kernel reads and writes that many bytes at most, all
    // of them inside the structure; every bit pattern is a valid `PidfdInfo`. Any other kind of descriptor returns an
    // error.
    unsafe { ioctl::ioctl(pidfd, ioctl::Updater::<PIDFD_GET_INFO, _>::new(&mut info))? };
    let all = WITH_PID | WITH_CREDENTIALS | WITH_CGROUP;
    if info.mask & all == all { Ok(info) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}
