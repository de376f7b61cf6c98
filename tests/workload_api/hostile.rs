//! Clients that do what no library does, byte by byte.

use std::io::Read as _;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use bonafide::endpoints::transport::http2::frames::FRAME_HEADER;
use bonafide::endpoints::transport::http2::frames::FrameHeader;
use bonafide::endpoints::transport::http2::frames::kind;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::sys::socket::ControlMessage;
use nix::sys::socket::MsgFlags;

use crate::callers::FakeCallers;
use crate::door;
use crate::door::Door;
use crate::http2::PING;
use crate::http2::PREFACE;
use crate::http2::SETTINGS;
use crate::http2::frame;
use crate::http2::hello;
use crate::http2::literal;
use crate::http2::request;

const WEB: &str = "spiffe://example.org/web";
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const SOON: Duration = Duration::from_secs(10);

struct Client(UnixStream);

impl Client {
    fn of(door: &Door) -> Self {
        let socket = UnixStream::connect(&door.path).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Self(socket)
    }

    fn saying(door: &Door, bytes: &[u8]) -> Self {
        let mut client = Self::of(door);
        client.say(bytes);
        client
    }

    fn say(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes); // the other side may have cut already
    }

    fn frame(&mut self) -> Option<(FrameHeader, Vec<u8>)> {
        let mut header = [0; FRAME_HEADER];
        self.0.read_exact(&mut header).ok()?;
        let header = FrameHeader::parse(header);
        let mut payload = vec![0; header.length];
        self.0.read_exact(&mut payload).ok()?;
        Some((header, payload))
    }

    /// The first frame that tells how a stream went: DATA, a reset, trailers, or the connection's end (`None`).
    fn outcome(&mut self) -> Option<u8> {
        loop {
            let (header, _) = self.frame()?;
            if matches!(header.kind, kind::DATA | kind::RST_STREAM | GOAWAY) {
                return Some(header.kind);
            }
            if header.kind == kind::HEADERS && header.has(kind::END_STREAM) {
                return Some(kind::HEADERS);
            }
        }
    }

    /// Waits a moment for the other side to take what was said; whether it has gone.
    fn is_cut(&self) -> bool {
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLHUP)];
        nix::poll::poll(&mut polled, 1_u8).unwrap() > 0
    }

    /// Everything until the end of the connection.
    fn rest(&mut self) -> Vec<(FrameHeader, Vec<u8>)> {
        std::iter::from_fn(|| self.frame()).collect()
    }
}

/// Runs a blocking client beside the door.
async fn beside<T: Send + 'static>(client: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::time::timeout(SOON * 2, tokio::task::spawn_blocking(client))
        .await
        .expect("the client waits for ever")
        .unwrap()
}

async fn outcome_of(door: &Door, bytes: Vec<u8>) -> Option<u8> {
    let mut client = Client::saying(door, &[hello(), bytes].concat());
    beside(move || client.outcome()).await
}

#[tokio::test]
async fn whatever_a_client_sends_as_authority_it_is_served() {
    let door = door::open(&FakeCallers::holding(&[WEB]), door::limits());
    let authorities: [Option<&[u8]>; 7] = [
        None,
        Some(b"localhost"),
        Some(b"[::]:0"),
        Some(b"spire_agent"),
        Some(b"run%2Fbonafide%2Fworkload.sock"),
        Some(b"/run/bonafide/workload.sock"),
        Some(b"unix:/run/workload.sock"),
    ];
    for authority in authorities {
        assert_eq!(outcome_of(&door, request(1, authority, &[])).await, Some(kind::DATA), "{authority:?}");
    }
}

/// Attack 74: the limit is announced, and holds.
#[tokio::test]
async fn more_streams_than_announced_are_refused() {
    let door = door::open(&FakeCallers::holding(&[WEB]), door::limits());
    let flood: Vec<u8> = (0..150).flat_map(|index| request(2 * index + 1, None, &[])).collect();
    let mut client = Client::saying(&door, &[hello(), flood].concat());
    let (settings, refused) = beside(move || {
        let (first, settings) = client.frame().unwrap();
        assert_eq!(first.kind, SETTINGS);
        let refused = std::iter::from_fn(|| client.outcome()).find(|outcome| *outcome != kind::DATA);
        (settings, refused)
    })
    .await;
    assert!(settings.chunks(6).any(|setting| setting == [0, 3, 0, 0, 0, 100]), "MAX_CONCURRENT_STREAMS: {settings:?}");
    assert_eq!(refused, Some(kind::RST_STREAM));
    assert!(door.budgets.usage().streams <= 100);
}

/// Attack 78.
#[tokio::test]
async fn a_header_block_that_never_ends_or_is_too_large_cuts_the_connection() {
    let door = door::open(&FakeCallers::holding(&[WEB]), door::limits());
    let open = frame(kind::HEADERS, 0, 1, &[0x83]);
    let endless = [open, frame(kind::CONTINUATION, 0, 1, &literal("a", b"b")).repeat(1000)].concat();
    assert_eq!(outcome_of(&door, endless).await, None);
    let large: Vec<u8> = (0..100).flat_map(|_| literal("large", &[b'x'; 100])).collect();
    assert_eq!(outcome_of(&door, request(1, None, &large)).await, None);
}

