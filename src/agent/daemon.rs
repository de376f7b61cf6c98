//! The daemon while it runs: its doors, its tasks, its signals, and the end of all of them.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio_util::sync::CancellationToken;

use crate::agent::config::Config;
use crate::agent::config::sections::doors::Listen;
use crate::agent::node::Node;
use crate::agent::prepared::NotRunning;
use crate::agent::prepared::Prepared;
use crate::agent::reload::ReloadTrigger;
use crate::agent::watches::memory;
use crate::agent::watches::readiness::tell_of_readiness;
use crate::agent::watches::readiness::tell_systemd;
use crate::attestation::kernel::Process;
use crate::endpoints::admin;
use crate::endpoints::admin::doorkeeper::Doorkeeper;
use crate::endpoints::admin::reports::SocketStatus;
use crate::endpoints::health;
use crate::endpoints::http;
use crate::endpoints::metrics;
use crate::endpoints::transport::listener::Listener;
use crate::endpoints::transport::unix::UnixAcceptor;
use crate::endpoints::workload_socket;
use crate::evidence::Accounts;
use crate::readiness::Severity;

/// The mode of the metrics socket: it tells nothing that a group of scrapers may not know.
const OWNER_AND_GROUP: u32 = 0o660;

/// Serves until a signal or a failure.
pub(in crate::agent) async fn serve(prepared: Prepared) -> Result<(), NotRunning> {
    let Prepared { mut setup, linux, journal, metrics } = prepared;
    let readiness = setup.readiness.clone();
    let starting = readiness.register("starting");
    starting.block(Severity::NotReady, "the daemon is starting");
    let config = setup.active.config.clone();
    let doors = Doors::bind(&config, &setup.active.accepted.accounts).await?;
    setup.sockets = doors.status.clone();
    let routes = workload_socket::routes(&readiness)
        .map_err(|why| NotRunning::System { what: "the services could not be built", why: why.to_string() })?;
    let stop = setup.parts.stop.clone();
    let mut node = Node::build(setup);
    node.spawn_until_stop(memory::give_back(node.budgets.clone()));
    node.spawn_until_stop(async move { journal.flush_suppressed().await });
    let identify =
        Arc::new(move |socket: BorrowedFd<'_>| linux.peer(socket).map(|process| Arc::new(process) as Arc<dyn Process>));
    let acceptor = UnixAcceptor::new(doors.workload, identify, readiness.clone())
        .map_err(|why| refused("no descriptor is left", &why))?;
    node.serve(acceptor, routes);
    node.spawn_until_stop(admin::server::serve(doors.admin, doors.doorkeeper, node.operations.clone()));
    if let Some(listener) = doors.health {
        node.spawn_until_stop(health::serve(listener, readiness.clone()));
    }
    if let Some(listener) = doors.metrics {
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        node.spawn_until_stop(metrics::serve(listener, registry, node.operations.clone()));
    }
    follow_signals(&mut node, stop)?;
    tracing::info!(trust_domain = %config.trust_domain, entries = config.entries.len(), "started");
    drop(starting);
    node.spawn_until_stop(tell_of_readiness(readiness));
    Ok(node.run_until_stopped().await?)
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
    async fn bind(config: &Config, accounts: &Accounts) -> Result<Self, NotRunning> {
        let workload = Listener::bind(&config.workload_api.socket, config.workload_api.mode)?;
        let doorkeeper = Doorkeeper { own_uid: rustix::process::geteuid().as_raw(), group: config.admin_gid(accounts) };
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
}

fn follow_signals(node: &mut Node, stop: CancellationToken) -> Result<(), NotRunning> {
    let listen = |kind| signal(kind).map_err(|why| refused("signals cannot be received", &why));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    node.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
        let told = tell_systemd("STOPPING=1".to_owned());
        let _in_time = tokio::time::timeout(Duration::from_secs(1), told).await;
    });
    // On its own: a name service that does not answer must not hold up the stop.
    let reloader = node.reloader.clone();
    node.spawn_until_stop(async move {
        while hang_up.recv().await.is_some() {
            reloader.reload(ReloadTrigger::Asked).await;
        }
    });
    Ok(())
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
