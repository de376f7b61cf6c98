//! Why nothing was issued.

use crate::authority::Refused;
use crate::evidence::Undecided;
use crate::randomness::NoRandomness;

/// Why nothing was issued on a permit. Every cause is on our side, none is about the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The rulebook has changed since the permit was given. The caller decides again.
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
    /// The error as a check that could not be completed.
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
