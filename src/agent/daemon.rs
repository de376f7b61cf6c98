//! The daemon while it runs: its doors, its tasks, its signals, and the end of all of them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::admin_service::AdminService;
use crate::agent::config::Config;
use crate::agent::config::sections::doors::Listen;
use crate::agent::lifecycle::GRACE;
use crate::agent::lifecycle::run_until_stopped;
use crate::agent::node::Ground;
use crate::agent::node::Node;
use crate::agent::reload::ReloadTrigger;
use crate::agent::reload::Reloader;
use crate::agent::start::NotRunning;
use crate::agent::start::Prepared;
use crate::agent::watches::authority::look;
use crate::agent::watches::authority::watch_authority;
use crate::agent::watches::memory;
use crate::agent::watches::readiness::tell_of_readiness;
use crate::agent::watches::readiness::tell_systemd;
use crate::attestation::kernel::Process;
use crate::endpoints::admin;
use crate::endpoints::admin::doorkeeper::Doorkeeper;
use crate::endpoints::admin::operations::Operations;
use crate::endpoints::admin::reports::SocketStatus;
use crate::endpoints::health;
use crate::endpoints::http;
use crate::endpoints::metrics;
use crate::endpoints::transport::acceptor::UnixAcceptor;
use crate::endpoints::transport::budgets::Budgets;
use crate::endpoints::transport::budgets::Limits;
use crate::endpoints::transport::listener::Listener;
use crate::endpoints::workload_api;
use crate::federation::ForeignBundles;
use crate::readiness::Severity;

/// The reason on the readiness board until the doors are open.
const STARTING: &str = "starting";

/// The mode of the metrics socket: it tells nothing that a group of scrapers may not know.
const OWNER_AND_GROUP: u32 = 0o660;

/// Serves until a signal or a failure.
pub(in crate::agent) async fn serve(prepared: Prepared) -> Result<(), NotRunning> {
    let started = Instant::now();
    let Prepared { readiness, stop, .. } = &prepared;
    readiness.block(STARTING, Severity::NotReady, "the daemon is starting");
    let config = prepared.active.config.clone();
    let doors = Doors::bind(&config, &prepared).await?;
    let bundles = ForeignBundles::load(&prepared.active.federation(), readiness.clone());
    let ground = Ground {
        host: prepared.linux.clone(),
        authority: prepared.authority.clone(),
        foreign: bundles.bundles(),
        audit: prepared.journal.clone(),
        clock: prepared.clock.clone(),
        randomness: prepared.randomness.clone(),
        stop: stop.clone(),
    };
    let mut node = Node::new(ground, prepared.active.rulebook(0));
    let reloader = Arc::new(Reloader::new(
        prepared.file.clone(),
        prepared.active.clone(),
        node.node_state.clone(),
        readiness.clone(),
        Some(prepared.data_dir.clone()),
    ));
    let budgets = Budgets::new(limits(&config)?);
    let operations: Arc<dyn Operations> = Arc::new(Arc::new(AdminService {
        node_state: node.node_state.clone(),
        reloader: reloader.clone(),
        journal: prepared.journal.clone(),
        budgets: budgets.clone(),
        readiness: readiness.clone(),
        clock: prepared.clock.clone(),
        started,
        sockets: doors.status.clone(),
    }));
    let routes = workload_api::routes(readiness)
        .map_err(|why| NotRunning::System { what: "the services could not be built", why: why.to_string() })?;
    node.run(until(stop.clone(), memory::give_back(budgets.clone())));
    let (authority, clock) = (prepared.authority.clone(), prepared.clock.clone());
    look(&*authority, &*clock, readiness);
    node.run(until(stop.clone(), watch_authority(authority, clock, readiness.clone())));
    doors.open(&mut node, &prepared, routes, budgets, operations)?;
    follow_signals(&mut node, reloader.clone(), stop.clone())?;
    let following = stop.clone();
    node.run(bundles.watch_files(reloader.federation(), following.clone()));
    node.run(async move { reloader.follow_files(following).await });
    tracing::info!(trust_domain = %config.trust_domain, entries = config.entries.len(), "started");
    readiness.clear(STARTING);
    node.run(until(stop.clone(), tell_of_readiness(readiness.clone())));
    Ok(run_until_stopped(std::mem::take(&mut node.tasks), stop.clone(), GRACE).await?)
}

/// Bound sockets that nobody is served at yet.
struct Doors {
    workload: Listener,
    admin: Listener,
    doorkeeper: Doorkeeper,
    health: Option<http::HttpListener>,
    metrics: Option<http::HttpListener>,
    status: Vec<SocketStatus>,
}

