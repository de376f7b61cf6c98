//! Connections that are held, and replaced when the daemon closes them.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;

use crate::floods::Site;
use crate::floods::count;

/// Holds so many connections that have said this and never read. `worth` is what one of them counts.
pub(super) fn hold(site: &Site, connections: usize, says: &[u8], worth: u64) -> ! {
    let mut held: Vec<UnixStream> = Vec::new();
    loop {
        while held.len() < connections {
            let Ok(mut connection) = UnixStream::connect(&site.socket) else { continue };
            let timeout = connection.set_write_timeout(Some(Duration::from_secs(1)));
            if timeout.and_then(|()| connection.write_all(says)).is_ok() {
                count(worth);
                held.push(connection);
            }
        }
        let mut polled: Vec<_> = held.iter().map(|one| PollFd::new(one.as_fd(), PollFlags::empty())).collect();
        let _ = nix::poll::poll(&mut polled, PollTimeout::from(100u8));
        let closed: Vec<_> = polled.iter().map(|one| one.any() == Some(true)).collect();
        let mut closed = closed.into_iter();
        held.retain(|_| !closed.next().unwrap_or_default());
    }
}
