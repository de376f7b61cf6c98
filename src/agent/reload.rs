//! A configuration takes the place of another: whole or not at all, when somebody asks or when the files change.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;

use tokio::sync::Mutex;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::agent::config;
use crate::agent::config::Accepted;
use crate::agent::config::Config;
use crate::agent::config::ConfigRefused;
use crate::agent::config::files::Sources;
use crate::agent::last_good;
use crate::durable::DataDir;
use crate::endpoints::admin::reports::EntryName;
use crate::endpoints::admin::reports::ReloadReport;
use crate::endpoints::admin::reports::ReloadState;
use crate::entitlement::node_state::NodeState;
use crate::federation;
use crate::file_watch::FileWatch;
use crate::file_watch::Watched;
use crate::identity::SpiffeId;
use crate::policy::Rulebook;
use crate::readiness::Reason;
use crate::readiness::Severity;
use crate::registration::Entry;
use crate::time::Clock;

/// How often files that were refused are read again: what stood in their way may be no file, but the mode of a directory,
/// or that no descriptor was left.
const READ_AGAIN: Duration = Duration::from_secs(2);

/// Why a configuration is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadTrigger {
    /// Somebody typed `reload`, or sent `SIGHUP`.
    Asked,
    /// A file has changed. What would end many live identities is then held back: a file cut in half between two tables
    /// is still a good file.
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

/// The configuration in force, and where the next one comes from.
#[derive(Debug)]
pub struct Reloader {
    files: ConfigFiles,
    node_state: Arc<NodeState>,
    clock: Arc<dyn Clock>,
    epoch: AtomicU64,
    /// Held for a whole reload, so that two never interleave.
    one_at_a_time: Mutex<()>,
    active: watch::Sender<Arc<ActiveConfig>>,
    federation: watch::Sender<Arc<[federation::FederationSettings]>>,
}

/// A configuration in force.
#[derive(Debug, Clone)]
pub struct ActiveConfig {
    /// What it says.
    pub config: Config,
    /// The text it was read from.
    pub accepted: Accepted,
    /// How it relates to the files.
    pub state: ReloadState,
    /// When it was accepted.
    pub accepted_at: SystemTime,
    /// What the files said when they were read last, where that was refused or held back.
    pub refused: Option<Sources>,
}

impl ActiveConfig {
    /// Whom else it believes.
    #[must_use]
    pub fn federation(&self) -> Arc<[federation::FederationSettings]> {
        self.config.federation.clone().into()
    }

    /// What the files said when they were read last.
    fn on_disk(&self) -> &Sources {
        self.refused.as_ref().unwrap_or(&self.accepted.sources)
    }

    /// What is decided by under this configuration. `epoch` tells it from every other one of this run.
    #[must_use]
    pub fn rulebook(&self, epoch: u64) -> Rulebook {
        Rulebook::new(epoch, self.config.entry_index(self.accepted.accounts.clone()), self.config.rules())
    }
}

impl Reloader {
    /// `active` is what `node_state` decides by now, as epoch 0.
    #[must_use]
    pub fn new(files: ConfigFiles, active: ActiveConfig, node_state: Arc<NodeState>, clock: Arc<dyn Clock>) -> Self {
        Self {
            files,
            node_state,
            clock,
            epoch: AtomicU64::new(0),
            one_at_a_time: Mutex::default(),
            federation: watch::Sender::new(active.federation()),
            active: watch::Sender::new(Arc::new(active)),
        }
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

    /// Whom else the configuration in force believes, and every change of it.
    #[must_use]
    pub fn federation(&self) -> watch::Receiver<Arc<[federation::FederationSettings]>> {
        self.federation.subscribe()
    }

    /// Reads the files and puts what they say in force.
    pub async fn reload(self: &Arc<Self>, cause: ReloadTrigger) -> ReloadReport {
        let _one = self.one_at_a_time.lock().await;
        let reloader = Arc::clone(self);
        // The disk and the name service may take seconds, and finding out whom a change concerns some milliseconds for a
        // thousand streams; serving must not wait for them.
        let reloaded = tokio::task::spawn_blocking(move || match config::load(&reloader.files.main) {
            Ok((config, accepted)) => reloader.swap(config, accepted, cause),
            Err(refused) => reloader.refuse(refused),
        });
        reloaded.await.unwrap_or_else(|panic| {
            self.refuse_because(vec![format!("reading the configuration failed: {panic}")], None)
        })
    }

    /// Reads the files again whenever they change, until `stop`.
    pub async fn follow_files(self: Arc<Self>, stop: CancellationToken) {
        let mut files = FileWatch::new(self.watched());
        loop {
            if !self.missed_a_change().await {
                let refused = self.active().state == ReloadState::LastGood;
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    _ = files.changed() => {}
                    () = sleep(READ_AGAIN), if refused => continue,
                }
            }
            self.reload(ReloadTrigger::SeenOnDisk).await;
            files.watch_instead(self.watched());
        }
    }

    /// RACE: which files to watch is known only once they have been read, so what changed between the reading and the
    /// watch was seen by neither. A reading that failed as a whole is not repeated in circles.
    async fn missed_a_change(&self) -> bool {
        let active = self.active();
        let file = self.files.main.clone();
        let read = active.state == ReloadState::Current || active.refused.is_some();
        read && tokio::task::spawn_blocking(move || config::files::read(&file).0)
            .await
            .is_ok_and(|sources| sources != *active.on_disk())
    }

