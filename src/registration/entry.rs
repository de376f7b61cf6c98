//! A registration entry.

use std::cmp::Reverse;
use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::evidence::EpochParts;
use crate::evidence::Selector;
use crate::identity::SpiffeId;
use crate::identity::SubjectPrefix;
use crate::identity::TrustDomain;
use crate::time::duration::exact;

/// The position of an entry among those of equal priority: by source, then by the source's own order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryOrder {
    /// The position of the source: 0 for the configuration files, above 0 for a server.
    pub source: u16,
    /// The position within the source. Configuration files count in load order, and tables in the order of the file.
    pub place: u32,
}

impl EntryOrder {
    /// A position in the configuration files.
    #[must_use]
    pub const fn in_files(place: u32) -> Self {
        Self { source: 0, place }
    }
}

/// Where an entry comes from. `Display`, for audit records and the CLI, writes `FILE:LINE` or `SERVER#ID`.
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
        /// The name that the operator gave the server.
        server: String,
        /// The entry's id on the server.
        entry: String,
    },
}

impl Origin {
    /// How many bytes of the heap its texts take.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::File { file, .. } => file.capacity(),
            Self::Server { server, entry } => server.capacity() + entry.capacity(),
        }
    }

    /// The file and the line of an entry from a file.
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

/// The terms of an entry's SVIDs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Terms {
    /// Lifetime of an X509-SVID, from its issue.
    pub x509_ttl: Duration,
    /// Lifetime of a JWT-SVID, from its issue.
    pub jwt_ttl: Duration,
    /// DNS names of the X509-SVID, besides the SPIFFE ID. The first of at most 64 characters is its common name, too.
    pub dns: Vec<String>,
    /// What its subject has before the common name.
    pub subject: SubjectPrefix,
    /// The audiences that JWT-SVIDs may be requested for; `None` for any.
    pub audiences: Option<Vec<String>>,
}

/// A registration entry: a process that satisfies every selector gets this SPIFFE ID on these terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The SPIFFE ID that the entry gives.
    pub id: SpiffeId,
    /// The selectors that must all hold. INVARIANT: sorted, without duplicates, never empty: an empty list would match
    /// every process.
    pub selectors: Vec<Selector>,
    /// The terms of its SVIDs.
    pub terms: Terms,
    /// Foreign trust domains whose bundles this workload sees, sorted.
    pub federates_with: Vec<TrustDomain>,
    /// The operator's hint for choosing among several identities, at most 1,024 bytes.
    pub hint: Option<String>,
    /// A larger priority comes first; among equals `order` decides.
    pub priority: i64,
    /// Whether the operator accepts that no strong selector tells this workload from the others on its node.
    pub accept_weak: bool,
    /// Its position among entries of equal priority.
    pub order: EntryOrder,
    /// The file and line, or the server and id, that it comes from.
    pub origin: Origin,
}

impl Entry {
    /// The sort key among all entries: larger priority first, then order.
    #[must_use]
    pub fn rank(&self) -> (Reverse<i64>, EntryOrder) {
        (Reverse(self.priority), self.order)
    }

    /// Whether both entries give the same identity on the same terms. Selectors, hint, priority and origin do not
    /// count.
    #[must_use]
    pub fn grants_the_same_as(&self, other: &Self) -> bool {
        self.id == other.id && self.terms == other.terms && self.federates_with == other.federates_with
    }

    /// What the facts that its selectors name rest on.
    #[must_use]
    pub fn rests_on(&self) -> EpochParts {
        EpochParts::of_selectors(&self.selectors)
    }

    /// What this entry asks for that an SVID by `earlier` does not have, each as it is written in the configuration: what a
    /// process goes without that matches both.
    #[must_use]
    pub fn lost_to(&self, earlier: &Self) -> Vec<String> {
        let (own, given) = (&self.terms, &earlier.terms);
        let mut lost = Vec::new();
        if own.x509_ttl != given.x509_ttl {
            lost.push(format!("x509_ttl = {:?}", exact(own.x509_ttl)));
        }
        if own.jwt_ttl != given.jwt_ttl {
            lost.push(format!("jwt_ttl = {:?}", exact(own.jwt_ttl)));
        }
        let dns: Vec<_> = own.dns.iter().filter(|name| !given.dns.contains(name)).collect();
        if !dns.is_empty() {
            lost.push(format!("dns = {dns:?}"));
        }
        if own.audiences != given.audiences {
            lost.push(own.audiences.as_ref().map_or("any audience".to_owned(), |own| format!("audiences = {own:?}")));
        }
        let foreign = self.federates_with.iter().filter(|name| !earlier.federates_with.contains(name));
        let foreign: Vec<_> = foreign.map(ToString::to_string).collect();
        if !foreign.is_empty() {
            lost.push(format!("federates_with = {foreign:?}"));
        }
        lost.extend(self.hint.as_ref().filter(|_| self.hint != earlier.hint).map(|hint| format!("hint = {hint:?}")));
        lost
    }

    /// Whether no process can match both entries: they name two values of a kind of which a process has one. Two names can
    /// belong to one user, but only where the name service has an alias.
    #[must_use]
    pub fn excludes(&self, other: &Self) -> bool {
        let apart = |a: &Selector, b: &Selector| a != b && a.kind() == b.kind() && a.kind().is_single();
        self.selectors.iter().any(|own| other.selectors.iter().any(|other| apart(own, other)))
    }

    /// Whether the entry depends on the executable: on its path or its hash.
    #[must_use]
    pub fn rests_on_executable(&self) -> bool {
        self.selectors.iter().any(Selector::is_of_executable)
    }
}

#[cfg(test)]
impl Entry {
    /// An entry of the trust domain `example.org` with default terms.
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
                subject: SubjectPrefix::default(),
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
