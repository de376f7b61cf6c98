//! `PROCMAP_QUERY` on `/proc/PID/maps`: whether a process still runs in the memory that the file was opened for.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::ioctl;

/// `struct procmap_query` of `linux/fs.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct ProcmapQuery {
    size: u64,
    query_flags: u64,
    query_addr: u64,
    vma: [u64; 6],
    device: [u32; 2],
    name_size: u32,
    build_id_size: u32,
    name_addr: u64,
    build_id_addr: u64,
}

const _: () = assert!(size_of::<ProcmapQuery>() == 104, "the size of the structure in Linux 6.11");

const PROCMAP_QUERY: ioctl::Opcode = ioctl::opcode::read_write::<ProcmapQuery>(b'f', 17);

/// Whether some process runs in the memory of this open `/proc/PID/maps` (Linux 6.11). Asks for the mapping at the last
/// address, where there is none, so that no lock of a mapping is waited for.
///
/// # Errors
/// `ENOTTY` on an older kernel.
pub fn is_in_use(maps: BorrowedFd<'_>) -> io::Result<bool> {
    let size = size_of::<ProcmapQuery>() as u64;
    let mut query = ProcmapQuery { size, query_addr: u64::MAX, ..ProcmapQuery::default() };
    // SAFETY: the opcode carries the size of `ProcmapQuery`, and the kernel reads and writes that many bytes at most, all
    // of them inside the structure; every bit pattern is a valid `ProcmapQuery`. Both buffers have the size 0, so the
    // kernel writes to no other address.
    let answer = unsafe { ioctl::ioctl(maps, ioctl::Updater::<PROCMAP_QUERY, _>::new(&mut query)) };
    match answer {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn memory_is_in_use_until_its_process_has_exited() {
        if is_in_use(File::open("/proc/self/maps").unwrap().as_fd()).is_err() {
            eprintln!("skipped: memory_is_in_use_until_its_process_has_exited: needs Linux 6.11");
            return;
        }
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let maps = File::open(format!("/proc/{}/maps", child.id())).unwrap();
        assert!(is_in_use(maps.as_fd()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_in_use(maps.as_fd()).unwrap());
    }
}
