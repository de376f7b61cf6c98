//! `SO_PEERGROUPS`: the supplementary groups of a socket's peer (SPEC: unix(7), Linux 4.13).

use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;

use libc::socklen_t;

/// The supplementary groups that the peer of a connected Unix socket had when it connected.
///
/// # Errors
/// The error of `getsockopt`; `ENODATA` where the socket has no peer credentials.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    loop {
        let room = groups.len() * size_of::<u32>();
        let mut bytes = socklen_t::try_from(room).map_err(io::Error::other)?;
        // SAFETY: the pointer is valid for writes of `bytes` bytes, which the kernel respects, and `bytes` itself is a
        // live local; a gid_t is a u32, and any bit pattern is one.
        let answer = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let needed = bytes as usize / size_of::<u32>();
        if answer == 0 {
            groups.truncate(needed);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || needed <= groups.len() {
            return Err(error);
        }
        groups.resize(needed, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_groups_of_a_peer_are_those_of_its_process() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut own: Vec<u32> = nix::unistd::getgroups().unwrap().into_iter().map(nix::unistd::Gid::as_raw).collect();
        let mut seen = peer_groups(ours.as_fd()).unwrap();
        own.sort_unstable();
        seen.sort_unstable();
        assert_eq!(seen, own);
    }

    #[test]
    fn a_socket_without_a_peer_is_an_error() {
        let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
        assert!(peer_groups(socket.as_fd()).is_err());
    }
}