/// Attack 79. The client reads what it is sent, so that every answer leaves.
#[tokio::test]
async fn control_frames_at_line_rate_cut_the_connection() {
    let door = door::open(&FakeCallers::holding(&[WEB]), door::limits());
    let frames = [
        frame(SETTINGS, 0, 0, &[]),
        frame(PING, 0, 0, &[0; 8]),
        frame(PING, 1, 0, &[0; 8]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        frame(2, 0, 1, &[0, 0, 0, 3, 0]),
    ];
    for flood in frames {
        let mut client = Client::saying(&door, &hello());
        let mut reader = Client(client.0.try_clone().unwrap());
        let reading = tokio::task::spawn_blocking(move || reader.rest());
        let flood = flood.repeat(20); // in small parts, so that the answers to one are sent before the next
        let ended = beside(move || (0..500).find(|_| client.0.write_all(&flood).is_err() || client.is_cut()));
        assert!(ended.await.is_some(), "10,000 frames were taken");
        reading.await.unwrap();
    }
}

/// Attack 77: streams that the client makes the engine reset.
#[tokio::test]
async fn streams_that_we_are_made_to_reset_cut_the_connection() {
    let door = door::open(&FakeCallers::holding(&[WEB]), door::limits());
    let mut client = Client::saying(&door, &hello());
    let ended = beside(move || {
        (0..2_000).find(|index| {
            let stream = 2 * index + 1;
            let made_reset = [request(stream, None, &[]), frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat();
            client.0.write_all(&made_reset).is_err()
        })
    });
    assert!(ended.await.is_some(), "2,000 resets were made");
}

/// Attack 76.
#[tokio::test]
async fn streams_opened_only_to_be_reset_cut_the_connection() {
    let door = door::open(&FakeCallers::holding(&[WEB]), door::limits());
    let mut client = Client::saying(&door, &hello());
    let ended = beside(move || {
        (0..10_000).find(|index| {
            let stream = 2 * index + 1;
            let rapid = [request(stream, None, &[]), frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat();
            client.0.write_all(&rapid).is_err()
        })
    });
    assert!(ended.await.is_some(), "10,000 resets were taken");
}

/// Attack 81: the descriptors never reach our table, and their sender is cut.
#[tokio::test]
async fn a_message_with_descriptors_cuts_the_connection() {
    let door = door::open(&FakeCallers::holding(&[WEB]), door::limits());
    let mut client = Client::of(&door);
    let open_before = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let passed = [client.0.as_raw_fd(); 253];
    let rights = [ControlMessage::ScmRights(&passed)];
    let parts = [std::io::IoSlice::new(PREFACE)];
    let sent = nix::sys::socket::sendmsg::<()>(client.0.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None);
    if sent == Err(nix::errno::Errno::EPERM) {
        return; // the kernel already refuses the sender
    }
    sent.unwrap();
    assert_eq!(beside(move || client.rest().into_iter().find(|(header, _)| header.kind == kind::DATA)).await, None);
    assert!(std::fs::read_dir("/proc/self/fd").unwrap().count() < open_before + 100);
}

/// Attack 82.
#[tokio::test]
async fn a_compressed_request_is_not_unpacked() {
    let door = door::open(&FakeCallers::holding(&[WEB]), door::limits());
    assert_eq!(outcome_of(&door, request(1, None, &literal("grpc-encoding", b"gzip"))).await, Some(kind::HEADERS));
}

/// A process that was handed the socket writes to it: whoever connected, the bytes are not used.
#[tokio::test]
async fn a_foreign_writer_cuts_the_connection_before_a_byte_is_used() {
    let door = door::open(&FakeCallers::holding(&[WEB]), door::limits());
    let mut client = Client::of(&door);
    let escaped: String =
        [hello(), request(1, None, &[])].concat().iter().map(|byte| format!("\\{byte:03o}")).collect();
    let status = Command::new("printf").arg(escaped).stdout(OwnedFd::from(client.0.try_clone().unwrap())).status();
    assert!(status.unwrap().success());
    let answered = beside(move || client.rest()).await;
    assert!(answered.iter().all(|(header, _)| header.kind == SETTINGS), "{answered:?}");
    assert_eq!(
        outcome_of(&door, request(1, None, &[])).await,
        Some(kind::DATA),
        "the same bytes, written by who connected"
    );
}

/// Attack 75: a client that never reads holds one update, however many there are.
#[tokio::test]
async fn a_slow_reader_costs_one_update() {
    let callers = FakeCallers::holding(&[WEB]);
    let door = door::open(&callers, door::limits());
    let mut client = Client::saying(&door, &[hello(), request(1, None, &[])].concat());
    let client = beside(move || {
        client.outcome();
        client
    })
    .await;
    for _ in 0..200 {
        callers.change(Ok(crate::callers::update(&[WEB], 8 * 1024)));
        tokio::task::yield_now().await;
    }
    let made = callers.updates_made();
    assert!((2..=16).contains(&made), "{made} of 200 updates were made for a reader who did not read");
    drop(client);
}
