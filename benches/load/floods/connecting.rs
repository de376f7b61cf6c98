//! Connections for their own sake.

use std::os::unix::net::UnixStream;

use crate::floods::Site;
use crate::floods::count;

pub(super) fn connect_and_close(site: &Site) -> ! {
    loop {
        count(u64::from(UnixStream::connect(&site.socket).is_ok()));
    }
}
