//! The issuer: the only place where a permit becomes a credential.
//!
//! A local signer uses a core, so key generation and signature run under a turn. A remote signer uses round trips, so the
//! turn covers key generation alone, and orders are sent in batches.

use std::fmt;
use std::sync::Arc;

use crate::authority::Authority;
use crate::authority::KeySharing;
use crate::authority::SignerLocation;
use crate::authority::Token;
use crate::evidence::Principal;
use crate::fairness::FairPool;
use crate::identity::JwtSvid;
use crate::issuance::context::CurrentEpoch;
use crate::issuance::context::IssuanceContext;
use crate::issuance::entry_key::EntriesInForce;
use crate::issuance::image_svids;
use crate::issuance::image_svids::Holder;
use crate::issuance::issuance::CredentialKind;
use crate::issuance::issuance::Issuance;
use crate::issuance::issuance::IssuedJwtSvid;
use crate::issuance::issuance::IssuedX509Svid;
use crate::issuance::issue_error::IssueError;
use crate::issuance::metrics::IssuanceMetrics;
use crate::issuance::remote_signer::RemoteSigner;
use crate::issuance::renewal;
use crate::issuance::shared_svids::SharedSvids;
use crate::issuance::svid_cache::SignedSvid;
use crate::policy::Permit;
use crate::randomness::Randomness;
use crate::time::Clock;

/// Turns permits into SVIDs.
pub struct Issuer {
    pub(super) context: IssuanceContext,
    route: Route,
}

/// How an X509-SVID comes about.
enum Route {
    /// The local signer signs for all connections of a process image.
    Local,
    /// A remote signer signs for one caller.
    Remote(RemoteSigner),
    /// A remote signer signs for all callers of an entry.
    Shared(SharedSvids),
}

impl Issuer {
    /// An issuer that uses all cores at once, and one less for any one principal.
    pub fn new(
        authority: Arc<dyn Authority>,
        current_epoch: CurrentEpoch,
        clock: Arc<dyn Clock>,
        randomness: Arc<dyn Randomness>,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let cores = FairPool::new(cores, cores.saturating_sub(1));
        let route = match authority.location() {
            SignerLocation::Local => Route::Local,
            SignerLocation::Remote { max_batch, key_sharing } => match key_sharing {
                KeySharing::PerImage => Route::Remote(RemoteSigner::new(max_batch)),
                KeySharing::PerEntry => Route::Shared(SharedSvids::new(RemoteSigner::new(max_batch))),
            },
        };
        let metrics = IssuanceMetrics::default();
        Self { context: IssuanceContext { authority, current_epoch, clock, randomness, cores, metrics }, route }
    }

    /// Its counters.
    pub fn metrics(&self) -> &IssuanceMetrics {
        &self.context.metrics
    }

    /// Sends orders to a remote signer; no such order is answered unless this runs. Never ends.
    pub async fn run(&self) {
        match &self.route {
            Route::Local => std::future::pending().await,
            Route::Remote(signer) => signer.run(&self.context).await,
            Route::Shared(svids) => svids.run(&self.context).await,
        }
    }

    /// Drops the state of other entries. The node calls it after each change of the rulebook.
    pub fn retain(&self, in_force: &EntriesInForce) {
        self.metrics().retain(in_force);
        if let Route::Shared(svids) = &self.route {
            svids.retain(in_force);
        }
    }

    /// Issues an X509-SVID, or hands out the one that the holder's process image has; where the authority has one key per
    /// entry, the one that the entry has. Waits for a turn of the holder's principal.
    ///
    /// # Errors
    /// [`IssueError`]
    pub async fn x509_svid(&self, holder: Holder<'_>, permit: Permit) -> Result<IssuedX509Svid, IssueError> {
        let shared = match &self.route {
            Route::Local => image_svids::svid(&self.context, holder, &permit).await,
            Route::Shared(svids) => svids.svid(&self.context, holder.principal, &permit).await,
            Route::Remote(signer) => {
                let signed = signer.sign(&self.context, holder.principal, &permit).await;
                let SignedSvid { issuance, svid, renew_at } = self.unless_stale(signed, &permit)?;
                return Ok(IssuedX509Svid { issuance, svid, renew_at, first: true });
            }
        };
        let (shared, due) = self.unless_stale(shared, &permit)?;
        let SignedSvid { issuance, mut svid, .. } = shared.signed.clone();
        svid.hint.clone_from(&permit.grant().hint);
        let renew_at = renewal::ask_again_at(due, self.context.clock.now());
        Ok(IssuedX509Svid { issuance, svid, renew_at, first: shared.hand_over() })
    }

    /// Signs a new JWT-SVID for `audiences`. Waits for a turn of `principal`.
    ///
    /// # Errors
    /// [`IssueError`]
    pub async fn jwt_svid(
        &self,
        principal: Principal,
        permit: Permit,
        audiences: Vec<String>,
    ) -> Result<IssuedJwtSvid, IssueError> {
        self.unless_stale(self.sign_token(principal, &permit, audiences).await, &permit)
    }

    /// Turns a result into an error if the rulebook changed while it was signed.
    fn unless_stale<T>(&self, issued: Result<T, IssueError>, permit: &Permit) -> Result<T, IssueError> {
        let issued = issued.and_then(|issued| self.context.check(permit).map(|()| issued));
        issued.inspect_err(|why| {
            if !matches!(why, IssueError::StalePermit) {
                self.metrics().count_failed();
            }
        })
    }

    async fn sign_token(
        &self,
        principal: Principal,
        permit: &Permit,
        audiences: Vec<String>,
    ) -> Result<IssuedJwtSvid, IssueError> {
        let (context, grant) = (&self.context, permit.grant());
        let remote = match &self.route {
            Route::Local => None,
            Route::Remote(signer) | Route::Shared(SharedSvids { signer, .. }) => Some(signer),
        };
        let _turn = match remote {
            None => context.cores.enter(principal).await,
            Some(signer) => signer.enter(principal).await,
        };
        context.check(permit)?;
        let (order, id) = context.token_order(grant, audiences)?;
        let token_id = order.token_id.clone();
        let Token { compact, not_after, clamped } = match remote {
            None => context.authority.jwt(order).await?,
            Some(signer) => signer.token(context, order).await?,
        };
        let issuance = Arc::new(Issuance {
            id,
            kind: CredentialKind::Jwt,
            spiffe_id: grant.id.clone(),
            serial: token_id.clone(),
            signed_by: None,
            not_after,
            entry: grant.entry.origin.clone(),
            decision: permit.decision(),
        });
        context.metrics.count_issued(clamped);
        context.metrics.count_token(&grant.entry, || context.check(permit).is_ok());
        let svid = JwtSvid { id: grant.id.clone(), token: compact, hint: grant.hint.clone(), token_id, not_after };
        Ok(IssuedJwtSvid { issuance, svid })
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("authority", &self.context.authority).finish_non_exhaustive()
    }
}
