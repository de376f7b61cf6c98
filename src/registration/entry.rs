//! One entry.

use std::cmp::Reverse;
use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::evidence::Selector;
use crate::identity::SpiffeId;
use crate::identity::TrustDomain;

/// The place of an entry among all of one priority: first by source, then by the source's own order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryOrder {
    /// The place of the source: 0 for the configuration's files, more for a server.
    pub source: u16,
    /// The place within the source; in files: files in order, tables in order.
    pub place: u32,
}

impl EntryOrder {
    /// A place in the configuration's files.
    #[must_use]
    pub const fn in_files(place: u32) -> Self {
        Self { source: 0, place }
    }
}

/// Where an entry comes from. `Display` is what a record and a screen show: `FILE:LINE`, or `SERVER#ID`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Origin {
    /// A configuration file.
    File {
        /// The file.
        file: PathBuf,
        /// The line of its `[[workload]]`, from 1.
        line: u32,
    },
    /// A server that registers entries.
    Server {
        /// The server, by the name that its operator gave it.
        server: String,
        /// The server's own id of the entry.
        entry: String,
    },
}

impl Origin {
    /// The file and the line, where it was written in one.
    #[must_use]
    pub fn file_and_line(&self) -> Option<(&Path, u32)> {
        match self {
            Self::File { file, line } => Some((file, *line)),
            Self::Server { .. } => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line } => write!(f, "{}:{line}", file.display()),
            Self::Server { server, entry } => write!(f, "{server}#{entry}"),
        }
    }
}

/// What an entry's SVIDs look like.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Terms {
    /// Lifetime of an X509-SVID, from its issue.
    pub x509_ttl: Duration,
    /// Lifetime of a JWT-SVID, from its issue.
    pub jwt_ttl: Duration,
    /// DNS names beside the SPIFFE ID.
    pub dns: Vec<String>,
    /// The audiences it may ask tokens for; `None` for any.
    pub audiences: Option<Vec<String>>,
}

/// A registration entry: a process that satisfies every selector gets this SPIFFE ID on these terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whom it is for.
    pub id: SpiffeId,
    /// What must hold, all of it. INVARIANT: sorted, without repeats, never empty: an empty list would match everyone.
    pub selectors: Vec<Selector>,
    /// On which terms.
    pub terms: Terms,
    /// Foreign trust domains whose bundles this workload sees, sorted.
    pub federates_with: Vec<TrustDomain>,
    /// The operator's hint for choosing among several identities, at most 1,024 bytes.
    pub hint: Option<String>,
    /// Larger comes first; then order.
    pub priority: i64,
    /// Whether the operator accepted that nothing strong tells this workload from its neighbours.
    pub accept_weak: bool,
    /// Its place among the others.
    pub order: EntryOrder,
    /// Where it was written.
    pub origin: Origin,
}

impl Entry {
    /// Its place among all entries: larger priority first, then order.
    #[must_use]
    pub fn rank(&self) -> (Reverse<i64>, EntryOrder) {
        (Reverse(self.priority), self.order)
    }

    /// Whether both entries give the same identity on the same terms, wherever they are written.
    #[must_use]
    pub fn grants_the_same_as(&self, other: &Self) -> bool {
        self.id == other.id && self.terms == other.terms && self.federates_with == other.federates_with
    }

    /// Whether it rests on what the executable is: its path or its hash.
    #[must_use]
    pub fn rests_on_executable(&self) -> bool {
        self.selectors.iter().any(|selector| matches!(selector, Selector::UnixPath(_) | Selector::UnixSha256(_)))
    }
}

#[cfg(test)]
impl Entry {
    /// An entry of the trust domain `example.org` on ordinary terms.
    pub(crate) fn example(order: u32, path: &str, selectors: &[&str]) -> Self {
        let mut selectors: Vec<Selector> = selectors.iter().map(|text| text.parse().unwrap()).collect();
        selectors.sort();
        selectors.dedup();
        Self {
            id: SpiffeId::new(&"example.org".parse().unwrap(), path).unwrap(),
            selectors,
            terms: Terms {
                x509_ttl: Duration::from_secs(3600),
                jwt_ttl: Duration::from_secs(300),
                dns: Vec::new(),
                audiences: None,
            },
            federates_with: Vec::new(),
            hint: None,
            priority: 0,
            accept_weak: false,
            order: EntryOrder::in_files(order),
            origin: Origin::File { file: "bonafide.toml".into(), line: order + 1 },
        }
    }
}
