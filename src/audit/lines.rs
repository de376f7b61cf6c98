//! Non-blocking output of lines. When [`Lines::write`] returns, the kernel has the line, unless the reader is slow.
//! Then the line is queued: records first, and all other lines in a queue of their own. When the bounded queue of a line
//! is full, the line is dropped and counted.

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

use crate::audit::metrics::DroppedLines;

/// The most bytes of records that are queued for a slow reader.
const MAX_RECORDS: usize = 2 << 20;

/// The most bytes of records that may be queued before that of a refusal.
///
/// SECURITY: whoever has many uids is refused as often as he likes. The other half is for records of credentials.
const MAX_BEFORE_REFUSALS: usize = MAX_RECORDS / 2;

/// The most bytes of other lines that are queued.
const MAX_OTHERS: usize = 1 << 20;

/// A pipe that polls writable accepts a page without blocking.
const ONE_PAGE: usize = 4096;

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineKind {
    /// The record of a credential.
    CredentialRecord,
    /// The record of a denial or of an undecided check.
    RefusalRecord,
    /// Any other line.
    Other,
}

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
    dropped: DroppedLines,
}

/// INVARIANT: a line whose beginning was written is the next one, so no line is written into another.
#[derive(Debug, Default)]
struct Queue {
    records: Waiting,
    others: Waiting,
    /// The queue whose first line has been begun, and how many bytes of the line were written.
    begun: Option<(Part, usize)>,
    /// The last line was dropped after a part of it was written; a newline must precede the next line.
    torn: bool,
    closed: bool,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Box<[u8]>>,
    bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Records,
    Others,
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
    pub fn to_standard_output(dropped: DroppedLines) -> io::Result<Self> {
        Self::to(io::stdout().as_fd().try_clone_to_owned()?, dropped)
    }

