//! The filter between an accepted socket and the HTTP/2 engine.
//!
//! gRPC's C core, Java and older Go clients send the path of the socket as `:authority`. The engine takes that for a
//! malformed request and resets the stream before anybody sees it. Here a *literal* `:authority` that is no authority
//! is given legal bytes; everything else passes byte for byte. Knows no socket, no clock and no caller.

mod hpack;
mod huffman;

use crate::endpoints::transport::http2::frames::FRAME_HEADER;
use crate::endpoints::transport::http2::frames::FrameHeader;
use crate::endpoints::transport::http2::frames::PartialHeader;
use crate::endpoints::transport::http2::frames::kind;

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
                        self.release(output)?;
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
    fn release(&mut self, output: &mut Vec<u8>) -> Result<(), Violation> {
        let held = std::mem::take(&mut self.held); // its memory goes, too: an idle connection holds none
        self.open_block = None;
        match rewritten(&held) {
            Some(frame) if frame.len() > MAX_HEADER_BLOCK => return Err(Violation::HeaderBlockTooLarge),
            Some(frame) => output.extend_from_slice(&frame),
            None => output.extend_from_slice(&held),
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let header = FrameHeader { length: payload.len(), kind, flags, stream: 1 };
        [&header.bytes()[..], payload].concat()
    }

    /// `:method: POST`, an authority of fewer than 127 bytes, and something that refers to the table.
    fn block(authority: &[u8]) -> Vec<u8> {
        [&[0x83, 0x41, authority.len() as u8][..], authority, &[0xbe]].concat()
    }

    fn filtered(input: &[&[u8]]) -> Result<Vec<u8>, Violation> {
        let (mut filter, mut output) = (AuthorityFilter::default(), Vec::new());
        filter.feed(PREFACE, &mut output)?;
        input.iter().try_for_each(|piece| filter.feed(piece, &mut output).map(drop))?;
        Ok(output.split_off(PREFACE.len()))
    }

    #[test]
    fn padding_priority_and_continuations_become_one_frame() {
        let block = block(b"run/w.sock");
        let flags = kind::PADDED | kind::PRIORITY | kind::END_STREAM;
        let first = [&[3][..], b"prior", &block[..4], &[0; 3]].concat();
        let input = [
            frame(kind::HEADERS, flags, &first),
            frame(kind::CONTINUATION, 0, &block[4..7]),
            frame(kind::CONTINUATION, kind::END_HEADERS, &block[7..]),
        ];
        let whole = [&b"prior"[..], &super::tests::block(b"run-w.sock")].concat();
        let flags = kind::PRIORITY | kind::END_STREAM | kind::END_HEADERS;
        assert_eq!(filtered(&[&input.concat()]).unwrap(), frame(kind::HEADERS, flags, &whole));
    }

    #[test]
    fn a_block_with_a_legal_authority_passes_byte_for_byte() {
        let block = block(b"localhost");
        let padded = [&[2][..], &block[..5], &[0; 2]].concat();
        let input =
            [frame(kind::HEADERS, kind::PADDED, &padded), frame(kind::CONTINUATION, kind::END_HEADERS, &block[5..])];
        assert_eq!(filtered(&[&input.concat()]).unwrap(), input.concat());
    }

    #[test]
    fn what_the_engine_would_have_to_buffer_without_end_is_a_violation() {
        let open = frame(kind::HEADERS, 0, &[0x83]);
        let more = frame(kind::CONTINUATION, 0, &[]);
        let flood = [&open[..], &more.repeat(9)].concat();
        assert_eq!(filtered(&[&flood]), Err(Violation::TooManyContinuations));
        assert_eq!(
            filtered(&[&frame(kind::HEADERS, 0, &[0x83; MAX_HEADER_BLOCK])[..9]]),
            Err(Violation::HeaderBlockTooLarge)
        );
        assert_eq!(filtered(&[&open, &frame(6, 0, &[0; 8])]), Err(Violation::HeaderBlockInterrupted));
        assert_eq!(AuthorityFilter::default().feed(b"GET / HTTP/1.1", &mut Vec::new()), Err(Violation::NotHttp2));
    }

    #[test]
    fn control_frames_and_resets_are_counted() {
        let frames = [frame(4, 0, &[]), frame(kind::RST_STREAM, 0, &[0; 4]), frame(kind::DATA, 0, &[])];
        let useful = [frame(kind::HEADERS, kind::END_HEADERS, &[0x83]), frame(kind::DATA, kind::END_STREAM, &[])];
        let (mut filter, mut output) = (AuthorityFilter::default(), Vec::new());
        let passed = filter.feed(&[PREFACE, &frames.concat(), &useful.concat()].concat(), &mut output);
        assert_eq!(passed, Ok(Passed { control: 3, resets: 1 }));
    }

    proptest! {
        /// Frames of every kind around requests with and without a legal authority.
        #[test]
        fn the_output_is_the_input_with_legal_authorities_wherever_it_is_cut(
            parts in proptest::collection::vec((0_u8..12, proptest::collection::vec(any::<u8>(), 0..40), any::<bool>()), 0..12),
            authority in proptest::collection::vec(b'!'..b'~', 1..120),
            cuts in proptest::collection::vec(1_usize..50, 1..20),
        ) {
            let legal = http::uri::Authority::try_from(authority.as_slice()).is_ok();
            let host: Vec<u8> = authority.iter().map(|b| if b.is_ascii_alphanumeric() || *b == b'.' { *b } else { b'-' }).collect();
            let (mut input, mut expected) = (Vec::new(), Vec::new());
            for (kind, payload, with_authority) in &parts {
                let headers = *kind == kind::HEADERS;
                let (sent, seen) = match (headers, with_authority) {
                    (true, true) => (block(&authority), block(if legal { &authority } else { &host })),
                    (true, false) => (block(b"localhost"), block(b"localhost")),
                    (false, _) => (payload.clone(), payload.clone()),
                };
                let flags = if headers { kind::END_HEADERS } else { 0 };
                input.extend(frame(*kind, flags, &sent));
                expected.extend(frame(*kind, flags, &seen));
            }
            let mut rest = input.as_slice();
            let pieces: Vec<_> = cuts.iter().cycle().map_while(|cut| (!rest.is_empty()).then(|| take(&mut rest, *cut))).collect();
            prop_assert_eq!(filtered(&pieces).unwrap(), expected);
        }
    }
}
