//! Which users may use the admin socket.

use std::io;
use std::os::fd::AsFd;

use tokio::net::UnixStream;

use crate::endpoints::transport::listener::SocketAccess;
use crate::sys::peer_groups::peer_groups;

/// Lets in root, the daemon's own user, and one group, by the credentials of the socket and before a byte is read.
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
    /// Who may connect: root and the daemon's own user, and the group where there is one.
    #[must_use]
    pub fn access(&self) -> SocketAccess {
        let group = self.group.filter(|group| *group != 0);
        SocketAccess { mode: if group.is_some() { 0o660 } else { 0o600 }, group }
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
    fn only_root_the_own_user_and_members_of_the_group_are_let_in() {
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
            let keeper = Doorkeeper { own_uid: 990, group };
            assert!(!keeper.lets_in(&peer(7, 0, &[0])));
            assert_eq!(keeper.access(), SocketAccess { mode: 0o600, group: None });
        }
    }

    #[test]
    fn a_group_may_connect_and_others_may_not() {
        let keeper = Doorkeeper { own_uid: 990, group: Some(500) };
        assert_eq!(keeper.access(), SocketAccess { mode: 0o660, group: Some(500) });
    }
}
