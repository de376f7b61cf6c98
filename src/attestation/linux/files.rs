//! Finding files, reading them and telling them apart, without asking a file system that may not answer unless there is
//! time.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::Component;
use std::path::Path;

use rustix::buffer::spare_capacity;
use rustix::fs::AtFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::fs::Statx;
use rustix::fs::StatxFlags;
use rustix::io::Errno;
use rustix::io::retry_on_intr;

use crate::attestation::host::MAX_FILE;
use crate::attestation::kernel::FileIdentity;
use crate::attestation::kernel::MayBlock;

/// A handle on what lies at `below` when `root` is `/`, and no name on the way is a symlink.
///
/// `openat2(2)` does it in one step and without waiting. A filter on system calls cannot look into its arguments, so that
/// many take it away whole (`RestrictSUIDSGID=` of systemd, the profiles of older container runtimes): then it is gone
/// name by name, which may take as long as the slowest file system on the way.
///
/// # Errors
/// `EAGAIN`: not without patience. Else whatever the kernel says.
pub(super) fn resolve(root: &OwnedFd, below: &Path, may_block: MayBlock) -> Result<OwnedFd, Errno> {
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    if may_block == MayBlock::No {
        // SECURITY: a path can lead into a file system that its owner answers for, and never answers.
        resolve |= ResolveFlags::CACHED;
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::openat2(root, below, flags, Mode::empty(), resolve) {
        // RESOLVE_CACHED is not known below Linux 5.12.
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) if may_block == MayBlock::No => Err(Errno::AGAIN),
        Err(Errno::NOSYS | Errno::PERM) => walk(root, below),
        resolved => resolved,
    }
}

/// SECURITY: `O_NOFOLLOW` with `O_PATH` opens a symlink itself, and nothing lies below a symlink: on the way it is
/// `ENOTDIR`, and at the end it is a file that nobody runs. There is no `..` on the way, so none leads out of `root`.
fn walk(root: &OwnedFd, below: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut at = rustix::io::fcntl_dupfd_cloexec(root, 0)?;
    let mut names = below.components().peekable();
    while let Some(name) = names.next() {
        let Component::Normal(name) = name else { return Err(Errno::INVAL) };
        let on_the_way = if names.peek().is_some() { OFlags::DIRECTORY } else { OFlags::empty() };
        at = rustix::fs::openat(&at, name, flags | on_the_way, Mode::empty())?;
    }
    Ok(at)
}

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

/// Reads a file below an open directory of `/proc`.
pub(super) fn read(directory: &OwnedFd, name: &str) -> Result<Vec<u8>, Errno> {
    let file = rustix::fs::openat(directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    read_whole(&File::from(file))
}

/// How much of a file is asked for at first: more than most have, and less than the kernel's own buffer (a page).
const FIRST: usize = 2048;

/// Reads a file of `/proc`, at most [`MAX_FILE`] bytes and one more.
///
/// The kernel writes such a file into a page before it hands it out, so that a first read that leaves room has met the
/// end of the file; only a longer one is asked for more.
pub(super) fn read_whole(file: &File) -> Result<Vec<u8>, Errno> {
    let mut text = Vec::with_capacity(FIRST);
    let first = retry_on_intr(|| rustix::io::read(file, spare_capacity(&mut text)))?;
    if first < FIRST {
        return Ok(text);
    }
    while text.len() <= MAX_FILE {
        text.reserve_exact((text.len() * 3).min(MAX_FILE + 1 - text.len()));
        if retry_on_intr(|| rustix::io::read(file, spare_capacity(&mut text)))? == 0 {
            break;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn name_by_name_a_path_leads_where_one_step_leads() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/file"), "x").unwrap();
        symlink("b", folder.path().join("a/link")).unwrap();
        symlink("b/file", folder.path().join("a/last")).unwrap();
        symlink("/proc/self/exe", folder.path().join("magic")).unwrap();
        let root: OwnedFd = File::open(folder.path()).unwrap().into();
        for path in ["a/b/file", "a/b", "a/link/file", "a/last", "magic", "a/none", "a/b/file/x", "a/../a/b", "../x"] {
            let [one, many] = [resolve(&root, path.as_ref(), MayBlock::Yes), walk(&root, path.as_ref())];
            match (one, many) {
                (Ok(one), Ok(many)) => assert_eq!(identity(one).unwrap(), identity(many).unwrap(), "{path}"),
                (Err(_), Err(_)) => assert!(!path.starts_with("a/b/f") || path.ends_with('x'), "{path}"),
                (one, Err(Errno::INVAL)) => assert!(path.contains(".."), "{path}: {one:?}"),
                differ => panic!("{path}: {differ:?}"),
            }
        }
    }
}
