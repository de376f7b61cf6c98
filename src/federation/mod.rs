//! Whom else this node believes: the bundles of foreign trust domains, from files that are read again when they change.
//! Refuses to know which workload sees which of them, and never lets one trust domain's keys vouch for another.

mod bundle_file;
mod bundle_watcher;
mod foreign_bundles;

use std::path::PathBuf;

pub use bundle_file::UnusableFile;
pub use bundle_file::read_bundle_file;
pub use bundle_watcher::ForeignBundles;
pub use foreign_bundles::BundleProblem;

use crate::identity::TrustDomain;

/// One relationship: a foreign trust domain, and where its bundle lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FederationSettings {
    /// Whom. The name is the operator's; nothing in the file can change it.
    pub trust_domain: TrustDomain,
    /// A SPIFFE bundle or PEM certificates.
    pub bundle_file: PathBuf,
}
