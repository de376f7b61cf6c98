//! Issuance by a remote signer, whose calls take time and no core.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::authority::Token;
use crate::authority::TokenOrder;
use crate::evidence::Principal;
use crate::fairness::Ticket;
use crate::issuance::context::Draft;
use crate::issuance::context::IssuanceContext;
use crate::issuance::context::unanswered;
use crate::issuance::issue_error::IssueError;
use crate::issuance::order_queue::OrderQueue;
use crate::issuance::order_queue::QueuedOrder;
use crate::issuance::order_queue::Recipient;
use crate::issuance::svid_cache::Renewal;
use crate::issuance::svid_cache::SignedSvid;
use crate::policy::Permit;

/// The time limit of a call.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(10);

/// A remote signer with its queue.
#[derive(Debug)]
pub(super) struct RemoteSigner {
    queue: OrderQueue,
}

impl RemoteSigner {
    pub(super) fn new(max_batch: usize) -> Self {
        Self { queue: OrderQueue::new(max_batch) }
    }

    /// Waits for a place in the queue that is charged to `principal`.
    pub(super) async fn enter(&self, principal: Principal) -> Ticket {
        self.queue.enter(principal).await
    }

    /// Has an SVID signed for one caller.
    pub(super) async fn sign(
        &self,
        context: &IssuanceContext,
        principal: Principal,
        permit: &Permit,
    ) -> Result<SignedSvid, IssueError> {
        let place = self.enter(principal).await;
        let draft = {
            let _turn = context.cores.enter(principal).await;
            context.check(permit)?;
            Draft::new(permit)?
        };
        let (caller, answer) = oneshot::channel();
        self.queue.push(QueuedOrder { draft, recipient: Recipient::Caller(caller), place });
        answer.await.unwrap_or_else(|_| Err(unanswered().into()))
    }

    /// Queues the renewal of a shared SVID.
    pub(super) fn renew(&self, draft: Draft, renewal: Renewal, place: Ticket) {
        self.queue.push(QueuedOrder { draft, recipient: Recipient::Sharers(renewal), place });
    }

    /// Has a token signed.
    pub(super) async fn token(&self, context: &IssuanceContext, order: TokenOrder) -> Result<Token, IssueError> {
        let answer = timeout(CALL_LIMIT, context.authority.jwt(order)).await;
        Ok(answer.unwrap_or_else(|_| Err(unanswered()))?)
    }

    /// Sends the queued orders. Never ends.
    pub(super) async fn run(&self, context: &IssuanceContext) {
        self.queue.run(|batch| call(context, batch)).await;
    }
}

/// Makes one call and passes each answer to its receiver.
async fn call(context: &IssuanceContext, batch: Vec<QueuedOrder>) {
    let issued = context.clock.now();
    let orders = batch.iter().map(|queued| queued.draft.order(issued)).collect();
    let answers = timeout(CALL_LIMIT, context.authority.x509(orders)).await;
    let mut answers = answers.unwrap_or_default().into_iter();
    for QueuedOrder { draft, recipient, place: _until_it_is_answered } in batch {
        let chain = answers.next().unwrap_or_else(|| Err(unanswered()));
        let id = draft.grant.id.clone();
        let signed = chain.map_err(IssueError::from).and_then(|chain| context.signed(draft, issued, chain));
        match recipient {
            // The send fails if the caller has gone. Then the SVID was not handed out, and is dropped.
            Recipient::Caller(caller) => drop(caller.send(signed)),
            Recipient::Sharers(renewal) => {
                let failed = signed.as_ref().err().map(ToString::to_string);
                let earlier_is_served = renewal.finish(signed, context.clock.now(), context.spread());
                if let Some(why) = failed.filter(|_| earlier_is_served) {
                    context.metrics.count_failed();
                    tracing::warn!(why, %id, "renewal failed; the earlier SVID is served until its end");
                }
            }
        }
    }
}
