//! The providers of facts, and the state of their answers.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::Serialize;

use crate::evidence::undecided::Undecided;

/// The name of a provider of facts. The kernel's facts are read at each attestation; every other provider is asked only
/// where an entry could use its facts. Names of users and groups are the kernel's facts while their ids are confirmed. A provider that is slow or down leaves only its own facts open.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Provider(Cow<'static, str>);

/// A set of providers, sorted by name.
pub type Providers = BTreeSet<Provider>;

impl Provider {
    /// The kernel: credentials, namespaces and cgroup, read before any other provider is asked.
    pub const KERNEL: Self = Self::new("kernel");
    /// The name service: the ids of the user and group names that have no answer that counts.
    pub const NAMES: Self = Self::new("names");
    /// The executable's path, resolved from the root of PID 1.
    pub const PATH: Self = Self::new("path");
    /// The digest of the executable's bytes.
    pub const SHA256: Self = Self::new("sha256");

    /// The provider of this name.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// The provider for a selector type that this version does not know; it has the name of the type.
    #[must_use]
    pub fn of_type(kind: &str) -> Self {
        Self(Cow::Owned(kind.to_owned()))
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The state of a provider's answer about one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The answer is complete: a fact that the provider did not prove does not hold.
    Settled,
    /// The provider is still working, and notifies when it has an answer.
    Pending,
    /// The provider could not complete the check.
    Undecided(Undecided),
}

impl Answer {
    /// Whether facts may still follow: pending or undecided.
    #[must_use]
    pub const fn is_open(self) -> bool {
        !matches!(self, Self::Settled)
    }
}
