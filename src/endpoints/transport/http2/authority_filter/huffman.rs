//! Huffman decoding of header text (SPEC: RFC 7541 §5.2 and Appendix B).
//!
//! The code is canonical: within a length, codes count up in the order of the symbols, so the lengths are the table.

/// Bits of the code of every byte, and of the end-of-string symbol.
#[rustfmt::skip]
const CODE_BITS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
     6, 10, 10, 12, 13,  6,  8, 11, 10, 10,  8, 11,  8,  6,  6,  6,
     5,  5,  5,  6,  6,  6,  6,  6,  6,  6,  7,  8, 15,  6, 12, 10,
    13,  6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,
     7,  7,  7,  7,  7,  7,  7,  7,  8,  7,  8, 13, 19, 13, 14,  6,
    15,  5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,
     6,  7,  6,  5,  5,  6,  7,  7,  7,  7,  7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];
const SYMBOLS: usize = 257;
const LONGEST: usize = 30;
const CODE: Code = Code::from_lengths();

/// Decodes a Huffman-coded string. `None` where it is not one, or decodes to more than `longest` bytes.
pub(super) fn decode(coded: &[u8], longest: usize) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let (mut code, mut bits) = (0, 0);
    for bit in coded.iter().flat_map(|byte| (0..8).rev().map(move |shift| u32::from(byte >> shift) & 1)) {
        (code, bits) = (code << 1 | bit, bits + 1);
        if let Some(symbol) = CODE.symbol(code, bits) {
            if text.len() == longest {
                return None;
            }
            text.push(u8::try_from(symbol).ok()?); // the end-of-string symbol may not be spelled out
            (code, bits) = (0, 0);
        }
    }
    let padding_is_ones = code + 1 == 1 << bits;
    (bits < 8 && padding_is_ones).then_some(text)
}

/// Encodes; only a test needs it.
#[cfg(test)]
pub(super) fn encode(text: &[u8]) -> Vec<u8> {
    let code_of = |byte: u8| {
        let bits = usize::from(CODE_BITS[usize::from(byte)]);
        let place = CODE.symbols.iter().position(|symbol| *symbol == u16::from(byte)).unwrap_or_default();
        (CODE.first[bits] + u32::try_from(place - CODE.begin[bits]).unwrap_or_default(), bits)
    };
    let mut bits: Vec<u8> = Vec::new();
    for (code, length) in text.iter().map(|byte| code_of(*byte)) {
        bits.extend((0..length).rev().map(|shift| (code >> shift & 1) as u8));
    }
    bits.resize(bits.len().next_multiple_of(8), 1);
    bits.chunks(8).map(|byte| byte.iter().fold(0, |value, bit| value << 1 | bit)).collect()
}

struct Code {
    /// By length: the lowest code, how many codes there are, and where their symbols begin.
    first: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    begin: [usize; LONGEST + 1],
    /// In the order of their codes.
    symbols: [u16; SYMBOLS],
}

impl Code {
    const fn from_lengths() -> Self {
        let mut code =
            Self { first: [0; LONGEST + 1], count: [0; LONGEST + 1], begin: [0; LONGEST + 1], symbols: [0; SYMBOLS] };
        let (mut bits, mut next, mut placed) = (1, 0, 0);
        while bits <= LONGEST {
            (code.first[bits], code.begin[bits]) = (next, placed);
            let mut symbol = 0;
            while symbol < SYMBOLS {
                if CODE_BITS[symbol] as usize == bits {
                    code.symbols[placed] = symbol as u16;
                    placed += 1;
                }
                symbol += 1;
            }
            code.count[bits] = (placed - code.begin[bits]) as u32;
            next = (next + code.count[bits]) << 1;
            bits += 1;
        }
        code
    }

    fn symbol(&self, code: u32, bits: usize) -> Option<u16> {
        let index = code.checked_sub(*self.first.get(bits)?)?;
        if index >= *self.count.get(bits)? {
            return None;
        }
        self.symbols.get(self.begin.get(bits)? + index as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_standard_decode() {
        // SPEC: RFC 7541 C.4.1, C.4.2, C.4.3, C.6.1
        let www = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decode(&www, 100).unwrap(), b"www.example.com");
        assert_eq!(decode(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], 100).unwrap(), b"no-cache");
        assert_eq!(decode(&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf], 100).unwrap(), b"custom-value");
        assert_eq!(decode(&[0x64, 0x02], 100).unwrap(), b"302");
    }

    #[test]
    fn every_byte_survives_coding_and_decoding() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all), 256).unwrap(), all);
    }

    #[test]
    fn bad_padding_an_explicit_end_and_too_long_a_text_are_not_strings() {
        assert_eq!(decode(&[0xff], 100), None, "eight bits of padding");
        assert_eq!(decode(&[0x00 << 3], 100), None, "padding of zeros");
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0xff], 100), None, "the end-of-string symbol");
        assert_eq!(decode(&encode(b"abcd"), 3), None);
    }
}
