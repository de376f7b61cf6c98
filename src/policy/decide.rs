//! The one decision.

use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;
use serde::Serialize;

use crate::attestation::Attested;
use crate::attestation::Contradiction;
use crate::attestation::ImageEpoch;
use crate::attestation::kernel::Credentials;
use crate::attestation::kernel::Level;
use crate::evidence::EvidenceSet;
use crate::evidence::Selector;
use crate::registration::entry::Entry;
use crate::registration::entry::Origin;

/// Leave to issue one identity to one image of one process, under one set of entries. Not `Clone`: it is used up.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    entry: Arc<Entry>,
    hint: Option<String>,
    entries_epoch: u64,
    image: ImageEpoch,
    at: SystemTime,
}

/// Why a caller gets nothing: a completed "no".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Denial {
    /// No entry's selectors all hold.
    #[error("no entry matches")]
    NoEntry,
    /// The caller is not who it was, or not anyone.
    #[error(transparent)]
    NotAttested(Contradiction),
    /// It has identities, but not the one it asked for.
    #[error("it is not entitled to the SPIFFE ID that it asked for")]
    NotThatId,
    /// It asked for a token for an audience that its entry does not list.
    #[error("its entry does not list the audience {audience:?}")]
    Audience {
        /// The audience it asked for.
        audience: String,
    },
}

/// What was decided, and why.
#[derive(Debug)]
pub struct Decision {
    /// Permits, default identity first and never empty, or the reason for none.
    pub outcome: Result<Vec<Permit>, Denial>,
    /// How it came about.
    pub trace: Trace,
}

/// Everything a decision rested on: enough to decide again and come to the same verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Whom it was about.
    pub peer: Credentials,
    /// How it was pinned.
    pub level: Level,
    /// What was proven of it.
    pub evidence: EvidenceSet,
    /// When it was decided.
    pub at: SystemTime,
    /// Which set of entries it was decided by.
    pub entries_epoch: u64,
    /// The entries that were looked at, because their rarest selector holds.
    pub considered: Vec<Considered>,
}

/// One entry that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Considered {
    /// Its SPIFFE ID.
    pub id: String,
    /// Where it was written.
    pub origin: Origin,
    /// What it lacks; empty when it matches.
    pub lacking: Vec<Selector>,
    /// Why it does not count although nothing lacks.
    pub refused: Option<String>,
}

impl Permit {
    /// The entry it rests on.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The hint to serve it with: none where an earlier identity of the same process has it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The set of entries it was decided by.
    #[must_use]
    pub fn entries_epoch(&self) -> u64 {
        self.entries_epoch
    }

    /// The image it was decided for.
    #[must_use]
    pub fn image(&self) -> ImageEpoch {
        self.image
    }

    /// When it was decided.
    #[must_use]
    pub fn at(&self) -> SystemTime {
        self.at
    }
}

/// Placeholder signature.
pub fn decide(_caller: &Attested) {}
