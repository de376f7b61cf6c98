//! A node without the machine under it: from a door to the last stream, with the tasks that keep it true. The daemon
//! puts it on the kernel, a disk and sockets; a test on models of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::agent::lifecycle::Fatal;
use crate::agent::watches::clock::watch_clock;
use crate::attestation::Attestor;
use crate::attestation::kernel::Host;
use crate::audit;
use crate::authority::Authority;
use crate::endpoints::transport::accept;
use crate::endpoints::transport::accept::Transport;
use crate::endpoints::transport::acceptor::Acceptor;
use crate::endpoints::transport::budgets::Budgets;
use crate::entitlement::node_state::NodeState;
use crate::entitlement::node_state::Parts;
use crate::entitlement::published::BundleSet;
use crate::identity::Bundle;
use crate::identity::TrustDomain;
use crate::policy::Rulebook;
use crate::randomness::Randomness;
use crate::time::Clock;

/// The bundles of foreign trust domains, as they are now.
pub type ForeignBundleWatch = watch::Receiver<Arc<BTreeMap<TrustDomain, Arc<Bundle>>>>;

/// What a node stands on.
#[derive(Debug)]
pub struct Ground {
    /// Whom callers are compared with.
    pub host: Arc<dyn Host>,
    /// Who signs.
    pub authority: Arc<dyn Authority>,
    /// Whom else it believes.
    pub foreign: ForeignBundleWatch,
    /// Where records go.
    pub audit: Arc<dyn audit::Sink>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Serials, names and jitter.
    pub randomness: Arc<dyn Randomness>,
    /// Stops it.
    pub stop: CancellationToken,
}

/// A node and its tasks. None of them ends before `stop`, unless something is wrong.
#[derive(Debug)]
pub struct Node {
    /// The callers' shared state.
    pub node_state: Arc<NodeState>,
    /// Everything that runs.
    pub tasks: JoinSet<Result<(), Fatal>>,
    stop: CancellationToken,
}

impl Node {
    /// Begins to keep bundles and clock in view. Needs a tokio runtime.
    #[must_use]
    pub fn new(ground: Ground, rulebook: Rulebook) -> Self {
        let Ground { host, authority, mut foreign, audit, clock, randomness, stop } = ground;
        let mut own = authority.bundle();
        let bundles = BundleSet::new(None, own.borrow_and_update().clone(), &foreign.borrow_and_update());
        let attestor = Attestor::new(host);
        let parts = Parts { attestor, authority, audit, clock: clock.clone(), randomness, stop: stop.clone() };
        let node_state = Arc::new(NodeState::new(parts, rulebook, bundles));
        let mut node = Self { node_state, tasks: JoinSet::new(), stop };
        node.run(publish(node.node_state.clone(), own, foreign, node.stop.clone()));
        let (issuing, stopped) = (node.node_state.clone(), node.stop.clone());
        node.run(async move { stopped.run_until_cancelled(issuing.issuer().run()).await.unwrap_or_default() });
        node.run(notice_steps(node.node_state.clone(), clock, node.stop.clone()));
        node
    }

    /// Serves workloads that come through `door`.
    pub fn serve(&mut self, door: impl Acceptor + 'static, routes: Routes, budgets: Budgets) {
        let connections = Arc::new(Arc::clone(&self.node_state));
        let transport = Transport { connections, routes, budgets, stop: self.stop.clone() };
        self.run(accept::serve(door, transport));
    }

    /// Adds a part that runs until `stop`.
    pub fn run(&mut self, part: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            part.await;
            Ok(())
        });
    }
}

/// Keeps the board what the authority and the partners publish.
async fn publish(
    node_state: Arc<NodeState>,
    mut own: watch::Receiver<Arc<Bundle>>,
    mut foreign: ForeignBundleWatch,
    stop: CancellationToken,
) {
    loop {
        let changed = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = own.changed() => changed,
            changed = foreign.changed() => changed,
        };
        if changed.is_err() {
            return stop.cancelled().await; // whoever published is gone; the last board stays
        }
        let before = node_state.bundles();
        let bundles = BundleSet::new(Some(&before), own.borrow_and_update().clone(), &foreign.borrow_and_update());
        let woken = node_state.replace_bundles(bundles);
        tracing::info!(woken, "bundles changed");
    }
}

async fn notice_steps(node_state: Arc<NodeState>, clock: Arc<dyn Clock>, stop: CancellationToken) {
    let noticed = |what: &str| {
        let woken = node_state.clock_stepped();
        tracing::warn!(woken, what, "everything that rests on the time is looked at again");
    };
    watch_clock(clock, noticed, stop).await;
}
