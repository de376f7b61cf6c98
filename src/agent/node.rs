//! A node without its machine: the state that its callers share, and the tasks that keep it current. The daemon builds it
//! on the kernel, a disk and sockets, a test on models of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::admin_service::AdminService;
use crate::agent::config::file_entries::FileEntries;
use crate::agent::lifecycle::Fatal;
use crate::agent::lifecycle::GRACE;
use crate::agent::lifecycle::run_until_stopped;
use crate::agent::live_settings::LiveSettings;
use crate::agent::live_settings::limits;
use crate::agent::names_by_id::NamesById;
use crate::agent::reload::ActiveConfig;
use crate::agent::reload::ConfigFiles;
use crate::agent::reload::ReloadTrigger;
use crate::agent::reload::Reloader;
use crate::agent::reload::follow::follow_files;
use crate::agent::rulebook_owner::RulebookOwner;
use crate::agent::watches::authority::check_authority;
use crate::agent::watches::authority::watch_authority;
use crate::agent::watches::clock::watch_clock;
use crate::agent::watches::names::watch_names;
use crate::agent::watches::upkeep::Upkeep;
use crate::audit::LogSettings;
use crate::authority::Authority;
use crate::authority::RotationTally;
use crate::endpoints::admin::operations::Operations;
use crate::endpoints::admin::reports::SocketStatus;
use crate::endpoints::transport::accept;
use crate::endpoints::transport::acceptor::Acceptor;
use crate::endpoints::transport::acceptor::IncomingConnection;
use crate::endpoints::transport::http2::GrpcServices;
use crate::endpoints::transport::http2::Http2;
use crate::entitlement::node_state::NodeState;
use crate::entitlement::node_state::Parts;
use crate::entitlement::published::BundleSet;
use crate::fairness::Budgets;
use crate::federation::ForeignBundles;
use crate::identity::Bundle;
use crate::identity::TrustDomain;
use crate::names::NameService;
use crate::policy::Rulebook;
use crate::readiness::Readiness;
use crate::readiness::Reason;
use crate::registration::EntryIndex;
use crate::registration::EntrySource;
use crate::time::Clock;

/// The bundles of foreign trust domains, as they are now.
type ForeignBundleWatch = watch::Receiver<Arc<BTreeMap<TrustDomain, Arc<Bundle>>>>;

/// What a node is built from.
#[derive(Debug)]
pub struct NodeSetup {
    /// What all callers share.
    pub parts: Parts,
    /// The configuration in force at first.
    pub active: ActiveConfig,
    /// Where the next configuration comes from.
    pub files: ConfigFiles,
    /// Entries beside those of the configuration.
    pub entry_sources: Vec<Arc<dyn EntrySource>>,
    /// Who the users and groups are that entries name.
    pub names: Arc<NameService>,
    /// Why the node does not serve, or not as it should.
    pub readiness: Readiness,
    /// How lines are written.
    pub log: LogSettings,
    /// The doors that `status` lists.
    pub sockets: Vec<SocketStatus>,
    /// How many descriptors may be open: the default limits follow from it.
    pub descriptors: u64,
}

/// A node and its tasks. None of them ends before the stop, unless something is wrong.
#[derive(Debug)]
pub struct Node {
    /// The callers' shared state.
    pub node_state: Arc<NodeState>,
    /// Swaps the configuration.
    pub reloader: Arc<Reloader>,
    /// Answers the operator.
    pub operations: Arc<dyn Operations>,
    /// What the connections and streams of workloads are charged to.
    pub budgets: Budgets,
    /// How the rotations of the authority's keys went.
    pub rotations: Arc<RotationTally>,
    tasks: JoinSet<Result<(), Fatal>>,
    stop: CancellationToken,
}