    /// Starts the writer and its thread on `fd`; `dropped` counts the lines that are lost.
    ///
    /// # Errors
    /// As [`Lines::to_standard_output`].
    pub fn to(fd: OwnedFd, dropped: DroppedLines) -> io::Result<Self> {
        let shared =
            Arc::new(Shared { output: Output::new(fd)?, queue: Mutex::default(), changed: Condvar::new(), dropped });
        let in_thread = Arc::clone(&shared);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || in_thread.write_until_closed())?;
        Ok(Self { shared })
    }

    /// Writes `line`, which ends with a newline. On return the output has accepted it, or accepts none at present.
    pub fn write(&self, kind: LineKind, line: &[u8]) {
        let mut queue = self.shared.queue();
        let was_empty = queue.is_empty();
        if !queue.push(kind, line) {
            self.shared.dropped.count(kind != LineKind::Other);
            return;
        }
        if was_empty {
            self.shared.write_queued(&mut queue);
        }
        if !queue.is_empty() {
            self.shared.changed.notify_all();
        }
    }

    /// Waits until all lines are written, at most for `limit`. To be called last, before the process ends.
    pub fn drain(&self, limit: Duration) {
        let queue = self.shared.queue();
        let drained = self.shared.changed.wait_timeout_while(queue, limit, |queue| !queue.is_empty());
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
        while let Some((part, written, line)) = queue.next() {
            match self.output.write(line.get(written..).unwrap_or_default()) {
                Ok(some) if written + some == line.len() => queue.pop(part),
                Ok(some) => queue.begun = Some((part, written + some)),
                Err(Errno::AGAIN) => return,
                // The reader has exited, or the disk is full: this line is lost and does not block later ones.
                Err(_) => {
                    queue.torn |= written > 0;
                    queue.pop(part);
                    self.dropped.count(part == Part::Records);
                }
            }
        }
    }

    fn write_until_closed(&self) {
        loop {
            let queue = self.queue();
            let idle = |queue: &mut Queue| queue.is_empty() && !queue.closed;
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
    fn is_empty(&self) -> bool {
        self.records.lines.is_empty() && self.others.lines.is_empty()
    }

    /// False when there is no room for the line.
    fn push(&mut self, kind: LineKind, line: &[u8]) -> bool {
        let (waiting, most) = match kind {
            LineKind::CredentialRecord => (&mut self.records, MAX_RECORDS),
            LineKind::RefusalRecord => (&mut self.records, MAX_BEFORE_REFUSALS),
            LineKind::Other => (&mut self.others, MAX_OTHERS),
        };
        let has_room = waiting.bytes + line.len() <= most;
        if has_room {
            waiting.bytes += line.len();
            waiting.lines.push_back(line.into());
        }
        has_room
    }

    /// The line to write next, its queue, and how many bytes of it were written.
    fn next(&self) -> Option<(Part, usize, &[u8])> {
        let first = if self.records.lines.is_empty() { Part::Others } else { Part::Records };
        let (part, written) = self.begun.unwrap_or((first, 0));
        let waiting = if part == Part::Records { &self.records } else { &self.others };
        waiting.lines.front().map(|line| (part, written, &**line))
    }

    /// Removes the line that [`Queue::next`] returned.
    fn pop(&mut self, part: Part) {
        self.begun = None;
        let waiting = if part == Part::Records { &mut self.records } else { &mut self.others };
        waiting.bytes -= waiting.lines.pop_front().map_or(0, |line| line.len());
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

/// Whether `fd` leads to the journal. `named` is the value of `JOURNAL_STREAM` (SPEC: systemd.exec(5)).
#[must_use]
pub fn is_journal(fd: impl AsFd, named: &str) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|found| named == format!("{}:{}", found.st_dev, found.st_ino))
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::io::BufReader;
    use std::io::Read;

    use super::*;
    use crate::audit::lines::LineKind::CredentialRecord;
    use crate::audit::lines::LineKind::Other;
    use crate::audit::lines::LineKind::RefusalRecord;

    fn pipe() -> (std::fs::File, OwnedFd) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        (reader.into(), writer)
    }

    #[test]
    fn a_line_is_in_the_pipe_when_write_returns() {
        let (reader, writer) = pipe();
        let lines = Lines::to(writer, DroppedLines::default()).unwrap();
        lines.write(Other, b"one\n");
        assert_eq!(rustix::io::ioctl_fionread(&reader).unwrap(), 4);
    }

    #[test]
    fn with_a_stopped_reader_every_line_is_read_later_or_counted() {
        let (reader, writer) = pipe();
        let dropped = DroppedLines::default();
        let lines = Lines::to(writer, dropped.clone()).unwrap();
        let written = 100_000_u64;
        for number in 0..written {
            lines.write(Other, format!("{number:060}\n").as_bytes());
        }
        let lost = dropped.all.get();
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

    /// A writer whose reader has stopped in the middle of the line that is returned.
    fn stopped() -> (Lines, DroppedLines, BufReader<std::fs::File>, String) {
        let (reader, writer) = pipe();
        let dropped = DroppedLines::default();
        let lines = Lines::to(writer, dropped.clone()).unwrap();
        let begun = format!("{}\n", "x".repeat(100_000));
        lines.write(Other, begun.as_bytes());
        (lines, dropped, BufReader::new(reader), begun)
    }

    #[test]
    fn records_overtake_every_line_but_the_one_that_was_begun() {
        let (lines, dropped, mut reader, begun) = stopped();
        lines.write(Other, b"other\n");
        lines.write(RefusalRecord, b"refusal\n");
        lines.write(CredentialRecord, b"credential\n");
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        lines.drain(Duration::from_secs(20));
        drop(lines);
        assert_eq!(reading.join().unwrap(), format!("{begun}refusal\ncredential\nother\n"));
        assert_eq!(dropped.all.get(), 0);
    }

    #[test]
    fn no_number_of_other_lines_and_refusals_takes_the_place_of_a_credentials_record() {
        let (lines, dropped, _reader, _) = stopped();
        let line = [&[b'x'; 999][..], b"\n"].concat();
        (0..3000).for_each(|_| lines.write(Other, &line));
        assert_eq!(dropped.records.get(), 0);
        (0..3000).for_each(|_| lines.write(RefusalRecord, &line));
        let lost = dropped.records.get();
        assert!(lost > 1500 && dropped.all.get() > 3500, "the queues are not bounded");
        (0..1000).for_each(|_| lines.write(CredentialRecord, &line));
        assert_eq!(dropped.records.get(), lost, "a credential's record was dropped");
        (0..1000).for_each(|_| lines.write(CredentialRecord, &line));
        assert!(dropped.records.get() > lost, "the queue of records is not bounded");
    }

    #[test]
    fn lines_after_the_reader_exited_are_counted_as_dropped() {
        let (reader, writer) = pipe();
        drop(reader);
        let dropped = DroppedLines::default();
        let lines = Lines::to(writer, dropped.clone()).unwrap();
        lines.write(Other, b"one\n");
        lines.write(Other, b"two\n");
        assert_eq!(dropped.all.get(), 2);
    }

    #[test]
    fn a_write_to_a_full_socket_does_not_block() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let dropped = DroppedLines::default();
        let lines = Lines::to(ours.into(), dropped.clone()).unwrap();
        let line = [b'x'; 1023].iter().chain(b"\n").copied().collect::<Vec<_>>();
        for _ in 0..4096 {
            lines.write(Other, &line);
        }
        assert!(dropped.all.get() > 0, "the queue is not bounded");
        let mut first = vec![0; line.len()];
        (&theirs).read_exact(&mut first).unwrap();
        assert_eq!(first, line);
    }

    #[test]
    fn only_the_stream_that_is_named_is_the_journal() {
        let (_, writer) = pipe();
        let found = rustix::fs::fstat(&writer).unwrap();
        assert!(is_journal(&writer, &format!("{}:{}", found.st_dev, found.st_ino)));
        for other in ["", "8:1", &format!("{}:{}", found.st_dev, found.st_ino + 1)] {
            assert!(!is_journal(&writer, other), "{other:?}");
        }
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
