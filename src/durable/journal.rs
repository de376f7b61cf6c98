//! The form of a record: a line that names the form, its generation, what it holds, and a checksum over all of it.

use aws_lc_rs::digest::SHA256;
use aws_lc_rs::digest::digest;
use zeroize::Zeroizing;

const FORM: &str = "bonafide record 1\n";
const CHECKSUM: &str = "\nsha256 ";
/// The checksum's line: the word, 64 digits, the end of the line.
const TRAILER: usize = CHECKSUM.len() + 64 + 1;
/// The digits of a generation, always the same number of them.
const GENERATION: usize = 20;

/// What a record says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StoredRecord<'a> {
    /// How often it was replaced, from 1.
    pub(super) generation: u64,
    pub(super) payload: &'a [u8],
}

/// Why bytes are not a record that was once written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It does not end in a checksum.
    #[error("it is cut short")]
    CutShort,
    /// The checksum is of other bytes.
    #[error("its checksum does not hold")]
    Checksum,
    /// The checksum holds, and the form is not one that this release knows.
    #[error("it was written by a release that this one does not know")]
    UnknownForm,
}

impl<'a> StoredRecord<'a> {
    /// The bytes to keep; wiped when dropped, for they may hold keys.
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        // Room for all of it at once: growing would leave copies of keys behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(FORM.len() + GENERATION + 1 + self.payload.len() + TRAILER));
        bytes.extend_from_slice(FORM.as_bytes());
        bytes.extend_from_slice(format!("{:0GENERATION$}\n", self.generation).as_bytes());
        bytes.extend_from_slice(self.payload);
        let trailer = trailer(&bytes);
        bytes.extend_from_slice(trailer.as_bytes());
        bytes
    }

    /// Reads a record back, whole or not at all.
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, Damage> {
        let covered = bytes.len().checked_sub(TRAILER).ok_or(Damage::CutShort)?;
        let (covered, end) = bytes.split_at_checked(covered).ok_or(Damage::CutShort)?;
        if !end.starts_with(CHECKSUM.as_bytes()) {
            return Err(Damage::CutShort);
        }
        if end != trailer(covered).as_bytes() {
            return Err(Damage::Checksum);
        }
        let rest = covered.strip_prefix(FORM.as_bytes()).ok_or(Damage::UnknownForm)?;
        let (generation, rest) = rest.split_at_checked(GENERATION).ok_or(Damage::UnknownForm)?;
        let payload = rest.strip_prefix(b"\n").ok_or(Damage::UnknownForm)?;
        let generation = str::from_utf8(generation).ok().and_then(|digits| digits.parse().ok());
        Ok(Self { generation: generation.ok_or(Damage::UnknownForm)?, payload })
    }
}

fn trailer(covered: &[u8]) -> String {
    let digits: String = digest(&SHA256, covered).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{CHECKSUM}{digits}\n")
}

/// Any bytes with a checksum that holds.
#[cfg(test)]
pub(super) fn sealed(covered: &[u8]) -> Vec<u8> {
    [covered, trailer(covered).as_bytes()].concat()
}
