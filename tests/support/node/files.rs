//! Files on the disk of this machine: a configuration, and bundles.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::node::TRUST_DOMAIN;

const MAIN: &str = "bonafide.toml";

/// A folder that goes away with the value.
pub(crate) struct Folder(TempDir);

impl Default for Folder {
    fn default() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

impl Folder {
    /// A folder with a main file of these tables.
    pub(crate) fn of(tables: &str) -> Self {
        let folder = Self::default();
        folder.write_main(tables);
        folder
    }

    /// The main file.
    pub(super) fn main(&self) -> PathBuf {
        self.path(MAIN)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Replaces the main file, as an editor does.
    pub(crate) fn write_main(&self, tables: &str) {
        self.write(MAIN, &configuration(TRUST_DOMAIN, tables));
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