impl Node {
    /// Builds a node and starts everything but its doors: the publisher of bundles, and the watches of the clock, the
    /// authority, bundle files and configuration files. Needs a tokio runtime.
    #[must_use]
    pub fn build(setup: NodeSetup) -> Self {
        let NodeSetup { parts, active, files, entry_sources, names, readiness, log, sockets, descriptors } = setup;
        let (clock, stop) = (parts.clock.clone(), parts.stop.clone());
        let (authority, audit, level) = (parts.authority.clone(), parts.audit.clone(), parts.attestor.host().level());
        let partners = ForeignBundles::load(&active.federation(), readiness.clone());
        let (mut own, mut foreign) = (authority.bundle(), partners.bundles());
        let bundles = BundleSet::new(None, own.borrow_and_update().clone(), &foreign.borrow_and_update());
        let budgets = Budgets::new(limits(&active.config.limits, descriptors));
        let nothing_yet = Rulebook::new(0, EntryIndex::default(), active.config.rules());
        let node_state = Arc::new(NodeState::new(parts, nothing_yet, bundles, descriptors));
        let entries = Arc::new(FileEntries::new(active.entries(ReloadTrigger::Asked)));
        let owner = Arc::new(RulebookOwner::new(
            node_state.clone(),
            entries,
            entry_sources,
            names.clone(),
            active.config.rules(),
        ));
        let are_followed = files.are_followed;
        let settings = LiveSettings { log, budgets: budgets.clone(), descriptors, authority: authority.clone() };
        let reloader = Arc::new(Reloader::new(files, active, owner.clone(), settings, clock.clone()));
        let operations: Arc<dyn Operations> = Arc::new(Arc::new(AdminService {
            node_state: node_state.clone(),
            reloader: reloader.clone(),
            name_service: names.clone(),
            authority: authority.clone(),
            audit,
            level,
            budgets: budgets.clone(),
            readiness: readiness.clone(),
            names: NamesById::default(),
            clock: clock.clone(),
            started: Instant::now(),
            sockets,
        }));
        let (rotations, tasks) = (Arc::default(), JoinSet::new());
        let mut node = Self { node_state, reloader, operations, budgets, rotations, tasks, stop: stop.clone() };
        node.spawn(follow_bundles(own, foreign, publisher(node.node_state.clone()), stop.clone()));
        node.spawn(notice_steps(node.node_state.clone(), names.clone(), clock.clone(), stop.clone()));
        let watch_bundles = partners.watch_files(node.reloader.federation(), stop.clone());
        let follow_configuration = follow_files(node.reloader.clone(), stop.clone());
        let follow_databases = until_stop(names.clone().follow_databases(), stop.clone());
        if are_followed {
            node.spawn(on_a_thread_of_its_own(watch_bundles));
            node.spawn(on_a_thread_of_its_own(follow_configuration));
            node.spawn(on_a_thread_of_its_own(follow_databases));
        } else {
            node.spawn(watch_bundles);
            node.spawn(follow_databases);
        }
        node.follow_names(&owner, readiness.register("names"));
        for source in owner.others() {
            node.spawn(owner.clone().follow(source, stop.clone()));
        }
        let state = node.node_state.clone();
        node.spawn_until_stop(async move { state.send_orders().await });
        let state = node.node_state.clone();
        node.spawn_until_stop(async move { state.sweep_images().await });
        node.watch_over(authority, clock, &readiness);
        node
    }

    /// Keeps the authority's keys current, and reports when it cannot sign.
    fn watch_over(&mut self, authority: Arc<dyn Authority>, clock: Arc<dyn Clock>, readiness: &Readiness) {
        let (cannot_sign, reason) = (readiness.register("authority"), readiness.register("rotation"));
        let (node_state, rotations) = (self.node_state.clone(), self.rotations.clone());
        let upkeep = Upkeep { authority: authority.clone(), node_state, clock: clock.clone(), reason, rotations };
        upkeep.once();
        check_authority(&*authority, &self.rotations, clock.now(), &cannot_sign);
        self.spawn_until_stop(upkeep.run());
        self.spawn_until_stop(watch_authority(authority, self.rotations.clone(), clock, cannot_sign));
    }

    /// Asks who the users and groups are, decides by every change of them, and reports those that nobody knows.
    fn follow_names(&mut self, owner: &Arc<RulebookOwner>, reason: Reason) {
        let (names, reloader) = (owner.names().clone(), self.reloader.clone());
        self.spawn_until_stop(watch_names(names.clone(), reloader, reason));
        self.spawn_until_stop(async move { names.run().await });
        self.spawn(owner.clone().follow_names(self.stop.clone()));
    }

    /// Serves workloads that come through `acceptor`, on every thread of the runtime.
    pub fn serve<A>(&mut self, acceptor: A, services: Arc<dyn GrpcServices>)
    where
        A: Acceptor<Incoming: IncomingConnection> + 'static,
    {
        let connections = Arc::new(Arc::clone(&self.node_state));
        let (budgets, stop) = (self.budgets.clone(), self.stop.clone());
        let further_threads = 1..tokio::runtime::Handle::current().metrics().num_workers();
        for _ in further_threads {
            self.spawn(budgets.turns().clone().run(stop.clone()));
        }
        self.spawn(accept::serve(acceptor, budgets, stop, Http2 { connections, services }));
    }

    /// Adds a part that ends by itself after the stop.
    pub fn spawn(&mut self, part: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            part.await;
            Ok(())
        });
    }

    /// Adds a part that never ends, and is dropped at the stop.
    pub fn spawn_until_stop(&mut self, part: impl Future<Output = ()> + Send + 'static) {
        self.spawn(until_stop(part, self.stop.clone()));
    }

    /// Runs until the stop, or until a part ends without it.
    ///
    /// # Errors
    /// [`Fatal`] when a part ended although nobody asked.
    pub async fn run_until_stopped(self) -> Result<(), Fatal> {
        run_until_stopped(self.tasks, self.stop, GRACE).await
    }
}

