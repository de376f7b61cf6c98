//! The issuer: the only one who turns a permit into a credential.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::authority::Authority;
use crate::authority::Order;
use crate::authority::Refused;
use crate::authority::TokenOrder;
use crate::evidence::Principal;
use crate::evidence::Undecided;
use crate::identity::JwtSvid;
use crate::identity::X509Svid;
use crate::identity::p256;
use crate::issuance::metrics::IssuanceMetrics;
use crate::issuance::turns::Turns;
use crate::policy::Grant;
use crate::policy::Permit;
use crate::randomness::NoRandomness;
use crate::randomness::Randomness;

/// Why nothing was issued on a permit. All of it is of our making, none of it about the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The entries have changed since the permit was given: decide again.
    #[error("the entries have changed since it was decided")]
    StalePermit,
    /// The authority signed nothing.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// No key could be made.
    #[error("the crypto library could not make a key")]
    NoKey,
    /// No token id could be drawn.
    #[error("the kernel gave no random bytes")]
    NoRandomness,
}

impl IssueError {
    /// What it is to the caller: a check that could not be completed.
    #[must_use]
    pub fn undecided(&self) -> Undecided {
        match self {
            Self::StalePermit => Undecided::KeptChanging,
            Self::Refused(_) | Self::NoKey | Self::NoRandomness => Undecided::Authority,
        }
    }
}

impl From<NoRandomness> for IssueError {
    fn from(_: NoRandomness) -> Self {
        Self::NoRandomness
    }
}

/// Tells the epoch of the rulebook in force.
pub type CurrentEpoch = Box<dyn Fn() -> u64 + Send + Sync>;

/// Turns permits into SVIDs.
pub struct Issuer {
    authority: Arc<dyn Authority>,
    current_epoch: CurrentEpoch,
    randomness: Arc<dyn Randomness>,
    turns: Turns,
    metrics: IssuanceMetrics,
}

impl Issuer {
    /// An issuer that uses as many cores at once as there are.
    pub fn new(authority: Arc<dyn Authority>, current_epoch: CurrentEpoch, randomness: Arc<dyn Randomness>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { authority, current_epoch, randomness, turns: Turns::new(cores), metrics: IssuanceMetrics::default() }
    }

    /// What it has done so far.
    pub fn metrics(&self) -> &IssuanceMetrics {
        &self.metrics
    }

    /// An X509-SVID with a key that was made for it alone. Waits for the turn of `caller`, whom the work is charged to.
    ///
    /// # Errors
    /// [`IssueError`]
    pub async fn x509_svid(&self, caller: Principal, permit: Permit, now: SystemTime) -> Result<X509Svid, IssueError> {
        let _turn = self.turns.take(caller).await;
        let issued = match self.check(&permit) {
            Ok(()) => self.sign_x509(permit.grant(), now).await,
            Err(stale) => Err(stale),
        };
        self.count(issued)
    }

    /// A JWT-SVID for `audiences`, newly signed.
    ///
    /// # Errors
    /// [`IssueError`]
    pub async fn jwt_svid(
        &self,
        caller: Principal,
        permit: Permit,
        audiences: Vec<String>,
        now: SystemTime,
    ) -> Result<JwtSvid, IssueError> {
        let _turn = self.turns.take(caller).await;
        let issued = match self.check(&permit) {
            Ok(()) => self.sign_jwt(permit.grant(), audiences, now).await,
            Err(stale) => Err(stale),
        };
        self.count(issued)
    }

    /// Asked after the wait for a turn: the entries may have changed meanwhile.
    fn check(&self, permit: &Permit) -> Result<(), IssueError> {
        if permit.rulebook_epoch() == (self.current_epoch)() { Ok(()) } else { Err(IssueError::StalePermit) }
    }

    fn count<S>(&self, issued: Result<(S, bool), IssueError>) -> Result<S, IssueError> {
        match issued {
            Ok((svid, clamped)) => {
                self.metrics.count_issued(clamped);
                Ok(svid)
            }
            Err(error) => {
                self.metrics.count_failed();
                Err(error)
            }
        }
    }

