//! Requests without a pause, by hand: no library is as fast.

use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bonafide::endpoints::transport::http2::frames::FRAME_HEADER;
use bonafide::endpoints::transport::http2::frames::FrameHeader;
use bonafide::endpoints::transport::http2::frames::kind;
use bonafide::endpoints::workload_api::proto::ValidateJwtsvidRequest;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use prost::Message as _;

use crate::floods::Site;
use crate::floods::count;
use crate::http2;

const AT_ONCE: u32 = 100;
const PATIENCE: Duration = Duration::from_secs(2);

/// Makes the request of a stream.
pub(super) type Make = dyn Fn(u32) -> Vec<u8>;

pub(super) fn svid(stream: u32) -> Vec<u8> {
    http2::request(stream, None, &[])
}

/// Any of the trust domain's keys may have signed it.
pub(super) fn token_without_kid(stream: u32) -> Vec<u8> {
    let part = |json: &str| BASE64_URL_SAFE_NO_PAD.encode(json);
    let header = part(r#"{"alg":"ES256","typ":"JWT"}"#);
    let claims = part(r#"{"sub":"spiffe://load.test/load","aud":["ledger"],"exp":4102444800,"iat":1700000000}"#);
    let svid = format!("{header}.{claims}.{}", BASE64_URL_SAFE_NO_PAD.encode([7; 64]));
    let message = ValidateJwtsvidRequest { audience: "ledger".to_owned(), svid }.encode_to_vec();
    http2::calling("ValidateJWTSVID", stream, None, &[], &message)
}

/// Keeps a hundred requests underway on each connection: the next hundred once all are answered.
pub(super) fn hammer(site: &Site, connections: usize, make: &Make) -> ! {
    let mut open: Vec<Conversation> = Vec::new();
    loop {
        while open.len() < connections {
            open.extend(Conversation::start(site, make).ok());
        }
        let mut polled: Vec<_> = open.iter().map(|one| PollFd::new(one.socket.as_fd(), PollFlags::POLLIN)).collect();
        let _ = nix::poll::poll(&mut polled, PollTimeout::from(100u8));
        let readable: Vec<_> = polled.iter().map(|one| one.any() == Some(true)).collect();
        let mut readable = readable.into_iter();
        open.retain_mut(|one| !readable.next().unwrap_or_default() || one.go_on(make).is_ok());
    }
}

/// One request on a connection of its own, until it is answered.
pub(super) fn ask_once(site: &Site) -> io::Result<()> {
    let mut conversation = Conversation::connect(site)?;
    conversation.socket.write_all(&[http2::hello(), svid(1)].concat())?;
    conversation.underway = 1;
    while conversation.underway > 0 {
        conversation.read()?;
    }
    count(1);
    Ok(())
}

/// Requests that are reset in the same write, for ever.
pub(super) fn reset_rapidly(site: &Site) -> ! {
    loop {
        let _closed = reset_until_closed(site);
    }
}

fn reset_until_closed(site: &Site) -> io::Result<()> {
    let mut connection = Conversation::connect(site)?;
    connection.socket.write_all(&http2::hello())?;
    for first in (1..).step_by(2 * AT_ONCE as usize) {
        let cancelled =
            |n| [svid(first + 2 * n), http2::frame(kind::RST_STREAM, 0, first + 2 * n, &[0, 0, 0, 8])].concat();
        connection.socket.write_all(&(0..AT_ONCE).flat_map(cancelled).collect::<Vec<_>>())?;
        count(u64::from(AT_ONCE));
        connection.socket.set_nonblocking(true)?;
        let drained = connection.socket.read(&mut [0; 65_536]);
        connection.socket.set_nonblocking(false)?;
        match drained {
            Ok(0) => break,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A connection with requests underway.
struct Conversation {
    socket: UnixStream,
    unread: Vec<u8>,
    underway: u32,
    next: u32,
}

impl Conversation {
    fn connect(site: &Site) -> io::Result<Self> {
        let socket = UnixStream::connect(&site.socket)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, unread: Vec::new(), underway: 0, next: 1 })
    }

    fn start(site: &Site, make: &Make) -> io::Result<Self> {
        let mut conversation = Self::connect(site)?;
        conversation.socket.write_all(&http2::hello())?;
        conversation.ask(make)?;
        Ok(conversation)
    }

    fn ask(&mut self, make: &Make) -> io::Result<()> {
        let first = self.next;
        self.next += 2 * AT_ONCE;
        self.underway = AT_ONCE;
        self.socket.write_all(&(0..AT_ONCE).flat_map(|n| make(first + 2 * n)).collect::<Vec<_>>())?;
        count(u64::from(AT_ONCE));
        Ok(())
    }

    fn go_on(&mut self, make: &Make) -> io::Result<()> {
        self.read()?;
        if self.underway == 0 { self.ask(make) } else { Ok(()) }
    }

    /// Reads what there is, and counts the streams that end.
    fn read(&mut self) -> io::Result<()> {
        let mut bytes = [0; 65_536];
        let length = self.socket.read(&mut bytes)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.unread.extend_from_slice(&bytes[..length]);
        let mut at = 0;
        while let Some(header) = self.unread[at..].first_chunk::<FRAME_HEADER>() {
            let header = FrameHeader::parse(*header);
            let end = at + FRAME_HEADER + header.length;
            if self.unread.len() < end {
                break;
            }
            at = end;
            let has_end = matches!(header.kind, kind::HEADERS | kind::DATA) && header.has(kind::END_STREAM);
            self.underway = self.underway.saturating_sub(u32::from(has_end || header.kind == kind::RST_STREAM));
        }
        self.unread.drain(..at);
        Ok(())
    }
}
