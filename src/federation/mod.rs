//! Federation: the bundles of foreign trust domains, from files that are read again when they change. Does not know
//! which workload sees which bundle.
//!
//! SECURITY: the keys of a bundle count only for the trust domain that the operator configured for its file.

mod bundle_file;
mod bundle_watcher;
mod foreign_bundles;

use std::path::PathBuf;

pub use bundle_file::UnusableFile;
pub use bundle_file::read_bundle_file;
pub use bundle_watcher::ForeignBundles;
pub use foreign_bundles::BundleProblem;

use crate::identity::TrustDomain;

/// One federation relationship: a foreign trust domain and the file of its bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FederationSettings {
    /// The foreign trust domain. It comes from the configuration; the content of the file cannot change it.
    pub trust_domain: TrustDomain,
    /// The file: a SPIFFE bundle document or PEM certificates.
    pub bundle_file: PathBuf,
}
