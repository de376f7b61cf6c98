//! A walk over one header block (SPEC: RFC 7541 §6) that keeps no dynamic table.

use http::uri::Authority;

use crate::endpoints::transport::http2::authority_filter::huffman;

/// The longest decoded text that is rewritten; the engine refuses a longer one.
const MAX_TEXT: usize = 8 * 1024;
/// The static table's index of `:authority`.
const AUTHORITY_INDEX: usize = 1;
const AUTHORITY: &[u8] = b":authority";
/// The one valid Huffman coding of `:authority`.
const AUTHORITY_CODED: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];

/// The block with every literal `:authority` made legal, at its decoded length. `None` where nothing needs to change, or
/// the block is malformed and the HTTP/2 engine is to say so.
pub(super) fn with_legal_authority(block: &[u8]) -> Option<Vec<u8>> {
    let mut fields = Fields { block, at: 0 };
    let mut rewritten = Vec::new();
    let mut kept = 0;
    while let Some(first) = fields.peek() {
        let name_bits = match first {
            0x80.. => 0,
            0x40.. => 6,
            0x20.. => 0,
            _ => 4,
        };
        if name_bits == 0 {
            fields.integer(if first >= 0x80 { 7 } else { 5 })?; // an indexed field, or the table's size
            continue;
        }
        let is_authority = match fields.integer(name_bits)? {
            0 => fields.text()?.is_authority(),
            index => index == AUTHORITY_INDEX,
        };
        let value_starts = fields.at;
        let value = fields.text()?;
        if is_authority && let Some(legal) = value.made_legal() {
            rewritten.extend_from_slice(block.get(kept..value_starts)?);
            push_text(&mut rewritten, &legal);
            kept = fields.at;
        }
    }
    if kept == 0 {
        return None;
    }
    rewritten.extend_from_slice(block.get(kept..)?);
    Some(rewritten)
}

struct Fields<'a> {
    block: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn peek(&self) -> Option<u8> {
        self.block.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    /// SPEC: RFC 7541 §5.1. Numbers beyond any block that passes here are none.
    fn integer(&mut self, prefix_bits: u32) -> Option<usize> {
        let limit = (1 << prefix_bits) - 1;
        let mut value = usize::from(self.next()?) & limit;
        if value < limit {
            return Some(value);
        }
        for shift in [0, 7, 14] {
            let byte = usize::from(self.next()?);
            value += (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// SPEC: RFC 7541 §5.2
    fn text(&mut self) -> Option<Text<'a>> {
        let coded = self.peek()? & 0x80 != 0;
        let length = self.integer(7)?;
        let bytes = self.block.get(self.at..)?.get(..length)?;
        self.at += length;
        Some(Text { coded, bytes })
    }
}

struct Text<'a> {
    coded: bool,
    bytes: &'a [u8],
}

impl Text<'_> {
    fn is_authority(&self) -> bool {
        self.bytes == if self.coded { AUTHORITY_CODED } else { AUTHORITY }
    }

    /// `None` where it is legal already, empty (there is no length to keep), or not a string at all.
    fn made_legal(&self) -> Option<Vec<u8>> {
        let mut value = if self.coded { huffman::decode(self.bytes, MAX_TEXT)? } else { self.bytes.to_vec() };
        if value.is_empty() || Authority::try_from(value.as_slice()).is_ok() {
            return None;
        }
        value.iter_mut().filter(|byte| !byte.is_ascii_alphanumeric() && **byte != b'.').for_each(|byte| *byte = b'-');
        Some(value)
    }
}

fn push_text(block: &mut Vec<u8>, text: &[u8]) {
    match u8::try_from(text.len()) {
        Ok(length @ ..0x7f) => block.push(length),
        _ => {
            block.push(0x7f);
            let mut rest = text.len() - 0x7f;
            while rest >= 0x80 {
                block.push((rest & 0x7f) as u8 | 0x80);
                rest >>= 7;
            }
            block.push(rest as u8);
        }
    }
    block.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &[u8]) -> Vec<u8> {
        let mut block = Vec::new();
        push_text(&mut block, value);
        block
    }

    fn coded(value: &[u8]) -> Vec<u8> {
        let mut block = text(&huffman::encode(value));
        block[0] |= 0x80;
        block
    }

    fn block(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    #[test]
    fn a_path_as_authority_becomes_a_host_of_the_same_length() {
        let rewritten = with_legal_authority(&block(&[&[0x83, 0x41], &text(b"run%2Fw.sock"), &[0x86]])).unwrap();
        assert_eq!(rewritten, block(&[&[0x83, 0x41], &text(b"run-2Fw.sock"), &[0x86]]));
    }

    #[test]
    fn a_huffman_coded_path_is_rewritten_too_and_by_any_name_and_form() {
        for name in [&[0x41][..], &[0x01], &[0x11]] {
            let rewritten = with_legal_authority(&block(&[name, &coded(b"/run/w.sock")])).unwrap();
            assert_eq!(rewritten, block(&[name, &text(b"-run-w.sock")]));
        }
        for name in [text(AUTHORITY), coded(AUTHORITY)] {
            let rewritten = with_legal_authority(&block(&[&[0x40], &name, &coded(b"a b")])).unwrap();
            assert_eq!(rewritten, block(&[&[0x40], &name, &text(b"a-b")]));
        }
    }

    #[test]
    fn a_legal_authority_and_every_other_header_stay_as_they_are() {
        for legal in [&b"localhost"[..], b"[::]:0", b"spire_agent", b"example.org:443", b""] {
            assert_eq!(with_legal_authority(&block(&[&[0x41], &text(legal)])), None);
        }
        assert_eq!(with_legal_authority(&block(&[&[0x44], &text(b"/a/b"), &[0x40], &text(b"x"), &text(b"a b")])), None);
    }

    #[test]
    fn a_length_of_several_bytes_is_written_as_it_is_read() {
        let long = [b"/".as_slice(), &[b'a'; 5000]].concat();
        let rewritten = with_legal_authority(&block(&[&[0x41], &text(&long)])).unwrap();
        assert_eq!(rewritten, block(&[&[0x41], &text(&[b"-".as_slice(), &[b'a'; 5000]].concat())]));
    }

    #[test]
    fn a_malformed_block_is_left_for_the_engine_to_refuse() {
        for malformed in [&[0x41][..], &[0x41, 0x05, b'/'], &[0x41, 0x7f, 0xff, 0xff, 0xff, 0xff], &[0x41, 0x81, 0xff]]
        {
            assert_eq!(with_legal_authority(malformed), None);
        }
    }
}
