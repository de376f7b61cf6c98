//! Parsers for the files of `/proc/PID`, and the rules for which facts follow from them. Pure: text in, facts out.

pub mod cgroup;
pub mod facts;
pub mod principal;
pub mod sighting;
pub mod stat;
pub mod status;

/// The most bytes of a `/proc` file; a parser refuses a longer one.
pub const MAX_FILE: usize = 64 * 1024;

/// The text does not have the form that the kernel writes, or is longer than [`MAX_FILE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text does not have the form that the kernel writes")]
pub struct NotKernelText;

/// A decimal number as the kernel writes it: digits only.
fn number<T: std::str::FromStr>(digits: &[u8]) -> Result<T, NotKernelText> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(NotKernelText);
    }
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(NotKernelText)
}
