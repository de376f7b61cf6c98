//! Why nothing was issued.

use crate::authority::Refused;
use crate::evidence::Undecided;
use crate::randomness::NoRandomness;

/// Why nothing was issued on a permit. All of it is of our making, none of it about the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The entries have changed since the permit was given: decide again.
    #[error("the entries have changed since it was decided")]
    StalePermit,
    /// The authority signed nothing.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// No key could be made.
    #[error("the crypto library could not make a key")]
    NoKey,
    /// No id could be drawn.
    #[error("the kernel gave no random bytes")]
    NoRandomness,
}

impl IssueError {
    /// What it is to the caller: a check that could not be completed.
    #[must_use]
    pub fn undecided(&self) -> Undecided {
        match self {
            Self::StalePermit => Undecided::KeptChanging,
            Self::Refused(_) | Self::NoKey | Self::NoRandomness => Undecided::Authority,
        }
    }
}

impl From<NoRandomness> for IssueError {
    fn from(_: NoRandomness) -> Self {
        Self::NoRandomness
    }
}
