//! A configuration on the disk of this machine: a main file, and bundle files beside it.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::node::TRUST_DOMAIN;

/// A folder that goes away with the value.
pub(crate) struct ConfigFolder(TempDir);

impl ConfigFolder {
    /// A folder with a main file of these tables.
    pub(crate) fn new(tables: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write_main(tables);
        folder
    }

    /// The main file.
    pub(crate) fn main(&self) -> PathBuf {
        self.path("bonafide.toml")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Replaces the main file, as an editor does.
    pub(crate) fn write_main(&self, tables: &str) {
        self.write("bonafide.toml", &configuration(TRUST_DOMAIN, tables));
    }

    /// Replaces a file, as an editor does.
    pub(crate) fn write(&self, name: &str, content: &str) {
        let half_made = self.path(&format!(".{name}"));
        fs::write(&half_made, content).unwrap();
        fs::rename(half_made, self.path(name)).unwrap();
    }
}

/// The whole text of a configuration of these tables.
pub(super) fn configuration(trust_domain: &str, tables: &str) -> String {
    format!("trust_domain = {trust_domain:?}\n{tables}")
}
