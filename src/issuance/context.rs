//! The parts that local and remote issuance share: authority, clock, random bytes, cores, metrics, and the epoch check.

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::authority::Authority;
use crate::authority::Chain;
use crate::authority::Order;
use crate::authority::Refused;
use crate::authority::TokenOrder;
use crate::fairness::FairPool;
use crate::identity::KeyType;
use crate::identity::SubjectKey;
use crate::identity::X509Svid;
use crate::issuance::issuance::CredentialKind;
use crate::issuance::issuance::Issuance;
use crate::issuance::issuance::IssuanceId;
use crate::issuance::issue_error::IssueError;
use crate::issuance::metrics::IssuanceMetrics;
use crate::issuance::renewal;
use crate::issuance::svid_cache::Circumstances;
use crate::issuance::svid_cache::SignedSvid;
use crate::policy::DecisionId;
use crate::policy::Grant;
use crate::policy::Permit;
use crate::randomness::NoRandomness;
use crate::randomness::Randomness;
use crate::randomness::fraction;
use crate::randomness::fraction_of;
use crate::time::Clock;

/// Returns the epoch of the current rulebook.
pub type CurrentEpoch = Box<dyn Fn() -> u64 + Send + Sync>;

pub(super) struct IssuanceContext {
    pub(super) authority: Arc<dyn Authority>,
    pub(super) current_epoch: CurrentEpoch,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) randomness: Arc<dyn Randomness>,
    /// The cores that make keys and local signatures.
    pub(super) cores: FairPool,
    pub(super) metrics: IssuanceMetrics,
}

/// An X509-SVID before it is signed.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) grant: Grant,
    pub(super) decision: DecisionId,
    pub(super) key: Arc<SubjectKey>,
}

impl Draft {
    /// A draft with a new key.
    pub(super) fn new(permit: &Permit) -> Result<Self, IssueError> {
        let key = SubjectKey::generate(KeyType::P256).ok_or(IssueError::NoKey)?;
        Ok(Self { grant: permit.grant().clone(), decision: permit.decision(), key: Arc::new(key) })
    }

    /// The order for an SVID that begins at `issued`.
    pub(super) fn order(&self, issued: SystemTime) -> Order {
        let Grant { id, entry, .. } = &self.grant;
        let not_after = end_of(issued, entry.terms.x509_ttl);
        Order { entry: Arc::clone(entry), id: id.clone(), key: Arc::clone(&self.key), issued, not_after }
    }
}

impl IssuanceContext {
    /// Refuses a permit of an earlier rulebook. Called after each wait, because the rulebook may have changed.
    pub(super) fn check(&self, permit: &Permit) -> Result<(), IssueError> {
        if permit.rulebook_epoch() == (self.current_epoch)() { Ok(()) } else { Err(IssueError::StalePermit) }
    }

    /// What decides now whether an SVID may be handed out.
    pub(super) fn circumstances(&self) -> Circumstances {
        Circumstances { now: self.clock.now(), tainted: self.authority.tainted() }
    }

    /// The SVID of a signed draft. The issuance id and the spread of the renewal come from one call of the generator: a call
    /// costs more than the bytes.
    pub(super) fn signed(&self, draft: Draft, issued: SystemTime, chain: Chain) -> Result<SignedSvid, IssueError> {
        let Draft { grant, decision, key } = draft;
        let Chain { certificates, issuer, serial, not_after, clamped } = chain;
        let [id @ .., a, b, c, d] = self.random::<10>()?;
        let renew_at = renewal::renew_at(issued, not_after, fraction_of([a, b, c, d]));
        let issuance = Arc::new(Issuance {
            id: IssuanceId(id),
            kind: CredentialKind::X509,
            spiffe_id: grant.id.clone(),
            serial: serial.clone(),
            signed_by: Some(issuer),
            not_after,
            entry: grant.entry.origin.clone(),
            decision,
        });
        self.metrics.count_issued(clamped);
        let (id, hint, key) = (grant.id, grant.hint, Arc::clone(key.private_key()));
        let svid = X509Svid { id, chain: certificates, key, hint, serial, issued, not_after };
        Ok(SignedSvid { issuance, svid, renew_at })
    }

    /// The order for a token, and the id of its issuance.
    pub(super) fn token_order(
        &self,
        grant: &Grant,
        audiences: Vec<String>,
    ) -> Result<(TokenOrder, IssuanceId), NoRandomness> {
        let [a, b, c, d, e, f, token_id @ ..] = self.random::<22>()?;
        let token_id = format!("{:032x}", u128::from_be_bytes(token_id));
        let (entry, issued) = (Arc::clone(&grant.entry), self.clock.now());
        let not_after = end_of(issued, entry.terms.jwt_ttl);
        let order = TokenOrder { entry, id: grant.id.clone(), audiences, issued, not_after, token_id };
        Ok((order, IssuanceId([a, b, c, d, e, f])))
    }

    /// A random number in `0.0 ..= 1.0`; 0.5 without random bytes, which spreads less and is safe.
    pub(super) fn spread(&self) -> f64 {
        fraction(&*self.randomness).unwrap_or(0.5)
    }

    fn random<const N: usize>(&self) -> Result<[u8; N], NoRandomness> {
        let mut bytes = [0; N];
        self.randomness.fill(&mut bytes)?;
        Ok(bytes)
    }
}

/// The error for an order that got no answer.
pub(super) fn unanswered() -> Refused {
    Refused::Unavailable("it has not answered".to_owned())
}

/// On overflow returns the epoch, which the authority refuses.
fn end_of(issued: SystemTime, ttl: Duration) -> SystemTime {
    issued.checked_add(ttl).unwrap_or(UNIX_EPOCH)
}
