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
use crate::endpoints::transport::budgets::Budgets;
use crate::endpoints::transport::door::Door;
use crate::entitlement::entitlements::Entitlements;
use crate::entitlement::entitlements::Parts;
use crate::entitlement::entitlements::Rulebook;
use crate::entitlement::published::Board;
use crate::identity::Bundle;
use crate::identity::TrustDomain;
use crate::randomness::Randomness;
use crate::time::Clock;

/// The bundles of foreign trust domains, as they are now.
pub type ForeignBoard = watch::Receiver<Arc<BTreeMap<TrustDomain, Arc<Bundle>>>>;

/// What a node stands on.
#[derive(Debug)]
pub struct Ground {
    /// Whom callers are compared with.
    pub host: Arc<dyn Host>,
    /// Who signs.
    pub authority: Arc<dyn Authority>,
    /// Whom else it believes.
    pub foreign: ForeignBoard,
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
    pub entitlements: Arc<Entitlements>,
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
        let board = Board::new(None, own.borrow_and_update().clone(), &foreign.borrow_and_update());
        let attestor = Attestor::new(host);
        let parts = Parts { attestor, authority, audit, clock: clock.clone(), randomness, stop: stop.clone() };
        let entitlements = Arc::new(Entitlements::new(parts, rulebook, board));
        let mut node = Self { entitlements, tasks: JoinSet::new(), stop };
        node.run(publish(node.entitlements.clone(), own, foreign, node.stop.clone()));
        node.run(notice_steps(node.entitlements.clone(), clock, node.stop.clone()));
        node
    }

    /// Serves workloads that come through `door`.
    pub fn serve(&mut self, door: impl Door + 'static, routes: Routes, budgets: Budgets) {
        let callers = Arc::new(Arc::clone(&self.entitlements));
        let transport = Transport { callers, routes, budgets, stop: self.stop.clone() };
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
    entitlements: Arc<Entitlements>,
    mut own: watch::Receiver<Arc<Bundle>>,
    mut foreign: ForeignBoard,
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
        let before = entitlements.board();
        let board = Board::new(Some(&before), own.borrow_and_update().clone(), &foreign.borrow_and_update());
        let woken = entitlements.replace_board(board);
        tracing::info!(woken, "bundles changed");
    }
}

async fn notice_steps(entitlements: Arc<Entitlements>, clock: Arc<dyn Clock>, stop: CancellationToken) {
    let noticed = |what: &str| {
        let woken = entitlements.clock_stepped();
        tracing::warn!(woken, what, "everything that rests on the time is looked at again");
    };
    watch_clock(clock, noticed, stop).await;
}
