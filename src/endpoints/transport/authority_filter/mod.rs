//! The filter between an accepted socket and the HTTP/2 engine.
//!
//! gRPC's C core, Java and older Go clients send the path of the socket as `:authority`. The engine takes that for a
//! malformed request and resets the stream before anybody sees it. Here a *literal* `:authority` that is no authority
//! is given legal bytes; everything else passes byte for byte. Knows no socket, no clock and no caller.

mod hpack;
mod huffman;

use crate::endpoints::transport::frames::FRAME_HEADER;
use crate::endpoints::transport::frames::FrameHeader;
use crate::endpoints::transport::frames::PartialHeader;
use crate::endpoints::transport::frames::kind;

/// The most bytes that one header block may have on the wire, frame headers and padding included.
pub const MAX_HEADER_BLOCK: usize = 8 * 1024;
/// The most CONTINUATION frames that one header block may come in.
pub const MAX_CONTINUATIONS: u8 = 8;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PRIORITY_FIELDS: usize = 5;

/// Why a connection is cut before the HTTP/2 engine sees more of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// HTTP/1, TLS, or anything else.
    #[error("the client does not speak HTTP/2")]
    NotHttp2,
    /// More than [`MAX_HEADER_BLOCK`].
    #[error("a header block has more than 8 KiB")]
    HeaderBlockTooLarge,
    /// More than [`MAX_CONTINUATIONS`].
    #[error("a header block comes in more than 8 continuations")]
    TooManyContinuations,
    /// Another frame in the middle of a header block.
    #[error("a header block is interrupted")]
    HeaderBlockInterrupted,
}

/// What passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// Frames that cost work and carry nothing, resets included.
    pub control: u32,
    /// RST_STREAM frames.
    pub resets: u32,
}

/// One connection's inbound bytes on their way to the HTTP/2 engine.
///
/// The length of a rewritten value stays, because the size of an entry of the header table depends only on decoded
/// lengths: both ends' tables stay in step, and a later request that names the entry needs no rewriting.
#[derive(Debug, Default)]
pub struct AuthorityFilter {
    preface_seen: usize,
    header: PartialHeader,
    payload: Payload,
    /// The frames of a header block that is not complete, as they came. INVARIANT: never more than [`MAX_HEADER_BLOCK`].
    held: Vec<u8>,
    /// The stream that the held block belongs to, and how many continuations it has had.
    open_block: Option<(u32, u8)>,
}

/// What the bytes up to the next frame header are.
#[derive(Debug, Clone, Copy, Default)]
enum Payload {
    /// There are none.
    #[default]
    None,
    /// They pass.
    Passing { left: usize },
    /// They are part of a header block; the last one, or not.
    Held { left: usize, end: bool },
}

impl AuthorityFilter {
    /// Takes bytes from the client, in pieces of any size, and appends to `output` what the engine may see.
    ///
    /// # Errors
    /// [`Violation`]: the connection must be cut.
    pub fn feed(&mut self, mut input: &[u8], output: &mut Vec<u8>) -> Result<Passed, Violation> {
        let mut passed = Passed::default();
        self.preface(&mut input, output)?;
        loop {
            match self.payload {
                Payload::None => {
                    let Some(header) = self.header.take(&mut input) else { return Ok(passed) };
                    passed.control += u32::from(header.is_control());
                    passed.resets += u32::from(header.kind == kind::RST_STREAM);
                    self.begin(header, output)?;
                }
                Payload::Passing { left } => {
                    let now = take(&mut input, left);
                    output.extend_from_slice(now);
                    self.payload = Payload::Passing { left: left - now.len() };
                    if left > now.len() {
                        return Ok(passed);
                    }
                    self.payload = Payload::None;
                }
                Payload::Held { left, end } => {
                    let now = take(&mut input, left);
                    self.held.extend_from_slice(now);
                    self.payload = Payload::Held { left: left - now.len(), end };
                    if left > now.len() {
                        return Ok(passed);
                    }
                    self.payload = Payload::None;
                    if end {
                        self.release(output);
                    }
                }
            }
        }
    }

    fn preface(&mut self, input: &mut &[u8], output: &mut Vec<u8>) -> Result<(), Violation> {
        let expected = PREFACE.get(self.preface_seen..).unwrap_or_default();
        let now = take(input, expected.len());
        if !expected.starts_with(now) {
            return Err(Violation::NotHttp2);
        }
        self.preface_seen += now.len();
        output.extend_from_slice(now);
        Ok(())
    }

    fn begin(&mut self, header: FrameHeader, output: &mut Vec<u8>) -> Result<(), Violation> {
        self.open_block = match (self.open_block, header.kind) {
            (None, kind::HEADERS) => Some((header.stream, 0)),
            (None, _) => {
                output.extend_from_slice(&header.bytes());
                self.payload = Payload::Passing { left: header.length };
                return Ok(());
            }
            (Some((_, MAX_CONTINUATIONS)), kind::CONTINUATION) => return Err(Violation::TooManyContinuations),
            (Some((stream, count)), kind::CONTINUATION) if stream == header.stream => Some((stream, count + 1)),
            (Some(_), _) => return Err(Violation::HeaderBlockInterrupted),
        };
        if self.held.len() + FRAME_HEADER + header.length > MAX_HEADER_BLOCK {
            return Err(Violation::HeaderBlockTooLarge);
        }
        self.held.extend_from_slice(&header.bytes());
        self.payload = Payload::Held { left: header.length, end: header.has(kind::END_HEADERS) };
        Ok(())
    }

    /// Lets a complete header block go, rewritten where it must be.
    fn release(&mut self, output: &mut Vec<u8>) {
        let held = std::mem::take(&mut self.held); // its memory goes, too: an idle connection holds none
        self.open_block = None;
        match rewritten(&held) {
            Some(frame) => output.extend_from_slice(&frame),
            None => output.extend_from_slice(&held),
        }
    }
}

fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (now, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    now
}

/// The header block of `frames` in a single HEADERS frame without padding, if its authority is not legal.
fn rewritten(frames: &[u8]) -> Option<Vec<u8>> {
    let (first, mut payload, mut rest) = split_frame(frames)?;
    if first.has(kind::PADDED) {
        let (padding, unpadded) = payload.split_first()?;
        payload = unpadded.get(..unpadded.len().checked_sub(usize::from(*padding))?)?;
    }
    let (priority, fragment) = payload.split_at_checked(if first.has(kind::PRIORITY) { PRIORITY_FIELDS } else { 0 })?;
    let mut block = fragment.to_vec();
    while let Some((_, fragment, more)) = split_frame(rest) {
        block.extend_from_slice(fragment);
        rest = more;
    }
    let block = hpack::with_legal_authority(&block)?;
    let flags = first.flags & !kind::PADDED | kind::END_HEADERS;
    let header = FrameHeader { length: priority.len() + block.len(), flags, ..first };
    Some([&header.bytes()[..], priority, &block].concat())
}

fn split_frame(bytes: &[u8]) -> Option<(FrameHeader, &[u8], &[u8])> {
    let (header, rest) = bytes.split_first_chunk()?;
    let header = FrameHeader::parse(*header);
    let (payload, rest) = rest.split_at_checked(header.length)?;
    Some((header, payload, rest))
}
