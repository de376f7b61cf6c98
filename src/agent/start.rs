//! Starts the daemon on this machine: configuration, log, kernel, data directory, authority. An error has three parts, goes
//! to standard error, and leaves nothing half done.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::agent::config;
use crate::agent::config::Config;
use crate::agent::config::ConfigRefused;
use crate::agent::daemon;
use crate::agent::last_good;
use crate::agent::node::NodeSetup;
use crate::agent::prepared::NotRunning;
use crate::agent::prepared::Prepared;
use crate::agent::reload::ActiveConfig;
use crate::agent::reload::ConfigFiles;
use crate::attestation::Attestor;
use crate::attestation::linux::Linux;
use crate::audit::Journal;
use crate::audit::LogSettings;
use crate::audit::daemon_log::DaemonLog;
use crate::audit::lines::Lines;
use crate::audit::lines::is_journal;
use crate::audit::metrics::AuditMetrics;
use crate::authority;
use crate::authority::Authority;
use crate::authority::AuthoritySettings;
use crate::authority::EmbeddedSettings;
use crate::authority::Note;
use crate::durable;
use crate::durable::DataDir;
use crate::endpoints::admin::reports::ReloadState;
use crate::entitlement::node_state::Parts;
use crate::names::NameService;
use crate::names::SystemNames;
use crate::randomness::Randomness as _;
use crate::randomness::SystemRandomness;
use crate::readiness::Readiness;
use crate::readiness::Reason;
use crate::readiness::Severity;
use crate::sys::allocator;
use crate::time::Clock;
use crate::time::SystemClock;

/// How long the last lines of the log may take.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How the daemon is to run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The configuration file.
    pub config: PathBuf,
    /// Refuse to start from the last accepted configuration when the files are bad.
    pub strict: bool,
}

/// Runs the daemon until it is told to stop.
#[must_use]
pub fn run(options: RunOptions) -> ExitCode {
    match start(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("bonafide: {why}");
            ExitCode::from(why.exit_code())
        }
    }
}

fn start(options: &RunOptions) -> Result<(), NotRunning> {
    keep_secrets_in_memory()?;
    allocator::keep_large_buffers_apart();
    gather_entropy();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let readiness = Readiness::default();
    let [not_on_disk, not_writable] = ["configuration", "data_dir"].map(|name| readiness.register(name));
    let (active, held) = configuration(options, &*clock, &not_on_disk)?;
    let log = LogSettings::new(active.config.log.format, active.config.log.level).for_journal(writes_to_journal());
    let (journal, metrics) = open_log(&log, &clock)?;
    active.config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let linux = Arc::new(Linux::open(active.config.attest.minimum)?);
    let data_dir = match held {
        Some(data_dir) => data_dir,
        None => DataDir::open(&active.config.authority.data_dir)?,
    };
    let data_dir = Arc::new(data_dir);
    let randomness = Arc::new(SystemRandomness);
    let (authority, takes_no_writes) = open_authority(&active.config, &data_dir, &*clock, &randomness, &not_writable)?;
    if active.state == ReloadState::Current
        && let Err(why) = last_good::keep(&data_dir, &active.accepted)
    {
        tracing::warn!(%why, "the accepted configuration could not be kept for the next start");
    }
    let parts = Parts {
        attestor: Attestor::new(linux.clone(), Vec::new()),
        authority: authority.clone(),
        audit: journal.clone(),
        clock,
        randomness,
        stop: CancellationToken::new(),
    };
    let unwritable = takes_no_writes.then(|| (data_dir.clone(), not_writable));
    let (main, kept_in) = (options.config.clone(), Some(data_dir));
    let files = ConfigFiles { main, kept_in, are_followed: true, reason: not_on_disk };
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX >> 16);
    let (entry_sources, sockets) = (Vec::new(), Vec::new());
    let admin_group = active.config.admin_group().into_iter().collect();
    let names = Arc::new(NameService::new(Arc::new(SystemNames::of_first_process()), admin_group));
    let setup = NodeSetup { parts, active, files, entry_sources, names, readiness, log, sockets, descriptors };
    let prepared = Prepared { setup, linux, journal: journal.clone(), metrics, unwritable };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(serving_threads(cores))
        .enable_all()
        .build()
        .map_err(|why| NotRunning::System { what: "no threads", why: why.to_string() })?;
    let ended = runtime.block_on(daemon::serve(prepared));
    runtime.shutdown_timeout(Duration::from_millis(100));
    journal.close(LAST_LINES);
    ended
}

/// How many threads serve. At every event a worker of the runtime wakes another to look for work, which costs more than
/// the work: one thread for four cores answers more than one for each.
fn serving_threads(cores: usize) -> usize {
    cores.div_ceil(4).clamp(1, 4)
}

