//! The id of a decision.

use std::fmt;
use std::str::FromStr;

/// The id of one decision: a random number without meaning. `Display` writes `d-7f31c2a90b4e`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecisionId(pub [u8; 6]);

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "d-{:012x}", u64::from_be_bytes([0, 0, a, b, c, d, e, g]))
    }
}

/// The text is not a decision id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the id of a decision is d- and twelve hexadecimal digits, for example d-7f31c2a90b4e")]
pub struct NotADecisionId;

impl FromStr for DecisionId {
    type Err = NotADecisionId;

    fn from_str(text: &str) -> Result<Self, NotADecisionId> {
        let is_id = |digits: &&str| digits.len() == 12 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let digits = text.strip_prefix("d-").filter(is_id).ok_or(NotADecisionId)?;
        let [_, _, id @ ..] = u64::from_str_radix(digits, 16).map_err(|_| NotADecisionId)?.to_be_bytes();
        Ok(Self(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_the_text_of_an_id_parses_as_a_decision_id() {
        let id = DecisionId([0x7f, 0x31, 0xc2, 0xa9, 0x0b, 0x4e]);
        assert_eq!(id.to_string(), "d-7f31c2a90b4e");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "d-", "i-7f31c2a90b4e", "d-7f31c2a90b4", "d-7f31c2a90b4e0", "d-+f31c2a90b4e", "d-é31c2a90b4e"]
        {
            assert_eq!(text.parse::<DecisionId>(), Err(NotADecisionId), "{text}");
        }
    }
}