impl Doors {
    async fn bind(config: &Config, prepared: &Prepared) -> Result<Self, NotRunning> {
        let workload = Listener::bind(&config.workload_api.socket, config.workload_api.mode)?;
        let doorkeeper = Doorkeeper {
            own_uid: rustix::process::geteuid().as_raw(),
            group: config.admin_gid(&prepared.active.accepted.accounts),
        };
        let admin = Listener::bind(&config.admin.socket, doorkeeper.mode())?;
        let mut status = vec![
            unix_status("workload", &config.workload_api.socket, config.workload_api.mode),
            unix_status("admin", &config.admin.socket, doorkeeper.mode()),
        ];
        let health = match config.health {
            Some(address) => {
                status.push(SocketStatus { door: "health".to_owned(), address: address.to_string(), mode: None });
                let bound = http::HttpListener::loopback(address).await;
                Some(bound.map_err(|why| refused("the health address could not be bound", &why))?)
            }
            None => None,
        };
        let metrics = match &config.metrics {
            Some(Listen::Loopback(address)) => {
                status.push(SocketStatus { door: "metrics".to_owned(), address: address.to_string(), mode: None });
                let bound = http::HttpListener::loopback(*address).await;
                Some(bound.map_err(|why| refused("the metrics address could not be bound", &why))?)
            }
            Some(Listen::Unix(path)) => {
                status.push(unix_status("metrics", path, OWNER_AND_GROUP));
                Some(http::HttpListener::Unix(Listener::bind(path, OWNER_AND_GROUP)?))
            }
            None => None,
        };
        Ok(Self { workload, admin, doorkeeper, health, metrics, status })
    }

    fn open(
        self,
        node: &mut Node,
        prepared: &Prepared,
        routes: tonic::service::Routes,
        budgets: Budgets,
        operations: Arc<dyn Operations>,
    ) -> Result<(), NotRunning> {
        let stop = &prepared.stop;
        let linux = prepared.linux.clone();
        let identify = Arc::new(move |socket: std::os::fd::BorrowedFd<'_>| {
            linux.peer(socket).map(|process| Arc::new(process) as Arc<dyn Process>)
        });
        let door = UnixAcceptor::new(self.workload, identify, prepared.readiness.clone())
            .map_err(|why| refused("no descriptor is left", &why))?;
        node.serve(door, routes, budgets);
        node.run(until(stop.clone(), admin::server::serve(self.admin, self.doorkeeper, operations.clone())));
        if let Some(listener) = self.health {
            node.run(until(stop.clone(), health::serve(listener, prepared.readiness.clone())));
        }
        if let Some(listener) = self.metrics {
            let mut registry = Registry::default();
            prepared.metrics.register(&mut registry);
            node.run(until(stop.clone(), metrics::serve(listener, registry, operations)));
        }
        let journal = prepared.journal.clone();
        node.run(until(stop.clone(), async move { journal.flush_suppressed().await }));
        Ok(())
    }
}

/// Runs a part that would never end until `stop`.
async fn until(stop: CancellationToken, part: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = part => {}
    }
}

fn follow_signals(node: &mut Node, reloader: Arc<Reloader>, stop: CancellationToken) -> Result<(), NotRunning> {
    let listen = |kind| signal(kind).map_err(|why| refused("signals cannot be received", &why));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    let asked_to_stop = stop.clone();
    node.run(async move {
        tokio::select! {
            () = asked_to_stop.cancelled() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        asked_to_stop.cancel();
        let told = tell_systemd("STOPPING=1".to_owned());
        let _in_time = tokio::time::timeout(Duration::from_secs(1), told).await;
    });
    // On its own: a name service that does not answer must not hold up the stop.
    node.run(until(stop, async move {
        while hang_up.recv().await.is_some() {
            reloader.reload(ReloadTrigger::Asked).await;
        }
    }));
    Ok(())
}

fn limits(config: &Config) -> Result<Limits, NotRunning> {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX >> 16);
    let asked = &config.limits;
    let defaults = asked.connections.map_or_else(
        || Limits::for_descriptors(descriptors),
        |connections| Limits::for_connections(affordable(connections as usize, descriptors)),
    );
    Ok(Limits {
        connections: defaults.connections,
        connections_per_caller: asked.connections_per_caller.map_or(defaults.connections_per_caller, |it| it as usize),
        streams_per_connection: asked.streams_per_connection,
        first_request: asked.first_request,
        idle: asked.idle,
        drain: defaults.drain,
    })
}

/// The connections that were asked for, or as many as there are descriptors for.
fn affordable(asked: usize, descriptors: u64) -> usize {
    let most = Limits::most_connections(descriptors);
    if asked > most {
        tracing::warn!(asked, most, descriptors, "[limits] connections needs more descriptors; raise LimitNOFILE=");
    }
    asked.min(most)
}

fn unix_status(door: &str, path: &Path, mode: u32) -> SocketStatus {
    SocketStatus {
        door: door.to_owned(),
        address: format!("unix:{}", path.display()),
        mode: Some(format!("{mode:04o}")),
    }
}

fn refused(what: &'static str, why: &std::io::Error) -> NotRunning {
    NotRunning::System { what, why: why.to_string() }
}
