//! The running daemon: binds the doors, builds the node, follows signals, and waits for the end of all tasks.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::agent::config::Config;
use crate::agent::config::sections::doors::Listen;
use crate::agent::extra_doors::ExtraDoor;
use crate::agent::extra_doors::OWNER_AND_GROUP;
use crate::agent::node::Node;
use crate::agent::prepared::NotRunning;
use crate::agent::prepared::Prepared;
use crate::agent::reload::ReloadTrigger;
use crate::agent::watches::data_dir::watch_data_dir;
use crate::agent::watches::memory::return_memory;
use crate::agent::watches::readiness::notify_systemd;
use crate::agent::watches::readiness::report_readiness;
use crate::attestation::kernel::Process;
use crate::attestation::linux::Linux;
use crate::endpoints::admin;
use crate::endpoints::admin::doorkeeper::Doorkeeper;
use crate::endpoints::admin::operators::Operators;
use crate::endpoints::admin::reports::SocketStatus;
use crate::endpoints::authority_metrics::AuthorityMetrics;
use crate::endpoints::health;
use crate::endpoints::metrics;
use crate::endpoints::transport::listener::Listener;
use crate::endpoints::transport::listener::NotBound;
use crate::endpoints::transport::unix::UnixAcceptor;
use crate::endpoints::workload_socket::WorkloadServices;
use crate::names::NameService;
use crate::names::SystemNames;
use crate::names::look_up;
use crate::readiness::Readiness;
use crate::readiness::Reason;
use crate::readiness::Severity;

/// How long the first reading of `/etc/subuid` may hold up the start.
const RANGES_WITHIN: Duration = Duration::from_millis(100);

