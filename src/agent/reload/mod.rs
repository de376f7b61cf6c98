//! Replaces the configuration in force, whole or not at all, when an operator asks or the files change.

mod active;
mod diff;
pub(in crate::agent) mod follow;
mod restart;
mod swap;

use std::path::Path;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::sync::watch;

use crate::agent::config;
use crate::agent::config::Accepted;
use crate::agent::config::Config;
use crate::agent::live_settings::LiveSettings;
use crate::agent::reload::swap::CurrentConfig;
use crate::agent::rulebook_owner::RulebookOwner;
use crate::endpoints::admin::reports::ReloadReport;
use crate::endpoints::admin::reports::ReloadState;
use crate::federation::FederationSettings;
use crate::time::Clock;

pub use active::ActiveConfig;
pub use active::ConfigFiles;
pub use active::ReloadTrigger;

/// Reads the files of a configuration, and puts what they say in force.
#[derive(Debug)]
pub struct Reloader {
    current: Arc<CurrentConfig>,
    /// Held for a whole reload, so that two never interleave.
    one_at_a_time: Mutex<()>,
}

impl Reloader {
    /// `active` is in force by now; `owner` has its entries.
    pub(in crate::agent) fn new(
        files: ConfigFiles,
        active: ActiveConfig,
        owner: Arc<RulebookOwner>,
        settings: LiveSettings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let current = Arc::new(CurrentConfig::new(files, active, owner, settings, clock));
        Self { current, one_at_a_time: Mutex::default() }
    }

    /// The main file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.current.files.main
    }

    /// The configuration in force.
    #[must_use]
    pub fn active(&self) -> Arc<ActiveConfig> {
        self.current.active()
    }

    /// The foreign trust domains of the configuration in force, and every change of them.
    #[must_use]
    pub fn federation(&self) -> watch::Receiver<Arc<[FederationSettings]>> {
        self.current.federation()
    }

    /// Reads the files and puts what they say in force.
    pub async fn reload(&self, trigger: ReloadTrigger) -> ReloadReport {
        let _one = self.one_at_a_time.lock().await;
        let current = Arc::clone(&self.current);
        // The disk and the name service may take seconds, and finding the streams that a change concerns some milliseconds
        // for a thousand streams; serving must not wait for them.
        let reloaded = tokio::task::spawn_blocking(move || match config::load(&current.files.main) {
            Ok((config, accepted)) => current.swap(config, accepted, trigger),
            Err(refused) => current.refuse(refused),
        });
        reloaded.await.unwrap_or_else(|panic| {
            let problem = format!("reading the configuration failed: {panic}");
            self.current.refuse_because(vec![problem], None, ReloadState::LastGood)
        })
    }

    /// Puts a configuration that was read in force, unless it needs a restart or has to be asked for.
    pub fn swap(&self, config: Config, accepted: Accepted, trigger: ReloadTrigger) -> ReloadReport {
        self.current.swap(config, accepted, trigger)
    }
}
