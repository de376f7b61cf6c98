//! The ioctls of user namespaces (SPEC: ioctl_nsfs(2)): the parent, and the owner.

use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;

/// The user namespace in which this one was made.
///
/// # Errors
/// `EPERM` for the initial namespace, and where the parent is outside the daemon's own.
pub fn parent(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is open for as long as it is borrowed, and the request takes no argument. Any other kind of
    // descriptor returns an error.
    let parent = unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_PARENT) };
    if parent < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened this descriptor, close-on-exec, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(parent) })
}

/// The effective uid, in the daemon's user namespace, of the process that made this one.
///
/// # Errors
/// `EINVAL` for a namespace of another kind; `ENOTTY` for any other descriptor.
pub fn owner(namespace: BorrowedFd<'_>) -> io::Result<u32> {
    let mut uid: libc::uid_t = 0;
    // SAFETY: the descriptor is open for as long as it is borrowed; the kernel writes one `uid_t` at the pointer, which is a
    // live local of that type.
    let answer = unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_OWNER_UID, &raw mut uid) };
    if answer == 0 { Ok(uid) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_descriptor_that_is_no_user_namespace_is_an_error() {
        let other = File::open("/proc/self/ns/uts").unwrap();
        assert_eq!(owner(other.as_fd()).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert_eq!(parent(other.as_fd()).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        let file = File::open("/dev/null").unwrap();
        assert!(owner(file.as_fd()).is_err());
        assert!(parent(file.as_fd()).is_err());
    }
}
