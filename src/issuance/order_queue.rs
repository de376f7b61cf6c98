//! The queue in front of a remote signer: collects orders into batches and limits the calls in flight.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::stream::StreamExt;
use tokio::sync::Notify;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio::time::sleep_until;

use crate::evidence::Principal;
use crate::fairness::FairPool;
use crate::fairness::Ticket;
use crate::issuance::context::Draft;
use crate::issuance::issue_error::IssueError;
use crate::issuance::svid_cache::Renewal;
use crate::issuance::svid_cache::SignedSvid;

/// Calls in flight at once.
const CALLS: usize = 4;
/// Upper limit of the orders in a call.
const MAX_BATCH: usize = 10_000;
/// How long a partial batch waits for more orders while no call is in flight. Streams that open at once fit into it, and a
/// round trip takes longer.
const LINGER: Duration = Duration::from_millis(2);
/// How long a partial batch waits while a call is in flight: about a round trip.
const BUSY_LINGER: Duration = Duration::from_millis(20);

/// One order that waits for a call.
#[derive(Debug)]
pub(super) struct QueuedOrder {
    pub(super) draft: Draft,
    pub(super) recipient: Recipient,
    /// Its place among the orders that are queued or in flight.
    pub(super) place: Ticket,
}

/// The receiver of an answer.
#[derive(Debug)]
pub(super) enum Recipient {
    /// One caller.
    Caller(oneshot::Sender<Result<SignedSvid, IssueError>>),
    /// All callers of an entry.
    Sharers(Renewal),
}

/// The orders of all callers.
#[derive(Debug)]
pub(super) struct OrderQueue {
    max_batch: usize,
    places: FairPool,
    orders: Mutex<VecDeque<(Instant, QueuedOrder)>>,
    arrived: Notify,
}

impl OrderQueue {
    /// A queue for calls of at most `max_batch` orders. It has a place for each order of the calls in flight; one principal
    /// can take half of them.
    pub(super) fn new(max_batch: usize) -> Self {
        let max_batch = max_batch.clamp(1, MAX_BATCH);
        let places = max_batch.saturating_mul(CALLS);
        let places = FairPool::new(places, places / 2);
        Self { max_batch, places, orders: Mutex::default(), arrived: Notify::new() }
    }

    /// Waits for a place that is charged to `principal`.
    pub(super) async fn enter(&self, principal: Principal) -> Ticket {
        self.places.enter(principal).await
    }

    /// Queues an order. [`Self::run`] sends it.
    pub(super) fn push(&self, order: QueuedOrder) {
        self.orders().push_back((Instant::now(), order));
        self.arrived.notify_one();
    }

    /// Sends batches with `call`, which answers each order. Never ends.
    pub(super) async fn run<F: Future<Output = ()>>(&self, call: impl Fn(Vec<QueuedOrder>) -> F) {
        let mut calls = FuturesUnordered::new();
        loop {
            let due = self.due(calls.len());
            tokio::select! {
                biased;
                Some(()) = calls.next() => {}
                () = self.arrived.notified() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    let batch = self.take_batch();
                    if !batch.is_empty() {
                        calls.push(call(batch));
                    }
                }
            }
        }
    }

    /// When the next batch is sent; `None` without orders, or with the most calls in flight.
    fn due(&self, calls: usize) -> Option<Instant> {
        let orders = self.orders();
        let (oldest, _) = orders.front().filter(|_| calls < CALLS)?;
        Some(match calls {
            _ if orders.len() >= self.max_batch => *oldest,
            0 => *oldest + LINGER,
            _ => *oldest + BUSY_LINGER,
        })
    }

    /// Takes the oldest orders, without those whose caller has gone.
    fn take_batch(&self) -> Vec<QueuedOrder> {
        let mut orders = self.orders();
        orders.retain(|(_, order)| order.is_awaited());
        let batch = self.max_batch.min(orders.len());
        orders.drain(..batch).map(|(_, order)| order).collect()
    }

    fn orders(&self) -> MutexGuard<'_, VecDeque<(Instant, QueuedOrder)>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueuedOrder {
    /// A shared renewal continues after the caller that began it has gone.
    fn is_awaited(&self) -> bool {
        match &self.recipient {
            Recipient::Caller(caller) => !caller.is_closed(),
            Recipient::Sharers(_) => true,
        }
    }
}
