//! A configuration in force, the files that it comes from, and why they are read again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use crate::agent::config::Accepted;
use crate::agent::config::Config;
use crate::agent::config::files::Sources;
use crate::durable::DataDir;
use crate::endpoints::admin::reports::ReloadState;
use crate::federation::FederationSettings;
use crate::readiness::Reason;
use crate::registration::EntrySet;
use crate::registration::HoldBack;

/// Why a configuration is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadTrigger {
    /// Somebody typed `reload`, or sent `SIGHUP`.
    Asked,
    /// A file has changed. What would end many live identities is then held back.
    SeenOnDisk,
}

/// The files of a configuration.
#[derive(Debug, Clone)]
pub struct ConfigFiles {
    /// The main file.
    pub main: PathBuf,
    /// Where an accepted configuration is kept for a start with bad files.
    pub kept_in: Option<Arc<DataDir>>,
    /// Whether they are read again when they change.
    pub are_followed: bool,
    /// Blocks while the files are not what is in force.
    pub reason: Reason,
}

/// A configuration in force.
#[derive(Debug, Clone)]
pub struct ActiveConfig {
    /// What it says.
    pub config: Config,
    /// The text it was read from.
    pub accepted: Accepted,
    /// Whether it is what the files say.
    pub state: ReloadState,
    /// When it was accepted.
    pub accepted_at: SystemTime,
    /// What the files said when they were read last, where that was refused or held back.
    pub refused: Option<Sources>,
}

impl ActiveConfig {
    /// The foreign trust domains whose bundles are served.
    #[must_use]
    pub fn federation(&self) -> Arc<[FederationSettings]> {
        self.config.federation.clone().into()
    }

    /// Its entries, which come into force as `trigger` demands.
    #[must_use]
    pub fn entries(&self, trigger: ReloadTrigger) -> EntrySet {
        EntrySet {
            entries: self.config.entries.clone(),
            hold_back: match trigger {
                ReloadTrigger::Asked => HoldBack::Never,
                ReloadTrigger::SeenOnDisk => HoldBack::IfManyEnd,
            },
        }
    }

    /// What the files said when they were read last.
    pub(in crate::agent::reload) fn on_disk(&self) -> &Sources {
        self.refused.as_ref().unwrap_or(&self.accepted.sources)
    }
}
