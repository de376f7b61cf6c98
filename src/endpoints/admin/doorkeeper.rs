//! Who may use the admin socket.

use std::io;
use std::os::fd::AsFd;

use tokio::net::UnixStream;

use crate::sys::peer_groups::peer_groups;

/// Admits root, the daemon's own user, and one group, by the credentials of the socket and before a byte is read.
#[derive(Debug, Clone, Copy)]
pub struct Doorkeeper {
    /// The daemon's own user id.
    pub own_uid: u32,
    /// `[admin] group`, resolved.
    pub group: Option<u32>,
}

/// The credentials that the kernel has of the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::endpoints::admin) struct AdminPeer {
    pub(in crate::endpoints::admin) pid: Option<i32>,
    pub(in crate::endpoints::admin) uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl AdminPeer {
    /// # Errors
    /// The kernel does not tell them; the connection is refused then.
    pub(in crate::endpoints::admin) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let groups = peer_groups(stream.as_fd())?;
        Ok(Self { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid(), groups })
    }
}

impl Doorkeeper {
    /// The mode of the socket. With a group every user may connect, and others than the group are closed unread: a chown
    /// of the socket to the group needs a capability, and supplementary groups are checked here anyway.
    #[must_use]
    pub const fn mode(&self) -> u32 {
        if self.group.is_some() { 0o666 } else { 0o600 }
    }

    /// SECURITY: gid 0 is not admitted, not even where it is the configured group: many daemons and container processes
    /// run with it.
    pub(in crate::endpoints::admin) fn lets_in(&self, peer: &AdminPeer) -> bool {
        peer.uid == 0
            || peer.uid == self.own_uid
            || self.group.is_some_and(|group| group != 0 && (peer.gid == group || peer.groups.contains(&group)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> AdminPeer {
        AdminPeer { pid: Some(1), uid, gid, groups: groups.to_vec() }
    }

    #[test]
    fn root_the_own_user_and_the_group_come_in_and_nobody_else() {
        let keeper = Doorkeeper { own_uid: 990, group: Some(500) };
        for inside in [peer(0, 0, &[]), peer(0, 7, &[]), peer(990, 990, &[]), peer(7, 500, &[]), peer(7, 7, &[8, 500])]
        {
            assert!(keeper.lets_in(&inside), "{inside:?}");
        }
        for outside in [peer(7, 7, &[]), peer(7, 0, &[]), peer(7, 7, &[0]), peer(500, 7, &[8]), peer(65534, 65534, &[])]
        {
            assert!(!keeper.lets_in(&outside), "{outside:?}");
        }
    }

    #[test]
    fn gid_0_is_nobody_even_where_it_is_the_group() {
        for group in [None, Some(0)] {
            assert!(!Doorkeeper { own_uid: 990, group }.lets_in(&peer(7, 0, &[0])));
        }
    }
}
