//! HTTP/2 frame headers, and where they are in a stream of bytes (SPEC: RFC 9113 §4.1, §6).

/// Bytes of a frame header.
pub const FRAME_HEADER: usize = 9;

/// Frame types, and the flags that mean something here.
pub mod kind {
    /// DATA
    pub const DATA: u8 = 0;
    /// HEADERS
    pub const HEADERS: u8 = 1;
    /// RST_STREAM
    pub const RST_STREAM: u8 = 3;
    /// CONTINUATION
    pub const CONTINUATION: u8 = 9;
    /// END_STREAM on DATA and HEADERS
    pub const END_STREAM: u8 = 0x1;
    /// END_HEADERS on HEADERS and CONTINUATION
    pub const END_HEADERS: u8 = 0x4;
    /// PADDED on DATA and HEADERS
    pub const PADDED: u8 = 0x8;
    /// PRIORITY on HEADERS
    pub const PRIORITY: u8 = 0x20;
}

/// A frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of payload that follow.
    pub length: usize,
    /// Type.
    pub kind: u8,
    /// Flags.
    pub flags: u8,
    /// Stream id.
    pub stream: u32,
}

impl FrameHeader {
    /// Reads one.
    #[must_use]
    pub fn parse(bytes: [u8; FRAME_HEADER]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = bytes;
        Self {
            length: u32::from_be_bytes([0, l0, l1, l2]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff,
        }
    }

    /// Writes it. The length is cut to its 24 bits.
    #[must_use]
    pub fn bytes(self) -> [u8; FRAME_HEADER] {
        let [_, l0, l1, l2] = (self.length as u32).to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [l0, l1, l2, self.kind, self.flags, s0, s1, s2, s3]
    }

    /// Whether `flag` is set.
    #[must_use]
    pub fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether it costs the receiver work and carries nothing: everything but HEADERS, CONTINUATION and DATA with bytes
    /// or an end.
    #[must_use]
    pub fn is_control(self) -> bool {
        match self.kind {
            kind::HEADERS | kind::CONTINUATION => false,
            kind::DATA => self.length == 0 && !self.has(kind::END_STREAM),
            _ => true,
        }
    }
}

/// A frame header that arrives in pieces.
#[derive(Debug, Clone, Copy, Default)]
pub struct PartialHeader {
    bytes: [u8; FRAME_HEADER],
    have: usize,
}

impl PartialHeader {
    /// Takes what is missing from the front of `input`; the header once it is complete.
    pub fn take(&mut self, input: &mut &[u8]) -> Option<FrameHeader> {
        let missing = self.bytes.get_mut(self.have..)?;
        let taken = missing.len().min(input.len());
        let (now, rest) = input.split_at(taken);
        missing.get_mut(..taken)?.copy_from_slice(now);
        *input = rest;
        self.have += taken;
        if self.have < FRAME_HEADER {
            return None;
        }
        self.have = 0;
        Some(FrameHeader::parse(self.bytes))
    }
}

/// Where the frames are in what we send.
#[derive(Debug, Clone, Copy, Default)]
pub struct FrameScanner {
    header: PartialHeader,
    payload_left: usize,
    in_data: bool,
    is_padded: bool,
}

/// What a piece of the output holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scanned {
    /// How many frames begin in it that carry something.
    pub frames: u32,
    /// Whether it has payload of DATA, or the header before it.
    pub data: bool,
    /// Bytes of a message in it: the payload of DATA. Of a padded frame none are counted; the engine sends none.
    pub payload: usize,
}

impl FrameScanner {
    /// Goes over the next bytes.
    pub fn scan(&mut self, mut bytes: &[u8], found: &mut Scanned) {
        while !bytes.is_empty() {
            if self.payload_left == 0 {
                if let Some(header) = self.header.take(&mut bytes) {
                    found.frames += u32::from(!header.is_control());
                    self.payload_left = header.length;
                    self.in_data = header.kind == kind::DATA;
                    self.is_padded = header.has(kind::PADDED);
                    found.data |= self.in_data && header.length > 0;
                }
                continue;
            }
            found.data |= self.in_data;
            let passed = self.payload_left.min(bytes.len());
            found.payload += if self.in_data && !self.is_padded { passed } else { 0 };
            self.payload_left -= passed;
            bytes = bytes.get(passed..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let header = FrameHeader { length: payload.len(), kind, flags: 0, stream: 1 };
        [&header.bytes()[..], payload].concat()
    }

    #[test]
    fn a_header_reads_back_as_it_was_written() {
        let header = FrameHeader { length: 0x01_02_03, kind: 9, flags: 0x25, stream: 0x7fff_fffe };
        assert_eq!(FrameHeader::parse(header.bytes()), header);
    }

    #[test]
    fn of_a_padded_frame_no_byte_is_counted_as_a_message() {
        let header = FrameHeader { length: 6, kind: kind::DATA, flags: kind::PADDED, stream: 1 };
        let output = [&header.bytes()[..], b"secret", &frame(kind::DATA, b"and more")].concat();
        let mut found = Scanned::default();
        FrameScanner::default().scan(&output, &mut found);
        assert_eq!(found, Scanned { frames: 2, data: true, payload: b"and more".len() });
    }

    #[test]
    fn data_is_seen_wherever_the_output_is_cut() {
        let output = [frame(4, &[0; 6]), frame(kind::HEADERS, b"abc"), frame(kind::DATA, b"secret"), frame(6, &[0; 8])];
        let (before, after) = (output[..2].concat().len(), output[..3].concat().len());
        let output = output.concat();
        for cut in 0..=output.len() {
            let mut scanner = FrameScanner::default();
            let (mut first, mut second) = (Scanned::default(), Scanned::default());
            scanner.scan(&output[..cut], &mut first);
            scanner.scan(&output[cut..], &mut second);
            assert_eq!(first.data, cut >= before + FRAME_HEADER, "cut at {cut}");
            assert_eq!(second.data, cut < after, "cut at {cut}");
            assert_eq!(first.frames + second.frames, 2, "HEADERS and DATA");
            let payload = cut.saturating_sub(before + FRAME_HEADER).min(b"secret".len());
            assert_eq!((first.payload, second.payload), (payload, b"secret".len() - payload), "cut at {cut}");
        }
    }
}
