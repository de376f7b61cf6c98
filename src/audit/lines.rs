//! Non-blocking output of lines. When [`Lines::write`] returns, the kernel has the line, unless the reader is slow.
//! Then the line is queued, and when the bounded queue is full, lines are dropped and counted.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::event::poll;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::io::retry_on_intr;
use rustix::net::SendFlags;

/// The most bytes that are queued for a slow reader.
const MAX_QUEUED: usize = 1 << 20;

/// A pipe that polls writable accepts a page without blocking.
const ONE_PAGE: usize = 4096;

/// A writer of lines to standard output. Dropping it ends its thread and discards queued lines.
#[derive(Debug)]
pub struct Lines {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    output: Output,
    queue: Mutex<Queue>,
    changed: Condvar,
    dropped: Counter,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Box<[u8]>>,
    bytes: usize,
    /// How many bytes of the first line were written.
    written: usize,
    /// The last line was dropped after a part of it was written; a newline must precede the next line.
    torn: bool,
    closed: bool,
}

/// A file descriptor, and how to write to it without blocking. `O_NONBLOCK` is never set on the descriptor itself: the
/// flag would affect every process that shares the open file description, such as the shell on the same terminal.
#[derive(Debug)]
enum Output {
    /// A socket, written to with `MSG_DONTWAIT`. systemd passes one that leads to its journal.
    Socket(OwnedFd),
    /// An open file description of our own, with `O_NONBLOCK`; or a regular file, whose writes never wait for a reader.
    OwnDescription(OwnedFd),
    /// A pipe or terminal that cannot be opened again: polled before each write of at most a page.
    PollFirst(OwnedFd),
}

impl Lines {
    /// Starts the writer and its thread on standard output.
    ///
    /// # Errors
    /// When standard output is closed, or no thread can be started.
    pub fn to_standard_output(dropped: Counter) -> io::Result<Self> {
        Self::to(io::stdout().as_fd().try_clone_to_owned()?, dropped)
    }

    /// Starts the writer and its thread on `fd`; `dropped` counts the lines that are lost.
    ///
    /// # Errors
    /// As [`Lines::to_standard_output`].
    pub fn to(fd: OwnedFd, dropped: Counter) -> io::Result<Self> {
        let shared =
            Arc::new(Shared { output: Output::new(fd)?, queue: Mutex::default(), changed: Condvar::new(), dropped });
        let in_thread = Arc::clone(&shared);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || in_thread.write_until_closed())?;
        Ok(Self { shared })
    }

    /// Writes `line`, which ends with a newline. On return the output has accepted it, or accepts none at present.
    pub fn write(&self, line: &[u8]) {
        let mut queue = self.shared.queue();
        if queue.bytes + line.len() > MAX_QUEUED {
            self.shared.dropped.inc();
            return;
        }
        queue.push(line);
        if queue.lines.len() == 1 {
            self.shared.write_queued(&mut queue);
        }
        if !queue.lines.is_empty() {
            self.shared.changed.notify_all();
        }
    }

    /// Waits until all lines are written, at most for `limit`. To be called last, before the process ends.
    pub fn drain(&self, limit: Duration) {
        let queue = self.shared.queue();
        let drained = self.shared.changed.wait_timeout_while(queue, limit, |queue| !queue.lines.is_empty());
        drop(drained);
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what the output accepts now. Holds the lock throughout, but not for long: no call here blocks.
    fn write_queued(&self, queue: &mut Queue) {
        if queue.torn && self.output.write(b"\n") == Ok(1) {
            queue.torn = false;
        }
        while let Some(line) = queue.lines.front() {
            match self.output.write(line.get(queue.written..).unwrap_or_default()) {
                Ok(some) if queue.written + some == line.len() => queue.pop(),
                Ok(some) => queue.written += some,
                Err(Errno::AGAIN) => return,
                // The reader has exited, or the disk is full: this line is lost and does not block later ones.
                Err(_) => {
                    queue.torn |= queue.written > 0;
                    queue.pop();
                    self.dropped.inc();
                }
            }
        }
    }

    fn write_until_closed(&self) {
        loop {
            let queue = self.queue();
            let idle = |queue: &mut Queue| queue.lines.is_empty() && !queue.closed;
            let queue = self.changed.wait_while(queue, idle).unwrap_or_else(PoisonError::into_inner);
            if queue.closed {
                return;
            }
            drop(queue);
            self.output.wait_until_writable();
            let mut queue = self.queue();
            self.write_queued(&mut queue);
            self.changed.notify_all();
        }
    }
}