    /// The main file and everything that it includes now, whether or not that was accepted: a file is mended where it is.
    fn watched(&self) -> Vec<Watched> {
        let active = self.active();
        let files = active.on_disk().files.iter().map(|source| Watched::File(source.file.clone()));
        let folders = active.on_disk().folders.iter();
        let folders = folders.map(|folder| Watched::Folder { folder: folder.clone(), suffix: ".toml".to_owned() });
        files.chain([Watched::File(self.files.main.clone())]).chain(folders).collect()
    }

    /// Puts `config` in force, unless it needs a restart or has to be asked for.
    pub fn swap(&self, config: Config, accepted: Accepted, cause: ReloadTrigger) -> ReloadReport {
        let before = self.active();
        let restart_for = before.config.restart_needed(&config);
        if !restart_for.is_empty() {
            let keys = restart_for.join(", ");
            let told = format!(
                "{}: a change of {keys} needs a restart; nothing was changed; type: systemctl restart bonafide",
                self.files.main.display()
            );
            return self.refuse_because(vec![told], Some(accepted.sources));
        }
        let (state, accepted_at) = (ReloadState::Current, self.clock.now());
        let active = ActiveConfig { config, accepted, state, accepted_at, refused: None };
        let rulebook = active.rulebook(self.epoch.load(Ordering::Relaxed) + 1);
        let mut report = compare(&before.config, &active.config);
        if cause == ReloadTrigger::SeenOnDisk
            && let Some(held) = self.node_state.held_back(&rulebook)
        {
            report.held_back = names(&before.config, &held.ending);
            self.hold_back(&report, &before, active.accepted.sources);
            return report;
        }
        self.epoch.fetch_add(1, Ordering::Relaxed);
        let woken = self.node_state.replace_rulebook(rulebook);
        report.swapped = true;
        let (added, removed, changed) = (report.added.len(), report.removed.len(), report.changed.len());
        tracing::info!(added, removed, changed, woken, "configuration reloaded");
        self.keep(&active.accepted);
        self.federation.send_replace(active.federation());
        self.active.send_replace(Arc::new(active));
        self.files.reason.clear();
        report
    }

    /// Keeps what was accepted for a start with bad files. Without it the daemon serves all the same.
    fn keep(&self, accepted: &Accepted) {
        let Some(data_dir) = &self.files.kept_in else { return };
        if let Err(why) = last_good::keep(data_dir, accepted) {
            tracing::warn!(%why, "the accepted configuration could not be kept for the next start");
        }
    }

    fn hold_back(&self, report: &ReloadReport, before: &ActiveConfig, refused: Sources) {
        let ids: Vec<_> = report.held_back.iter().map(|entry| entry.id.as_str()).collect();
        let detail = format!(
            "a change of {} would end live identities ({}) and is held back; look at it and type: bonafide reload",
            self.files.main.display(),
            ids.join(", ")
        );
        tracing::warn!(%detail, "configuration held back");
        self.files.reason.block(Severity::Degraded, detail);
        let (state, refused) = (ReloadState::HeldBack, Some(refused));
        self.active.send_replace(Arc::new(ActiveConfig { state, refused, ..before.clone() }));
    }

    fn refuse(&self, ConfigRefused { findings, sources }: ConfigRefused) -> ReloadReport {
        self.refuse_because(findings.problems.iter().map(ToString::to_string).collect(), Some(sources))
    }

    fn refuse_because(&self, problems: Vec<String>, refused: Option<Sources>) -> ReloadReport {
        for problem in &problems {
            tracing::error!(problem, "the configuration was not reloaded; the one before stays in force");
        }
        self.files.reason.block(Severity::Degraded, problems.join("\n"));
        let state = ReloadState::LastGood;
        self.active.send_replace(Arc::new(ActiveConfig { state, refused, ..ActiveConfig::clone(&self.active()) }));
        ReloadReport { problems, ..ReloadReport::default() }
    }
}

/// What would change, by SPIFFE ID.
fn compare(before: &Config, after: &Config) -> ReloadReport {
    let (old, new) = (by_id(before), by_id(after));
    let mut report =
        ReloadReport { warnings: after.warnings.iter().map(ToString::to_string).collect(), ..ReloadReport::default() };
    for (id, entries) in &new {
        let names = entries.iter().copied().map(name);
        match old.get(id) {
            None => report.added.extend(names),
            Some(before) if !same(before, entries) => report.changed.extend(names),
            Some(_) => {}
        }
    }
    let gone = old.iter().filter(|(id, _)| !new.contains_key(*id)).flat_map(|(_, gone)| gone);
    report.removed = gone.copied().map(name).collect();
    report
}

fn by_id(config: &Config) -> BTreeMap<&SpiffeId, Vec<&Entry>> {
    let mut entries: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for entry in &config.entries {
        entries.entry(&entry.id).or_default().push(&**entry);
    }
    entries
}

fn same(before: &[&Entry], after: &[&Entry]) -> bool {
    let unmoved = |entry: &Entry, as_if: &Entry| {
        Entry { order: as_if.order, origin: as_if.origin.clone(), ..entry.clone() } == *as_if
    };
    before.len() == after.len() && before.iter().zip(after).all(|(before, after)| unmoved(before, after))
}

fn name(entry: &Entry) -> EntryName {
    EntryName { id: entry.id.to_string(), origin: entry.origin.clone() }
}

fn names(config: &Config, ids: &[SpiffeId]) -> Vec<EntryName> {
    config.entries.iter().filter(|entry| ids.contains(&entry.id)).map(|entry| name(entry)).collect()
}