    async fn sign_x509(&self, grant: &Grant, now: SystemTime) -> Result<(X509Svid, bool), IssueError> {
        let entry = &grant.entry;
        let (key, public_key) = p256::generate().ok_or(IssueError::NoKey)?;
        let order = Order {
            id: grant.id.clone(),
            dns: entry.terms.dns.clone(),
            public_key,
            issued: now,
            not_after: end_of(now, entry.terms.x509_ttl),
        };
        let unanswered = || Err(Refused::Unavailable("the authority answered nothing".to_owned()));
        let chain = self.authority.x509(vec![order]).await.pop().unwrap_or_else(unanswered)?;
        let svid = X509Svid {
            id: grant.id.clone(),
            chain: chain.certificates,
            key: Arc::new(key),
            hint: grant.hint.clone(),
            serial: chain.serial,
            issued: now,
            not_after: chain.not_after,
        };
        Ok((svid, chain.clamped))
    }

    async fn sign_jwt(
        &self,
        grant: &Grant,
        audiences: Vec<String>,
        now: SystemTime,
    ) -> Result<(JwtSvid, bool), IssueError> {
        let entry = &grant.entry;
        let token_id = self.new_token_id()?;
        let order = TokenOrder {
            id: grant.id.clone(),
            audiences,
            issued: now,
            not_after: end_of(now, entry.terms.jwt_ttl),
            token_id: token_id.clone(),
        };
        let token = self.authority.jwt(order).await?;
        let svid = JwtSvid {
            id: grant.id.clone(),
            token: token.compact,
            hint: grant.hint.clone(),
            token_id,
            not_after: token.not_after,
        };
        Ok((svid, token.clamped))
    }

    /// 128 random bits in hexadecimal.
    fn new_token_id(&self) -> Result<String, NoRandomness> {
        let mut bytes = [0; 16];
        self.randomness.fill(&mut bytes)?;
        Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("authority", &self.authority).finish_non_exhaustive()
    }
}

