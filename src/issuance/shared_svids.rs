//! Issuance with one key per entry: callers share an SVID, and one of them renews it.

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use tokio::time::interval;
use tokio::time::timeout;

use crate::evidence::Principal;
use crate::issuance::context::Draft;
use crate::issuance::context::IssuanceContext;
use crate::issuance::context::unanswered;
use crate::issuance::entry_key::EntriesInForce;
use crate::issuance::issue_error::IssueError;
use crate::issuance::remote_signer::CALL_LIMIT;
use crate::issuance::remote_signer::RemoteSigner;
use crate::issuance::svid_cache::Next;
use crate::issuance::svid_cache::SharedSvid;
use crate::issuance::svid_cache::SvidCache;
use crate::issuance::svid_cache::SvidKey;
use crate::policy::Permit;

/// How long a caller waits for a renewal before it gets the earlier SVID.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often expired SVIDs are dropped.
const SWEEP: Duration = Duration::from_secs(60);

/// The SVIDs of all entries, with their signer.
#[derive(Debug)]
pub(super) struct SharedSvids {
    pub(super) signer: RemoteSigner,
    cache: SvidCache,
}

impl SharedSvids {
    pub(super) fn new(signer: RemoteSigner) -> Self {
        Self { signer, cache: SvidCache::default() }
    }

    /// Returns the SVID of the permit's entry and when to ask again, after renewing it if that is due. If the renewal fails
    /// or takes too long, the earlier SVID is served until its own end.
    pub(super) async fn svid(
        &self,
        context: &IssuanceContext,
        principal: Principal,
        permit: &Permit,
    ) -> Result<(Arc<SharedSvid>, SystemTime), IssueError> {
        let key = SvidKey::of(permit.grant());
        let begun = context.circumstances();
        if let Some(current) = self.cache.current(&key, &begun) {
            return Ok(current);
        }
        let renewed = async {
            match self.renew(context, principal, permit, &key).await {
                // RACE: its key was tainted after it was signed.
                Ok((svid, _)) if svid.signed.issuance.is_of(&context.authority.tainted()) => {
                    self.renew(context, principal, permit, &key).await
                }
                renewed => renewed,
            }
        };
        if self.cache.servable(&key, &begun).is_none() {
            return renewed.await;
        }
        let renewed = timeout(PATIENCE, renewed).await;
        let at = context.circumstances();
        match renewed {
            Ok(Ok(renewed)) => Ok(renewed),
            Ok(Err(why)) => self.cache.current(&key, &at).ok_or(why),
            Err(_) => Ok((self.cache.servable(&key, &at).ok_or_else(unanswered)?, at.now + CALL_LIMIT)),
        }
    }

    /// Drops the SVIDs of other entries.
    pub(super) fn retain(&self, in_force: &EntriesInForce) {
        self.cache.retain(in_force);
    }

    /// Sends the queued orders and drops expired SVIDs. Never ends.
    pub(super) async fn run(&self, context: &IssuanceContext) {
        let sweep = async {
            let mut ticks = interval(SWEEP);
            loop {
                ticks.tick().await;
                self.cache.drop_ended(context.clock.now());
            }
        };
        tokio::join!(self.signer.run(context), sweep);
    }

    /// Renews an SVID, or waits for the renewal that another caller began.
    async fn renew(
        &self,
        context: &IssuanceContext,
        principal: Principal,
        permit: &Permit,
        key: &SvidKey,
    ) -> Result<(Arc<SharedSvid>, SystemTime), IssueError> {
        let mut underway = {
            let place = self.signer.enter(principal).await;
            let _turn = context.cores.enter(principal).await;
            match self.cache.next(key, &context.circumstances(), || context.check(permit))? {
                Next::Take(svid, due) => return Ok((svid, due)),
                Next::Await(underway) => underway,
                Next::Renew(renewal) => {
                    let underway = renewal.subscribe();
                    self.signer.renew(Draft::new(permit)?, renewal, place);
                    underway
                }
            }
        };
        let renewed = underway.wait_for(Option::is_some).await.ok().and_then(|renewed| renewed.clone());
        let svid = renewed.unwrap_or_else(|| Err(unanswered().into()))?;
        let due = svid.signed.renew_at;
        Ok((svid, due))
    }
}
