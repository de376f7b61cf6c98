//! Resolves, reads and identifies files. Calls that could block on a file system are made only with [`MayBlock::Yes`].

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

/// Opens (`O_PATH`) the file at `below`, resolved with `root` as `/` and without symlinks.
///
/// `openat2(2)` resolves in one call, and with `RESOLVE_CACHED` without blocking. Seccomp filters cannot check its
/// arguments, so many block it: systemd's `RestrictSUIDSGID=`, profiles of older container runtimes. Then the path is
/// walked name by name, which can block on every file system on the path.
///
/// # Errors
/// `EAGAIN` where [`MayBlock::No`] is not enough; else the error of the kernel.
pub(super) fn resolve(root: &OwnedFd, below: &Path, may_block: MayBlock) -> Result<OwnedFd, Errno> {
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    if may_block == MayBlock::No {
        // SECURITY: a path can lead into a file system of a user (FUSE) that never answers.
        resolve |= ResolveFlags::CACHED;
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::openat2(root, below, flags, Mode::empty(), resolve) {
        // Linux before 5.12 does not have RESOLVE_CACHED.
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) if may_block == MayBlock::No => Err(Errno::AGAIN),
        Err(Errno::NOSYS | Errno::PERM) => walk(root, below),
        resolved => resolved,
    }
}

/// Resolves a path name by name.
///
/// SECURITY: `O_NOFOLLOW` with `O_PATH` opens a symlink itself. In the middle of the path that is `ENOTDIR`, and at the
/// end it is a file that no process runs. A `..` is refused, so the path cannot leave `root`.
fn walk(root: &OwnedFd, below: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut at = rustix::io::fcntl_dupfd_cloexec(root, 0)?;
    let mut names = below.components().peekable();
    while let Some(name) = names.next() {
        let Component::Normal(name) = name else { return Err(Errno::INVAL) };
        let directory = if names.peek().is_some() { OFlags::DIRECTORY } else { OFlags::empty() };
        at = rustix::fs::openat(&at, name, flags | directory, Mode::empty())?;
    }
    Ok(at)
}

/// The identity of an open file.
pub(super) fn identity(file: impl AsFd) -> Result<FileIdentity, Errno> {
    identity_at(file, "", AtFlags::EMPTY_PATH)
}

/// The identity of the file with this name below `directory`.
///
/// SECURITY: `AT_STATX_DONT_SYNC` reads cached attributes only. Otherwise the server of a FUSE file system could block
/// the reader for ever.
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

/// The size of the first read: more than most files have, and less than the kernel's buffer, which is a page.
const FIRST: usize = 2048;

/// Reads a file of `/proc`, at most [`MAX_FILE`] bytes and one more.
///
/// The kernel fills a page before it returns data of such a file, so a first read that is short has reached the end.
/// Only a longer file needs more reads.
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
    fn walking_a_path_gives_the_file_that_openat2_gives() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/file"), "x").unwrap();
        symlink("b", folder.path().join("a/link")).unwrap();
        symlink("b/file", folder.path().join("a/last")).unwrap();
        symlink("/proc/self/exe", folder.path().join("magic")).unwrap();
        let root: OwnedFd = File::open(folder.path()).unwrap().into();
        for path in ["a/b/file", "a/b", "a/link/file", "a/last", "magic", "a/none", "a/b/file/x", "a/../a/b", "../x"] {
            let [resolved, walked] = [resolve(&root, path.as_ref(), MayBlock::Yes), walk(&root, path.as_ref())];
            match (resolved, walked) {
                (Ok(resolved), Ok(walked)) => {
                    assert_eq!(identity(resolved).unwrap(), identity(walked).unwrap(), "{path}");
                }
                (Err(_), Err(_)) => assert!(!path.starts_with("a/b/f") || path.ends_with('x'), "{path}"),
                (resolved, Err(Errno::INVAL)) => assert!(path.contains(".."), "{path}: {resolved:?}"),
                differ => panic!("{path}: {differ:?}"),
            }
        }
    }
}
