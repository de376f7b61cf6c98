//! Holds the configuration in force and replaces it, whole or not at all, when an operator asks or the files change.

mod active;
mod diff;
pub(in crate::agent) mod follow;
mod restart;

use std::path::Path;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::sync::watch;
use tokio::task::JoinError;

use crate::agent::config;
use crate::agent::config::Accepted;
use crate::agent::config::Config;
use crate::agent::config::ConfigRefused;
use crate::agent::config::accounts;
use crate::agent::config::files::Sources;
use crate::agent::config::problem::Problem;
use crate::agent::last_good;
use crate::agent::live_settings::LiveSettings;
use crate::agent::reload::diff::compare;
use crate::agent::reload::diff::names;
use crate::agent::reload::restart::restart_advice;
use crate::agent::rulebook_owner::RulebookOwner;
use crate::agent::rulebook_owner::Taken;
use crate::endpoints::admin::reports::ReloadReport;
use crate::endpoints::admin::reports::ReloadState;
use crate::federation::FederationSettings;
use crate::readiness::Severity;
use crate::time::Clock;

pub use active::ActiveConfig;
pub use active::ConfigFiles;
pub use active::ReloadTrigger;

/// The configuration in force, and the files that it is read from.
///
/// INVARIANT: the state is replaced before the reason for it is given or cleared, so whoever is woken by a reason sees the
/// state that it is about.
#[derive(Debug)]
pub struct Reloader {
    files: ConfigFiles,
    owner: Arc<RulebookOwner>,
    settings: LiveSettings,
    clock: Arc<dyn Clock>,
    active: watch::Sender<Arc<ActiveConfig>>,
    federation: watch::Sender<Arc<[FederationSettings]>>,
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
        let federation = watch::Sender::new(active.federation());
        let active = watch::Sender::new(Arc::new(active));
        Self { files, owner, settings, clock, active, federation, one_at_a_time: Mutex::default() }
    }

    /// The main file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.files.main
    }

    /// The configuration in force.
    #[must_use]
    pub fn active(&self) -> Arc<ActiveConfig> {
        self.active.borrow().clone()
    }

    /// The foreign trust domains of the configuration in force, and every change of them.
    #[must_use]
    pub fn federation(&self) -> watch::Receiver<Arc<[FederationSettings]>> {
        self.federation.subscribe()
    }

    /// Reads the files and puts what they say in force.
    pub async fn reload(self: &Arc<Self>, trigger: ReloadTrigger) -> ReloadReport {
        let _one = self.one_at_a_time.lock().await;
        let (reloader, main) = (Arc::clone(self), self.files.main.clone());
        // The disk may take seconds, and finding the streams that a change concerns some milliseconds for a thousand
        // streams; serving must not wait for them.
        let (config, accepted) = match tokio::task::spawn_blocking(move || config::load(&main)).await {
            Ok(Ok(read)) => read,
            Ok(Err(refused)) => return self.refuse(refused),
            Err(panic) => return self.failed(&panic),
        };
        let (names, used) = (self.owner.names(), config.names.clone());
        // What would end many live identities is held back: so the names are asked before it is compared with them.
        names.settle(&used.names()).await;
        let swapped = tokio::task::spawn_blocking(move || reloader.swap(config, accepted, trigger));
        let mut report = swapped.await.unwrap_or_else(|panic| self.failed(&panic));
        let warnings = accounts::warnings(&used, &names.accounts_of(&used.names()));
        report.warnings.extend(warnings.iter().map(Problem::warning));
        self.owner.forget_other_names();
        report
    }

    fn failed(&self, panic: &JoinError) -> ReloadReport {
        let problem = format!("reading the configuration failed: {panic}");
        self.refuse_because(vec![problem], None, ReloadState::LastGood)
    }

    /// Puts a configuration that was read in force, unless it needs a restart or has to be asked for.
    pub fn swap(&self, config: Config, accepted: Accepted, trigger: ReloadTrigger) -> ReloadReport {
        let before = self.active();
        if let Some(advice) = restart_advice(&before.config, &config) {
            let problem = format!("{}: {advice}", self.files.main.display());
            return self.refuse_because(vec![problem], Some(accepted.sources), ReloadState::AwaitsRestart);
        }
        let (state, accepted_at) = (ReloadState::Current, self.clock.now());
        let active = ActiveConfig { config, accepted, state, accepted_at, refused: None };
        let mut report = compare(&before.config, &active.config);
        let woken = match self.owner.replace_files(active.entries(trigger), active.config.rules()) {
            Taken::InForce { woken } => woken,
            Taken::HeldBack(held) => {
                report.held_back = names(&before.config, &held.ending);
                self.hold_back(&report, &before, active.accepted.sources);
                return report;
            }
        };
        report.swapped = true;
        let (added, removed, changed) = (report.added.len(), report.removed.len(), report.changed.len());
        tracing::info!(added, removed, changed, woken, "configuration reloaded");
        report.notes = self.settings.apply(&before.config, &active.config, accepted_at);
        report.notes.iter().for_each(|note| tracing::info!("{note}"));
        self.federation.send_replace(active.federation());
        let active = Arc::new(active);
        self.active.send_replace(Arc::clone(&active));
        self.files.reason.clear();
        // The last of all, for a disk may not answer: what is in force does not wait for it to be kept.
        self.keep(&active.accepted);
        report
    }

    fn refuse(&self, refused: ConfigRefused) -> ReloadReport {
        let ConfigRefused { findings, sources } = refused;
        let problems = findings.problems.iter().map(ToString::to_string).collect();
        self.refuse_because(problems, Some(sources), ReloadState::LastGood)
    }

    fn refuse_because(&self, problems: Vec<String>, refused: Option<Sources>, state: ReloadState) -> ReloadReport {
        for problem in &problems {
            tracing::error!(problem, "the configuration was not reloaded; the one before stays in force");
        }
        self.active.send_replace(Arc::new(ActiveConfig { state, refused, ..ActiveConfig::clone(&self.active()) }));
        self.files.reason.block(Severity::Degraded, problems.join("\n"));
        ReloadReport { problems, ..ReloadReport::default() }
    }

    fn hold_back(&self, report: &ReloadReport, before: &ActiveConfig, refused: Sources) {
        let ids: Vec<_> = report.held_back.iter().map(|entry| entry.id.as_str()).collect();
        let detail = format!(
            "a change of {} would end live identities ({}) and is held back; look at it and type: bonafide reload",
            self.files.main.display(),
            ids.join(", ")
        );
        tracing::warn!(%detail, "configuration held back");
        let (state, refused) = (ReloadState::HeldBack, Some(refused));
        self.active.send_replace(Arc::new(ActiveConfig { state, refused, ..before.clone() }));
        self.files.reason.block(Severity::Degraded, detail);
    }

    /// Keeps what was accepted for a start with bad files. Without it the daemon serves all the same.
    fn keep(&self, accepted: &Accepted) {
        let Some(data_dir) = &self.files.kept_in else { return };
        if let Err(why) = last_good::keep(data_dir, accepted) {
            tracing::warn!(%why, "the accepted configuration could not be kept for the next start");
        }
    }
}
