//! Waiting for a descriptor that the runtime has no type for.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits until `fd` can be read without blocking. Each wait registers it anew, so data that is already there completes
/// it.
///
/// # Errors
/// The error of `epoll_ctl`, for example `EPERM` for a kind of descriptor that cannot be waited for.
pub async fn readable(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a `BorrowedFd` is open, and neither closed nor replaced, for as long as it is borrowed; the registration
    // is dropped before this future, and the future before the borrow.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
    registered.readable().await.map(drop)
}

/// Registers a descriptor that is read by other calls than the runtime's.
///
/// # Errors
/// As [`readable`].
pub fn registered(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open until it is dropped; the registration owns it, gives it out by reference only, and ends
    // before it is closed.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
