//! Who is asked for facts, and what became of the question.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::Serialize;

use crate::evidence::undecided::Undecided;

/// A provider of facts, by its name. The kernel's own facts are read at each attestation; every other provider is asked
/// only where an entry could use what it says, and may be slow, down or wrong without harm to the others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Provider(Cow<'static, str>);

/// Several providers, in their order.
pub type Providers = BTreeSet<Provider>;

impl Provider {
    /// The kernel: credentials, namespaces and cgroup, read before anything else.
    pub const KERNEL: Self = Self::new("kernel");
    /// The executable's path, resolved from the root of PID 1.
    pub const PATH: Self = Self::new("path");
    /// The digest of the executable's bytes.
    pub const SHA256: Self = Self::new("sha256");

    /// The provider of this name.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// The provider of the selectors whose type is not known to this version, by that type.
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

/// What became of a question to a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It has said all that it has to say: what it did not prove is not so.
    Settled,
    /// It is still finding out, and will say when it knows.
    Pending,
    /// It could not find out.
    Undecided(Undecided),
}

impl Answer {
    /// Whether facts may still come.
    #[must_use]
    pub const fn is_open(self) -> bool {
        !matches!(self, Self::Settled)
    }
}
