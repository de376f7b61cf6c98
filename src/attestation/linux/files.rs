//! Reading files and telling them apart, without asking a file system that may not answer.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::AtFlags;
use rustix::fs::Statx;
use rustix::fs::StatxFlags;
use rustix::io::Errno;

use crate::attestation::host::MAX_FILE;
use crate::attestation::kernel::FileIdentity;

/// The file behind an open descriptor.
pub(super) fn identity(file: impl AsFd) -> Result<FileIdentity, Errno> {
    identity_at(file, "", AtFlags::EMPTY_PATH)
}

/// The file that a name below `directory` leads to.
///
/// SECURITY: from what the kernel has at hand (`AT_STATX_DONT_SYNC`): whoever answers for a FUSE file system could
/// otherwise hold the reader for ever.
pub(super) fn identity_at(directory: impl AsFd, name: &str, flags: AtFlags) -> Result<FileIdentity, Errno> {
    let flags = flags | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS)?;
    Ok(from_statx(&stat))
}

fn from_statx(stat: &Statx) -> FileIdentity {
    let nanoseconds =
        |time: &rustix::fs::StatxTimestamp| i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    FileIdentity {
        device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        size: stat.stx_size,
        ctime: nanoseconds(&stat.stx_ctime),
        mtime: nanoseconds(&stat.stx_mtime),
        links: u64::from(stat.stx_nlink),
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        mode: u32::from(stat.stx_mode),
    }
}

/// Reads a file of `/proc`, at most [`MAX_FILE`] bytes and one more.
pub(super) fn read_whole(file: &File) -> Result<Vec<u8>, Errno> {
    let mut text = vec![0; 2048];
    let mut filled = 0;
    loop {
        let room = text.get_mut(filled..).unwrap_or_default();
        match rustix::io::read(file, room) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        if filled > MAX_FILE {
            break;
        }
        if filled == text.len() {
            text.resize((text.len() * 4).min(MAX_FILE + 1), 0);
        }
    }
    text.truncate(filled);
    Ok(text)
}