impl Queue {
    fn push(&mut self, line: &[u8]) {
        self.bytes += line.len();
        self.lines.push_back(line.into());
    }

    fn pop(&mut self) {
        self.written = 0;
        self.bytes -= self.lines.pop_front().map_or(0, |line| line.len());
    }
}

impl Output {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(match FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
            FileType::Socket => Self::Socket(fd),
            FileType::RegularFile => Self::OwnDescription(fd),
            _ => {
                let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                rustix::fs::open(name, flags, Mode::empty()).map_or(Self::PollFirst(fd), Self::OwnDescription)
            }
        })
    }

    fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match self {
            Self::Socket(fd) => {
                retry_on_intr(|| rustix::net::send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL))
            }
            Self::OwnDescription(fd) => retry_on_intr(|| rustix::io::write(fd, bytes)),
            Self::PollFirst(fd) => {
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                if retry_on_intr(|| poll(&mut [PollFd::new(fd, PollFlags::OUT)], Some(&now)))? == 0 {
                    return Err(Errno::AGAIN);
                }
                let page = bytes.get(..bytes.len().min(ONE_PAGE)).unwrap_or_default();
                retry_on_intr(|| rustix::io::write(fd, page))
            }
        }
    }

    /// Waits until a write can make progress or return an error; at most a second, so that the caller can check
    /// `closed`.
    fn wait_until_writable(&self) {
        let (Self::Socket(fd) | Self::OwnDescription(fd) | Self::PollFirst(fd)) = self;
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        // The result does not matter: the loop checks the queue, `closed` and the output again.
        let _checked_again = poll(&mut [PollFd::new(fd, PollFlags::OUT)], Some(&second));
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::io::BufReader;
    use std::io::Read;

    use super::*;

    fn pipe() -> (std::fs::File, OwnedFd) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        (reader.into(), writer)
    }

    #[test]
    fn a_line_is_in_the_pipe_when_write_returns() {
        let (reader, writer) = pipe();
        let lines = Lines::to(writer, Counter::default()).unwrap();
        lines.write(b"one\n");
        assert_eq!(rustix::io::ioctl_fionread(&reader).unwrap(), 4);
    }

    #[test]
    fn with_a_stopped_reader_every_line_is_read_later_or_counted() {
        let (reader, writer) = pipe();
        let dropped = Counter::default();
        let lines = Lines::to(writer, dropped.clone()).unwrap();
        let written = 100_000_u64;
        for number in 0..written {
            lines.write(format!("{number:060}\n").as_bytes());
        }
        let lost = dropped.get();
        assert!(lost > 0, "the queue is not bounded");
        let reading = std::thread::spawn(move || {
            BufReader::new(reader).lines().map(|line| line.unwrap().parse::<u64>().unwrap()).collect::<Vec<_>>()
        });
        lines.drain(Duration::from_secs(20));
        drop(lines);
        let read = reading.join().unwrap();
        assert_eq!(read.len() as u64 + lost, written);
        assert!(read.is_sorted(), "lines out of order");
    }

    #[test]
    fn lines_after_the_reader_exited_are_counted_as_dropped() {
        let (reader, writer) = pipe();
        drop(reader);
        let dropped = Counter::default();
        let lines = Lines::to(writer, dropped.clone()).unwrap();
        lines.write(b"one\n");
        lines.write(b"two\n");
        assert_eq!(dropped.get(), 2);
    }

    #[test]
    fn a_write_to_a_full_socket_does_not_block() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let dropped = Counter::default();
        let lines = Lines::to(ours.into(), dropped.clone()).unwrap();
        let line = [b'x'; 1023].iter().chain(b"\n").copied().collect::<Vec<_>>();
        for _ in 0..4096 {
            lines.write(&line);
        }
        assert!(dropped.get() > 0, "the queue is not bounded");
        let mut first = vec![0; line.len()];
        (&theirs).read_exact(&mut first).unwrap();
        assert_eq!(first, line);
    }

    #[test]
    fn a_pipe_that_cannot_be_opened_again_is_polled_before_a_write() {
        let (reader, writer) = pipe();
        let output = Output::PollFirst(writer);
        while output.write(&[b'x'; 3000]).is_ok() {}
        assert_eq!(output.write(b"x"), Err(Errno::AGAIN));
        drop(reader);
        assert_eq!(output.write(b"x"), Err(Errno::PIPE));
    }
}
