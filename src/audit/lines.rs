//! Lines to standard output that never wait. A line is in the kernel's hands when [`Lines::write`] returns, unless the
//! reader is behind; then it queues, and what the bounded queue cannot hold is dropped and counted.

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

/// The most bytes that wait for a slow reader.
const MAX_QUEUED: usize = 1 << 20;

/// A pipe that polls writable has room for a page, and takes so much without waiting.
const ONE_PAGE: usize = 4096;

/// Standard output, one line at a time. Dropping it ends its thread; what is queued then is lost.
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
    /// How much of the first line has been taken.
    taken: usize,
    /// A line was left torn; the next one begins with the newline that it lacks.
    torn: bool,
    closed: bool,
}

/// A file descriptor, and how to write to it without waiting. `O_NONBLOCK` is never set on the descriptor itself: it
/// would bind everyone who shares it, such as the shell on the same terminal.
#[derive(Debug)]
enum Output {
    /// `MSG_DONTWAIT` with each line; what a service manager's journal hands us.
    Socket(OwnedFd),
    /// A file description of our own, non-blocking; or a regular file, which takes a line or refuses it.
    OwnDescription(OwnedFd),
    /// A pipe or terminal that may not be opened again: asked first, given a page at a time.
    AskFirst(OwnedFd),
}

impl Lines {
    /// Starts the writer, with its thread, on standard output.
    ///
    /// # Errors
    /// When standard output is closed, or there is no thread left.
    pub fn to_standard_output(dropped: Counter) -> io::Result<Self> {
        Self::to(io::stdout().as_fd().try_clone_to_owned()?, dropped)
    }

    /// Starts the writer, with its thread, on `fd`; `dropped` counts the lines that are lost.
    ///
    /// # Errors
    /// As [`Lines::to_standard_output`].
    pub fn to(fd: OwnedFd, dropped: Counter) -> io::Result<Self> {
        let shared =
            Arc::new(Shared { output: Output::new(fd)?, queue: Mutex::default(), changed: Condvar::new(), dropped });
        let in_thread = Arc::clone(&shared);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || in_thread.empty_the_queue_until_closed())?;
        Ok(Self { shared })
    }

    /// Writes `line`, which ends with a newline. On return standard output has taken it, or is not taking lines.
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

    /// Waits until all lines are taken, for at most `limit`: the last act before the process ends.
    pub fn drain(&self, limit: Duration) {
        let queue = self.shared.queue();
        let emptied = self.shared.changed.wait_timeout_while(queue, limit, |queue| !queue.lines.is_empty());
        drop(emptied);
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

    /// Hands over what the output takes now. Holds the lock throughout, which is never for long: no call here waits.
    fn write_queued(&self, queue: &mut Queue) {
        if queue.torn && self.output.write(b"\n") == Ok(1) {
            queue.torn = false;
        }
        while let Some(line) = queue.lines.front() {
            match self.output.write(line.get(queue.taken..).unwrap_or_default()) {
                Ok(some) if queue.taken + some == line.len() => queue.pop(),
                Ok(some) => queue.taken += some,
                Err(Errno::AGAIN) => return,
                // The reader has gone, or the disk is full: this line is lost, and no later one waits for it.
                Err(_) => {
                    queue.torn |= queue.taken > 0;
                    queue.pop();
                    self.dropped.inc();
                }
            }
        }
    }

    fn empty_the_queue_until_closed(&self) {
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
        self.taken = 0;
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
                rustix::fs::open(name, flags, Mode::empty()).map_or(Self::AskFirst(fd), Self::OwnDescription)
            }
        })
    }

    fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match self {
            Self::Socket(fd) => {
                retry_on_intr(|| rustix::net::send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL))
            }
            Self::OwnDescription(fd) => retry_on_intr(|| rustix::io::write(fd, bytes)),
            Self::AskFirst(fd) => {
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                if retry_on_intr(|| poll(&mut [PollFd::new(fd, PollFlags::OUT)], Some(&now)))? == 0 {
                    return Err(Errno::AGAIN);
                }
                let page = bytes.get(..bytes.len().min(ONE_PAGE)).unwrap_or_default();
                retry_on_intr(|| rustix::io::write(fd, page))
            }
        }
    }

    /// Waits; woken by room, or by an error that the next write will meet.
    fn wait_until_writable(&self) {
        let (Self::Socket(fd) | Self::OwnDescription(fd) | Self::AskFirst(fd)) = self;
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        // Whatever came of it, the loop looks again: at the queue, at `closed`, and at the output.
        let _looked_at_again = poll(&mut [PollFd::new(fd, PollFlags::OUT)], Some(&second));
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
    fn a_reader_that_stopped_holds_nobody_up_and_every_line_is_read_or_counted() {
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
    fn a_reader_that_has_gone_is_survived_and_counted() {
        let (reader, writer) = pipe();
        drop(reader);
        let dropped = Counter::default();
        let lines = Lines::to(writer, dropped.clone()).unwrap();
        lines.write(b"one\n");
        lines.write(b"two\n");
        assert_eq!(dropped.get(), 2);
    }

    #[test]
    fn a_socket_is_written_to_without_waiting() {
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
    fn a_pipe_that_may_not_be_opened_again_is_asked_first() {
        let (reader, writer) = pipe();
        let output = Output::AskFirst(writer);
        while output.write(&[b'x'; 3000]).is_ok() {}
        assert_eq!(output.write(b"x"), Err(Errno::AGAIN));
        drop(reader);
        assert_eq!(output.write(b"x"), Err(Errno::PIPE));
    }
}