/// The crypto library takes its first entropy from the jitter of the processor, which takes some 20 ms. Another thread does
/// it while this one reads the configuration; a caller that needs random bytes sooner waits for it.
fn gather_entropy() {
    std::thread::spawn(|| SystemRandomness.fill(&mut [0; 1]));
}

/// SECURITY: keys are in this memory, so no core file is written and no process of the same user may read it.
fn keep_secrets_in_memory() -> Result<(), NotRunning> {
    let refused = |what| move |why: rustix::io::Errno| NotRunning::System { what, why: why.to_string() };
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(refused("the memory could not be closed to others"))?;
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, none)
        .map_err(refused("core files could not be forbidden"))
}

/// The configuration of the files; where they are bad, the last accepted one with the data directory that holds it.
fn configuration(
    options: &RunOptions,
    clock: &dyn Clock,
    reason: &Reason,
) -> Result<(ActiveConfig, Option<DataDir>), NotRunning> {
    let accepted_at = clock.now();
    let ConfigRefused { findings, sources } = match config::load(&options.config) {
        Ok((config, accepted)) => {
            return Ok((
                ActiveConfig { config, accepted, state: ReloadState::Current, accepted_at, refused: None },
                None,
            ));
        }
        Err(refused) => refused,
    };
    let refused = |findings, instead: String| Err(NotRunning::Configuration { findings, instead });
    if options.strict {
        return refused(findings, "--strict: the last accepted configuration is not used; fix the files".to_owned());
    }
    let folder = last_good::data_dir_of(&options.config);
    if !folder.is_dir() {
        return refused(findings, "no configuration was accepted before; fix the files and start again".to_owned());
    }
    let data_dir = match DataDir::open(&folder) {
        Err(locked @ durable::OpenDataDirError::Locked { .. }) => return Err(locked.into()),
        Err(why) => return refused(findings, format!("the last accepted configuration cannot be used: {why}")),
        Ok(data_dir) => data_dir,
    };
    match last_good::recall(&data_dir) {
        Ok((config, accepted)) if config.authority.data_dir == folder => {
            let detail = format!("serving the last accepted configuration, because the files are bad:\n{findings}");
            eprintln!("bonafide: {detail}");
            reason.block(Severity::Degraded, detail);
            let (state, refused) = (ReloadState::LastGood, Some(sources));
            Ok((ActiveConfig { config, accepted, state, accepted_at, refused }, Some(data_dir)))
        }
        Ok(_) => refused(findings, "the last accepted configuration has another data_dir; fix the files".to_owned()),
        Err(why) => refused(findings, format!("{why}; fix the files and start again")),
    }
}

fn writes_to_journal() -> bool {
    let named = std::env::var_os("JOURNAL_STREAM").unwrap_or_default();
    is_journal(std::io::stdout(), &named.to_string_lossy())
}

fn open_log(settings: &LogSettings, clock: &Arc<dyn Clock>) -> Result<(Arc<Journal>, AuditMetrics), NotRunning> {
    let refused = |why: String| NotRunning::System { what: "the log could not be opened", why };
    let metrics = AuditMetrics::default();
    let lines = Lines::to_standard_output(metrics.dropped.clone()).map_err(|why| refused(why.to_string()))?;
    let lines = Arc::new(lines);
    let log = DaemonLog::new(lines.clone(), settings.clone(), clock.clone(), metrics.suppressed_lines.clone());
    log.install().map_err(|why| refused(why.to_string()))?;
    Ok((Arc::new(Journal::new(lines, settings.clone(), metrics.clone())), metrics))
}

/// Opens the authority, and says whether its data directory takes no writes.
fn open_authority(
    config: &Config,
    data_dir: &Arc<DataDir>,
    clock: &dyn Clock,
    randomness: &Arc<SystemRandomness>,
    reason: &Reason,
) -> Result<(Arc<dyn Authority>, bool), NotRunning> {
    let settings = AuthoritySettings::Embedded(EmbeddedSettings {
        trust_domain: config.trust_domain.clone(),
        ca_ttl: config.authority.ca_ttl,
        jwt_issuer: None,
    });
    let (authority, notes) = authority::open(settings, data_dir.clone(), clock.moment(), randomness.clone())?;
    let mut takes_no_writes = false;
    for note in notes {
        match note {
            Note::AwaitsClock => tracing::warn!("{note}"),
            Note::NotWritable { .. } => {
                tracing::warn!("{note}");
                reason.block(Severity::Degraded, note.to_string());
                takes_no_writes = true;
            }
            _ => tracing::info!("{note}"),
        }
    }
    Ok((authority, takes_no_writes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_serves_for_four_cores_and_never_more_than_four_do() {
        let threads = [0, 1, 2, 4, 5, 8, 9, 12, 13, 16, 17, 256].map(serving_threads);
        assert_eq!(threads, [1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 4, 4]);
    }
}
