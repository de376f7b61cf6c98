//! Issuance by a local signer: all connections of a process image share an SVID per entry, and one of them renews it.

use std::sync::Arc;
use std::time::SystemTime;

use crate::evidence::Principal;
use crate::issuance::context::Draft;
use crate::issuance::context::IssuanceContext;
use crate::issuance::context::unanswered;
use crate::issuance::entry_key::EntriesInForce;
use crate::issuance::issuance::IssuanceId;
use crate::issuance::issue_error::IssueError;
use crate::issuance::svid_cache::Next;
use crate::issuance::svid_cache::SharedSvid;
use crate::issuance::svid_cache::SignedSvid;
use crate::issuance::svid_cache::SvidCache;
use crate::issuance::svid_cache::SvidKey;
use crate::policy::Permit;

/// The SVIDs of one process image. Whoever keeps the images drops it with them, and the keys with it.
#[derive(Debug, Default)]
pub struct ImageSvids(SvidCache);

/// Whom an X509-SVID is issued for.
#[derive(Debug, Clone, Copy)]
pub struct Holder<'a> {
    /// Whom the work is charged to.
    pub principal: Principal,
    /// The SVIDs of its process image.
    pub svids: &'a ImageSvids,
    /// The issuances that it was handed already.
    pub held: &'a [IssuanceId],
}

impl ImageSvids {
    /// Drops the SVIDs of other entries.
    pub fn retain(&self, in_force: &EntriesInForce) {
        self.0.retain(in_force);
    }

    /// Drops expired SVIDs that no caller renews.
    pub fn drop_ended(&self, now: SystemTime) {
        self.0.drop_ended(now);
    }
}

/// The SVID of the permit's entry and when it is due, after renewing it if that is due now.
///
/// If the renewal fails, whoever holds the earlier SVID is told so, and tries again by its own count of failures; whoever
/// has none yet gets the earlier one until its end.
pub(super) async fn svid(
    context: &IssuanceContext,
    holder: Holder<'_>,
    permit: &Permit,
) -> Result<(Arc<SharedSvid>, SystemTime), IssueError> {
    let (cache, key) = (&holder.svids.0, SvidKey::of(permit.grant()));
    if let Some(current) = cache.current(&key, &context.circumstances()) {
        return Ok(current);
    }
    match renew(context, holder, permit, &key).await {
        Err(why) if why != IssueError::StalePermit => {
            let at = context.circumstances();
            let earlier = cache.servable(&key, &at).filter(|svid| !holder.held.contains(&svid.signed.issuance.id));
            earlier.map(|svid| (svid, at.now)).ok_or(why)
        }
        renewed => renewed,
    }
}

/// Renews an SVID, or waits for the renewal that another connection of the image began.
async fn renew(
    context: &IssuanceContext,
    holder: Holder<'_>,
    permit: &Permit,
    key: &SvidKey,
) -> Result<(Arc<SharedSvid>, SystemTime), IssueError> {
    loop {
        let mut underway = {
            let _turn = context.cores.enter(holder.principal).await;
            match holder.svids.0.next(key, &context.circumstances(), || context.check(permit))? {
                Next::Take(svid, due) => return Ok((svid, due)),
                Next::Await(underway) => underway,
                Next::Renew(renewal) => {
                    let underway = renewal.subscribe();
                    match sign(context, permit).await {
                        // Only the next try after a failure is scattered.
                        Ok(signed) => drop(renewal.finish(Ok(signed), context.clock.now(), 0.5)),
                        Err(why) => renewal.fail(why),
                    }
                    underway
                }
            }
        };
        // Without an answer whoever renewed it has gone in the middle: then this caller does.
        if let Ok(renewed) = underway.wait_for(Option::is_some).await.map(|renewed| renewed.clone()) {
            let svid = renewed.unwrap_or_else(|| Err(unanswered().into()))?;
            // RACE: its key was tainted after it was signed: then the next one signs.
            if svid.signed.issuance.is_of(&context.authority.tainted()) {
                continue;
            }
            let due = svid.signed.renew_at;
            return Ok((svid, due));
        }
    }
}

async fn sign(context: &IssuanceContext, permit: &Permit) -> Result<SignedSvid, IssueError> {
    let (draft, issued) = (Draft::new(permit)?, context.clock.now());
    let mut answers = context.authority.x509(vec![draft.order(issued)]).await;
    let chain = answers.pop().unwrap_or_else(|| Err(unanswered()))?;
    context.signed(draft, issued, chain)
}
