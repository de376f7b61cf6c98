//! Issuing where an authority has one key per entry: callers share an SVID, and one of them has it renewed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use tokio::time::interval;
use tokio::time::timeout;

use crate::evidence::Principal;
use crate::issuance::context::Draft;
use crate::issuance::context::IssuanceContext;
use crate::issuance::context::unanswered;
use crate::issuance::entry_key::EntryKey;
use crate::issuance::issue_error::IssueError;
use crate::issuance::remote_signer::CALL_LIMIT;
use crate::issuance::remote_signer::RemoteSigner;
use crate::issuance::svid_cache::Next;
use crate::issuance::svid_cache::SharedSvid;
use crate::issuance::svid_cache::SvidCache;
use crate::issuance::svid_cache::SvidKey;
use crate::policy::Permit;

/// How long a renewal may hold up a caller who could be served the earlier SVID.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often SVIDs that have ended are dropped.
const SWEEP: Duration = Duration::from_secs(60);

/// The SVIDs of all entries, and who signs them.
#[derive(Debug)]
pub(super) struct SharedSvids {
    pub(super) signer: RemoteSigner,
    cache: SvidCache,
}

impl SharedSvids {
    pub(super) fn new(signer: RemoteSigner) -> Self {
        Self { signer, cache: SvidCache::default() }
    }

    /// The SVID of the permit's entry, renewed first where that is due, and when to ask again. Where the renewal fails, or
    /// takes long, the earlier SVID is served until its own end.
    pub(super) async fn svid(
        &self,
        context: &IssuanceContext,
        principal: Principal,
        permit: &Permit,
    ) -> Result<(Arc<SharedSvid>, SystemTime), IssueError> {
        let grant = permit.grant();
        let key = SvidKey { entry: EntryKey(Arc::clone(&grant.entry)), id: grant.id.clone() };
        let begun = context.clock.now();
        if let Some(current) = self.cache.current(&key, begun) {
            return Ok(current);
        }
        let renewed = self.renew(context, principal, permit, &key);
        if self.cache.servable(&key, begun).is_none() {
            return renewed.await;
        }
        let renewed = timeout(PATIENCE, renewed).await;
        let now = context.clock.now();
        match renewed {
            Ok(Ok(renewed)) => Ok(renewed),
            Ok(Err(why)) => self.cache.current(&key, now).ok_or(why),
            Err(_) => Ok((self.cache.servable(&key, now).ok_or_else(unanswered)?, now + CALL_LIMIT)),
        }
    }

    /// Drops the SVIDs of all other entries.
    pub(super) fn retain(&self, in_force: &HashSet<EntryKey>) {
        self.cache.retain(in_force);
    }

    /// Sends what is ordered, and drops what has ended. Never ends.
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

    /// Has an SVID renewed, or waits for whoever does already.
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
            match self.cache.next(key, context.clock.now(), || context.check(permit))? {
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
