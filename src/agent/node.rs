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
use crate::endpoints::transport::acceptor::Acceptor;
use crate::endpoints::transport::acceptor::IncomingConnection;
use crate::endpoints::transport::budgets::Budgets;
use crate::endpoints::transport::http2::Http2;
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
        let attestor = Attestor::new(host, Vec::new());
        let parts = Parts { attestor, authority, audit, clock: clock.clone(), randomness, stop: stop.clone() };
        let node_state = Arc::new(NodeState::new(parts, rulebook, bundles));
        let mut node = Self { node_state, tasks: JoinSet::new(), stop };
        let published = node.node_state.clone();
        let publish = move |own, foreign: &BTreeMap<_, _>| {
            let bundles = BundleSet::new(Some(&published.bundles()), own, foreign);
            let woken = published.replace_bundles(bundles);
            tracing::info!(woken, "bundles changed");
        };
        node.run(follow_bundles(own, foreign, publish, node.stop.clone()));
        node.run(notice_steps(node.node_state.clone(), clock, node.stop.clone()));
        node
    }

    /// Serves the workloads that `acceptor` accepts.
    pub fn serve<A>(&mut self, acceptor: A, routes: Routes, budgets: Budgets)
    where
        A: Acceptor<Incoming: IncomingConnection> + 'static,
    {
        let connections = Arc::new(Arc::clone(&self.node_state));
        self.run(accept::serve(acceptor, budgets, self.stop.clone(), Http2 { connections, routes }));
    }

    /// Adds a part that runs until `stop`.
    pub fn run(&mut self, part: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            part.await;
            Ok(())
        });
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

async fn notice_steps(node_state: Arc<NodeState>, clock: Arc<dyn Clock>, stop: CancellationToken) {
    let noticed = |what: &str| {
        let woken = node_state.clock_stepped();
        tracing::warn!(woken, what, "clock stepped; re-evaluating all streams");
    };
    watch_clock(clock, noticed, stop).await;
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
