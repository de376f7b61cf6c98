//! HTTP/2 by hand, for clients that do what no library does.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

use bonafide::endpoints::transport::http2::frames::FrameHeader;
use bonafide::endpoints::transport::http2::frames::kind;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
/// The flag of a SETTINGS or a PING frame that acknowledges another.
pub(crate) const ACK: u8 = 1;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&FrameHeader { length: payload.len(), kind, flags, stream }.bytes()[..], payload].concat()
}

pub(crate) fn hello() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// A literal header without indexing, its strings shorter than 127 bytes.
pub(crate) fn literal(name: &str, value: &[u8]) -> Vec<u8> {
    [&[0, name.len() as u8][..], name.as_bytes(), &[value.len() as u8], value].concat()
}

/// A request for X.509 SVIDs with this `:authority`.
pub(crate) fn request(stream: u32, authority: Option<&[u8]>, extra: &[u8]) -> Vec<u8> {
    request_with(stream, authority, extra, &[])
}

/// The same with a message.
pub(crate) fn request_with(stream: u32, authority: Option<&[u8]>, extra: &[u8], message: &[u8]) -> Vec<u8> {
    calling("FetchX509SVID", stream, authority, extra, message)
}

/// The headers of a call without the security header, whose message is still to come.
pub(crate) fn beginning(path: &str, stream: u32) -> Vec<u8> {
    let headers = [literal(":path", path.as_bytes()), literal("content-type", b"application/grpc")].concat();
    frame(
        kind::HEADERS,
        kind::END_HEADERS,
        stream,
        &[&[0x83, 0x86][..], &headers, &literal("te", b"trailers")].concat(),
    )
}

/// A call of any method.
pub(crate) fn calling(method: &str, stream: u32, authority: Option<&[u8]>, extra: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = vec![0x83, 0x86]; // POST, http
    block.extend(literal(":path", format!("/SpiffeWorkloadAPI/{method}").as_bytes()));
    block.extend(authority.map(|value| literal(":authority", value)).unwrap_or_default());
    block.extend(literal("content-type", b"application/grpc"));
    block.extend(literal("te", b"trailers"));
    block.extend(literal("workload.spiffe.io", b"true"));
    block.extend_from_slice(extra);
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let body = [&[0], &length[..], message].concat();
    [frame(kind::HEADERS, kind::END_HEADERS, stream, &block), frame(kind::DATA, kind::END_STREAM, stream, &body)]
        .concat()
}