/// A life that is longer than the calendar ends with its beginning: the authority refuses that, rather than sign for ever.
fn end_of(now: SystemTime, ttl: Duration) -> SystemTime {
    now.checked_add(ttl).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering;

    use aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING;
    use aws_lc_rs::signature::EcdsaKeyPair;
    use aws_lc_rs::signature::KeyPair;
    use futures_util::future::FutureExt;
    use x509_parser::certificate::X509Certificate;
    use x509_parser::prelude::FromDer;

    use super::*;
    use crate::attestation::Attested;
    use crate::authority::embedded::Embedded;
    use crate::authority::embedded::EmbeddedSettings;
    use crate::authority::embedded::RELEASE_DATE;
    use crate::evidence::EvidenceSet;
    use crate::evidence::Grade;
    use crate::evidence::Level;
    use crate::evidence::Source;
    use crate::policy::DecisionId;
    use crate::policy::Rulebook;
    use crate::policy::Rules;
    use crate::policy::decide;
    use crate::randomness::SystemRandomness;
    use crate::registration::Entry;
    use crate::registration::EntryIndex;

    const CALLER: Principal = Principal { uid: 1000, cgroup: 0 };
    const EPOCH: u64 = 7;
    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        UNIX_EPOCH + RELEASE_DATE
    }

    /// What `decide` gives to uid 1000, whose entry says `/web` with a hint and a DNS name.
    fn permit() -> Permit {
        let mut entry = Entry::example(0, "/web", &["unix:uid:1000"]);
        entry.hint = Some("internal".to_owned());
        entry.terms.dns = vec!["web.internal".to_owned()];
        let mut evidence = EvidenceSet::default();
        evidence.prove("unix:uid:1000".parse().unwrap(), Grade::Kernel, Source::Credentials);
        let caller = Attested::example(Level::Full, evidence);
        let decision = decide(
            &caller,
            &Rulebook::new(
                EPOCH,
                EntryIndex::new(vec![entry]),
                Rules { minimum: Level::Reduced, wait: Duration::ZERO },
            ),
            DecisionId([0; 6]),
            now(),
        );
        decision.outcome.into_permits().remove(0)
    }

    /// An issuer whose authority lives for `ca_ttl`, and the epoch of the entries in force.
    fn issuer(ca_ttl: Duration) -> (Issuer, Arc<AtomicU64>) {
        let settings = EmbeddedSettings { trust_domain: "example.org".parse().unwrap(), ca_ttl, jwt_issuer: None };
        let authority = Embedded::in_memory(settings, now(), Arc::new(SystemRandomness)).unwrap();
        let epoch = Arc::new(AtomicU64::new(EPOCH));
        let current = Arc::clone(&epoch);
        let current_epoch = Box::new(move || current.load(Ordering::Relaxed));
        (Issuer::new(Arc::new(authority), current_epoch, Arc::new(SystemRandomness)), epoch)
    }

    #[tokio::test]
    async fn a_permit_becomes_an_svid_on_the_terms_of_its_entry() {
        let (issuer, _) = issuer(HOUR * 168);
        let svid = issuer.x509_svid(CALLER, permit(), now()).await.unwrap();
        assert_eq!(svid.id.as_str(), "spiffe://example.org/web");
        assert_eq!(svid.hint.as_deref(), Some("internal"));
        assert_eq!((svid.issued, svid.not_after), (now(), now() + HOUR));
        let (_, leaf) = X509Certificate::from_der(&svid.chain[0]).unwrap();
        assert!(format!("{:?}", leaf.subject_alternative_name().unwrap().unwrap().value).contains("web.internal"));
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, svid.key.expose_pkcs8()).unwrap();
        assert_eq!(leaf.public_key().subject_public_key.data.as_ref(), key.public_key().as_ref());
    }

    #[tokio::test]
    async fn no_two_svids_share_a_key_a_serial_or_a_token_id() {
        let (issuer, _) = issuer(HOUR * 168);
        let first = issuer.x509_svid(CALLER, permit(), now()).await.unwrap();
        let second = issuer.x509_svid(CALLER, permit(), now()).await.unwrap();
        assert_ne!(first.key.expose_pkcs8(), second.key.expose_pkcs8());
        assert_ne!(first.serial, second.serial);
        let audiences = || vec!["ledger".to_owned()];
        let first = issuer.jwt_svid(CALLER, permit(), audiences(), now()).await.unwrap();
        let second = issuer.jwt_svid(CALLER, permit(), audiences(), now()).await.unwrap();
        assert_ne!(first.token_id, second.token_id);
        assert_eq!(first.token_id.len(), 32);
        assert_eq!(first.not_after, now() + Duration::from_secs(300));
    }

    #[tokio::test]
    async fn a_permit_of_entries_that_are_no_more_issues_nothing() {
        let (issuer, epoch) = issuer(HOUR * 168);
        epoch.store(EPOCH + 1, Ordering::Relaxed);
        let refused = issuer.x509_svid(CALLER, permit(), now()).await.unwrap_err();
        assert_eq!(refused, IssueError::StalePermit);
        assert_eq!(
            refused.undecided().to_string(),
            "the entries or the process kept changing while it was decided; try again"
        );
        let refused = issuer.jwt_svid(CALLER, permit(), vec!["ledger".to_owned()], now()).await.unwrap_err();
        assert_eq!(refused, IssueError::StalePermit);
        assert_eq!((issuer.metrics().issued(), issuer.metrics().failed()), (0, 2));
    }

    #[tokio::test]
    async fn entries_that_change_while_a_caller_waits_for_its_turn_count() {
        let (issuer, epoch) = issuer(HOUR * 168);
        let mut turns = Vec::new();
        while let Some(turn) = issuer.turns.take(CALLER).now_or_never() {
            turns.push(turn);
        }
        let mut waiting = Box::pin(issuer.x509_svid(CALLER, permit(), now()));
        assert!((&mut waiting).now_or_never().is_none());
        epoch.store(EPOCH + 1, Ordering::Relaxed);
        drop(turns);
        assert_eq!(waiting.await.unwrap_err(), IssueError::StalePermit);
    }

    #[tokio::test]
    async fn an_authority_that_cannot_sign_is_never_a_no_to_the_caller() {
        let (issuer, _) = issuer(HOUR * 168);
        let refused = issuer.x509_svid(CALLER, permit(), now() - HOUR).await.unwrap_err();
        assert!(matches!(refused, IssueError::Refused(Refused::OutsideLife(_))), "{refused}");
        assert_eq!(refused.undecided(), Undecided::Authority);
        assert_eq!(issuer.metrics().failed(), 1);
    }

    #[tokio::test]
    async fn an_svid_that_the_authoritys_end_cuts_short_is_counted() {
        let (issuer, _) = issuer(Duration::from_secs(60));
        let svid = issuer.x509_svid(CALLER, permit(), now()).await.unwrap();
        assert_eq!(svid.not_after, now() + Duration::from_secs(60));
        assert_eq!((issuer.metrics().issued(), issuer.metrics().clamped()), (1, 1));
    }
}
