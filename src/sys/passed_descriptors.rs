//! `SO_PASSRIGHTS`: refusing file descriptors that a peer sends (`SCM_RIGHTS`).

use std::ffi::c_int;
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;

/// `SO_PASSRIGHTS` (Linux 6.16, `asm-generic/socket.h`).
const SO_PASSRIGHTS: c_int = 83;

/// Makes the kernel refuse descriptors sent to this Unix socket; the sender gets `EPERM`. Sockets accepted from a
/// listener inherit the setting.
///
/// # Errors
/// `ENOPROTOOPT` below Linux 6.16; there the reader must close the descriptors that it receives.
pub fn refuse(socket: BorrowedFd<'_>) -> io::Result<()> {
    let off: c_int = 0;
    let size = libc::socklen_t::try_from(size_of::<c_int>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for as long as it is borrowed; the kernel reads `size` bytes at the pointer, which
    // is a live `c_int` of exactly that size.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, (&raw const off).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
