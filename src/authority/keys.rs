//! The keys of an authority, as an operator sees them: their kinds, their stages, and what a rotation did.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use serde::Deserialize;
use serde::Serialize;

/// What a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyKind {
    /// X509-SVIDs.
    X509,
    /// JWT-SVIDs.
    Jwt,
}

/// Where a key stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Made and kept; nobody knows it yet.
    Prepared,
    /// In the bundle, so that whoever verifies learns it before it is used.
    Published,
    /// In the bundle, and signs. INVARIANT: exactly one key of each kind.
    Active,
    /// Signs no more, and stays in the bundle until the last thing it signed has ended.
    Retired,
}

/// Names an X.509 key: the first 8 octets of its subject key id. `Display` gives 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub u64);

/// One key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyStatus {
    /// What it signs.
    pub kind: KeyKind,
    /// A [`KeyId`], or the `kid` of tokens.
    pub id: String,
    /// Where it stands.
    pub stage: Stage,
    /// Whether an operator has said that it may have leaked.
    pub tainted: bool,
    /// When it was made.
    pub made: SystemTime,
    /// When everything that it signs has ended.
    pub not_after: SystemTime,
    /// When it goes on to the next stage: a prepared key is published, a published one is used, an active one is
    /// replaced, a retired one leaves the bundle. For a key that goes on when every stream has been served, the latest
    /// time.
    pub next_stage_at: SystemTime,
    /// Tokens that it has signed since the start and that have not ended; none for an X.509 key.
    pub tokens: u64,
}

/// What a rotation did at once, durably.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotationBegun {
    /// The new keys, which are in the bundle now.
    pub published: Vec<KeyStatus>,
    /// The keys that are tainted now.
    pub tainted: Vec<KeyStatus>,
}

/// Why no rotation was begun. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRotated {
    /// The authority keeps its keys elsewhere.
    #[error("this daemon's authority has no keys here; rotate them where they are kept")]
    KeptElsewhere,
    /// There are so many keys of a kind that something they signed may still be in use.
    #[error(
        "{kind} keys of {count} rotations are still needed by what they signed; the first leaves the bundle at {first}"
    )]
    TooManyKeys {
        /// Of which kind.
        kind: KeyKind,
        /// How many.
        count: usize,
        /// RFC 3339.
        first: String,
    },
    /// The new keys could not be made: the clock must be wrong, for one.
    #[error("{0}")]
    NotMade(String),
    /// The new keys could not be made durable.
    #[error("{0}")]
    NotKept(String),
}

/// What an operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotationOrder {
    /// The keys of one kind; `None` for both.
    pub kind: Option<KeyKind>,
    /// Whether the keys that there are may have leaked: then what they signed is renewed at once, and they leave the bundle.
    pub taint: bool,
}

impl RotationOrder {
    /// The kinds that are rotated.
    pub fn kinds(self) -> impl Iterator<Item = KeyKind> {
        KeyKind::ALL.into_iter().filter(move |kind| self.kind.is_none_or(|only| only == *kind))
    }
}

impl KeyKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::X509, Self::Jwt];

    /// The word of the command line and of `authority show`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::Jwt => "jwt",
        }
    }
}

impl Stage {
    /// In the order of a key's life.
    pub const ALL: [Self; 4] = [Self::Prepared, Self::Published, Self::Active, Self::Retired];

    /// The word of `authority show`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Published => "published",
            Self::Active => "active",
            Self::Retired => "retired",
        }
    }
}

/// The text is no kind of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the kinds of keys are x509 and jwt")]
pub struct NotAKeyKind;

impl FromStr for KeyKind {
    type Err = NotAKeyKind;

    fn from_str(text: &str) -> Result<Self, NotAKeyKind> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(NotAKeyKind)
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X509 => "X.509",
            Self::Jwt => "JWT",
        })
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
