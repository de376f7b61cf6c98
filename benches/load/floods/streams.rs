//! What a client says to open streams that stay open.

use bonafide::endpoints::transport::http2::frames::kind;

use crate::http2;

/// Streams of one connection.
pub(super) const AT_ONCE: u32 = 100;

/// A hundred streams of X509-SVIDs.
pub(super) fn hundred_streams() -> Vec<u8> {
    let requests = (0..AT_ONCE).flat_map(|n| http2::request(2 * n + 1, None, &[]));
    http2::hello().into_iter().chain(requests).collect()
}

/// A health Watch, which has no end.
pub(super) fn watch() -> Vec<u8> {
    let mut block = vec![0x83, 0x86]; // POST, http
    block.extend(http2::literal(":path", b"/grpc.health.v1.Health/Watch"));
    block.extend(http2::literal("content-type", b"application/grpc"));
    block.extend(http2::literal("te", b"trailers"));
    let headers = http2::frame(kind::HEADERS, kind::END_HEADERS, 1, &block);
    [http2::hello(), headers, http2::frame(kind::DATA, kind::END_STREAM, 1, &[0; 5])].concat()
}