/// Replaces the bundles that are served, and wakes the streams that see a difference.
fn publisher(node_state: Arc<NodeState>) -> impl FnMut(Arc<Bundle>, &BTreeMap<TrustDomain, Arc<Bundle>>) {
    move |own, foreign| {
        let bundles = BundleSet::new(Some(&node_state.bundles()), own, foreign);
        let woken = node_state.replace_bundles(bundles);
        tracing::info!(woken, "bundles changed");
    }
}

/// Calls `publish` with the newest bundles whenever the own or a foreign one changes, until `stop`.
///
/// INVARIANT: a sender that is gone ends its own changes alone; its last bundles stay in use.
async fn follow_bundles(
    mut own: watch::Receiver<Arc<Bundle>>,
    mut foreign: ForeignBundleWatch,
    mut publish: impl FnMut(Arc<Bundle>, &BTreeMap<TrustDomain, Arc<Bundle>>),
    stop: CancellationToken,
) {
    let (mut own_goes_on, mut foreign_goes_on) = (true, true);
    loop {
        let goes_on = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = own.changed(), if own_goes_on => {
                own_goes_on = changed.is_ok();
                own_goes_on
            }
            changed = foreign.changed(), if foreign_goes_on => {
                foreign_goes_on = changed.is_ok();
                foreign_goes_on
            }
        };
        if goes_on {
            publish(own.borrow_and_update().clone(), &foreign.borrow_and_update());
        }
    }
}

async fn notice_steps(
    node_state: Arc<NodeState>,
    names: Arc<NameService>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let noticed = |what: &str| {
        names.ask_again();
        let woken = node_state.clock_stepped();
        tracing::warn!(woken, what, "clock stepped; re-evaluating all streams");
    };
    watch_clock(clock, noticed, stop).await;
}

/// Runs a part that never ends, and drops it at the stop.
async fn until_stop(part: impl Future<Output = ()>, stop: CancellationToken) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = part => {}
    }
}

/// Runs a part that may wait for a file system as long as that likes: the few threads that serve must not.
async fn on_a_thread_of_its_own(part: impl Future<Output = ()> + Send + 'static) {
    let runtime = Handle::current();
    if let Err(ended) = tokio::task::spawn_blocking(move || runtime.block_on(part)).await
        && let Ok(panic) = ended.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    fn bundle(sequence: u64) -> Arc<Bundle> {
        Arc::new(Bundle { sequence: Some(sequence), ..Bundle::empty("example.org".parse().unwrap()) })
    }

    /// What is published by [`follow_bundles`]: the own sequence number, and how many foreign bundles there are.
    struct Published(mpsc::UnboundedReceiver<(Option<u64>, usize)>);

    impl Published {
        fn of(own: watch::Receiver<Arc<Bundle>>, foreign: ForeignBundleWatch, stop: CancellationToken) -> Self {
            let (send, published) = mpsc::unbounded_channel();
            let publish = move |own: Arc<Bundle>, foreign: &BTreeMap<_, _>| {
                send.send((own.sequence, foreign.len())).unwrap();
            };
            tokio::spawn(follow_bundles(own, foreign, publish, stop));
            Self(published)
        }

        async fn next(&mut self) -> Option<(Option<u64>, usize)> {
            timeout(Duration::from_secs(1), self.0.recv()).await.expect("published within a second")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn own_bundles_are_published_after_the_foreign_sender_is_gone() {
        let (own, foreign) = (watch::Sender::new(bundle(1)), watch::Sender::new(Arc::default()));
        let mut published = Published::of(own.subscribe(), foreign.subscribe(), CancellationToken::new());
        drop(foreign);
        for sequence in [2, 3] {
            own.send_replace(bundle(sequence));
            assert_eq!(published.next().await, Some((Some(sequence), 0)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn foreign_bundles_are_published_after_the_own_sender_is_gone() {
        let (own, foreign) = (watch::Sender::new(bundle(1)), watch::Sender::new(Arc::default()));
        let mut published = Published::of(own.subscribe(), foreign.subscribe(), CancellationToken::new());
        drop(own);
        foreign.send_replace(Arc::new([("partner.test".parse().unwrap(), bundle(7))].into()));
        assert_eq!(published.next().await, Some((Some(1), 1)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_publisher_ends_with_the_stop_and_not_with_its_senders() {
        let (own, foreign) = (watch::Sender::new(bundle(1)), watch::Sender::new(Arc::default()));
        let stop = CancellationToken::new();
        let mut published = Published::of(own.subscribe(), foreign.subscribe(), stop.clone());
        drop((own, foreign));
        assert!(timeout(Duration::from_secs(60), published.0.recv()).await.is_err(), "it ended early");
        stop.cancel();
        assert_eq!(published.next().await, None);
    }
}