/// Serves until a signal or a failure.
pub(in crate::agent) async fn serve(prepared: Prepared) -> Result<(), NotRunning> {
    let Prepared { mut setup, linux, journal, metrics, unwritable } = prepared;
    let readiness = setup.readiness.clone();
    let starting = readiness.register("starting");
    starting.block(Severity::NotReady, "the daemon is starting");
    let config = setup.active.config.clone();
    let doors = Doors::bind(&config, &readiness).await?;
    setup.sockets = doors.status.clone();
    let _admin_group = doors.admin_group;
    let names = setup.names.clone();
    let (stop, authority, clock) = (setup.parts.stop.clone(), setup.parts.authority.clone(), setup.parts.clock.clone());
    let mut node = Node::build(setup);
    let budgets = node.budgets.clone();
    let services = WorkloadServices::new(&readiness, move || budgets.limits().idle)
        .map_err(|why| NotRunning::System { what: "the services could not be built", why: why.to_string() })?;
    node.spawn_until_stop(return_memory(node.budgets.clone()));
    node.spawn_until_stop(watch_data_dir(unwritable));
    node.spawn_until_stop(async move { journal.flush_suppressed().await });
    let operators = Operators::new(doors.doorkeeper, &linux);
    let host = linux.clone();
    let identify =
        Arc::new(move |socket: BorrowedFd<'_>| linux.peer(socket).map(|process| Arc::new(process) as Arc<dyn Process>));
    let acceptor = UnixAcceptor::new(doors.workload, identify, readiness.clone())
        .map_err(|why| refused("no descriptor is left", &why))?;
    follow_subordinate_uids(&mut node, names, host).await;
    node.serve(acceptor, Arc::new(services));
    node.spawn_until_stop(admin::server::serve(doors.admin, operators, node.operations.clone()));
    if let Some(door) = doors.health {
        let readiness = readiness.clone();
        node.spawn_until_stop(async move { health::serve(door.bound().await, readiness).await });
    }
    if let Some(door) = doors.metrics {
        let (mut registry, operations) = (Registry::default(), node.operations.clone());
        metrics.register(&mut registry);
        let rotations = node.rotations.clone();
        registry.register_collector(Box::new(AuthorityMetrics { authority, rotations, clock }));
        node.spawn_until_stop(async move { metrics::serve(door.bound().await, registry, operations).await });
    }
    follow_signals(&mut node, stop)?;
    tracing::info!(trust_domain = %config.trust_domain, entries = config.entries.len(), "started");
    drop(starting);
    node.spawn_until_stop(report_readiness(readiness));
    Ok(node.run_until_stopped().await?)
}

/// Charges callers by `/etc/subuid`. Returns when it was read, or after a moment: no file system holds up the start.
async fn follow_subordinate_uids(node: &mut Node, names: Arc<NameService>, linux: Arc<Linux>) {
    let read = Arc::new(Notify::new());
    let is_read = Arc::clone(&read);
    let publish = move |ranges| {
        linux.replace_subordinate_uids(ranges);
        is_read.notify_one();
    };
    node.spawn_until_stop(async move { names.follow_subordinate_uids(publish).await });
    let _in_time = tokio::time::timeout(RANGES_WITHIN, read.notified()).await;
}

/// Sockets that are bound and not served yet.
struct Doors {
    workload: Listener,
    admin: Listener,
    doorkeeper: Doorkeeper,
    /// Blocks while the group of `[admin]` cannot connect.
    admin_group: Reason,
    health: Option<ExtraDoor>,
    metrics: Option<ExtraDoor>,
    status: Vec<SocketStatus>,
}

impl Doors {
    async fn bind(config: &Config, readiness: &Readiness) -> Result<Self, NotRunning> {
        let workload = Listener::bind(&config.workload_api.socket, config.workload_api.mode)?;
        let group = admin_gid(config).await;
        let doorkeeper = Doorkeeper { own_uid: rustix::process::geteuid().as_raw(), group };
        let admin_group = readiness.register("admin_group");
        let (admin, admin_mode) = bind_admin(&config.admin.socket, doorkeeper, &admin_group)?;
        let mut status = vec![
            unix_status("workload", &config.workload_api.socket, config.workload_api.mode),
            unix_status("admin", &config.admin.socket, admin_mode),
        ];
        let mut extra = async |name: &'static str, place: Option<Listen>| {
            let place = place?;
            let mode = matches!(place, Listen::Unix(_)).then(|| format!("{OWNER_AND_GROUP:04o}"));
            status.push(SocketStatus { door: name.to_owned(), address: place.to_string(), mode });
            Some(ExtraDoor::open(name, place, readiness).await)
        };
        let health = extra("health", config.health.map(Listen::Loopback)).await;
        let metrics = extra("metrics", config.metrics.clone()).await;
        Ok(Self { workload, admin, doorkeeper, admin_group, health, metrics, status })
    }
}

/// Binds the admin socket. Where the daemon may not give it to the group, the group cannot connect, and root can.
fn bind_admin(path: &Path, doorkeeper: Doorkeeper, reason: &Reason) -> Result<(Listener, u32), NotBound> {
    let access = doorkeeper.access();
    match Listener::bind(path, access) {
        Err(why @ NotBound::GroupNotGiven { .. }) => {
            tracing::warn!(%why, "the group of [admin] cannot connect to the admin socket");
            reason.block(Severity::Degraded, format!("the group of [admin] cannot connect: {why}"));
            let closed = Doorkeeper { group: None, ..doorkeeper }.access();
            Ok((Listener::bind(path, closed)?, closed.mode))
        }
        bound => Ok((bound?, access.mode)),
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
        let notified = notify_systemd("STOPPING=1".to_owned());
        let _in_time = tokio::time::timeout(Duration::from_secs(1), notified).await;
    });
    // A task of its own: a name service that does not answer must not hold up the stop.
    let reloader = node.reloader.clone();
    node.spawn_until_stop(async move {
        while hang_up.recv().await.is_some() {
            reloader.reload(ReloadTrigger::Asked).await;
        }
    });
    Ok(())
}

/// The gid of the group that may use the admin socket, as chgrp(1) in the daemon's own root would find it. A name service
/// that hangs delays a start with such a group by 2 s; then only root and the daemon's own user may use the socket.
async fn admin_gid(config: &Config) -> Option<u32> {
    let name = config.admin_group()?;
    let known = look_up(Arc::new(SystemNames::of_own_root()), &[name.clone()].into()).await;
    known.id_of(&name)
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
