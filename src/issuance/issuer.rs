//! The issuer: the only one who turns a permit into a credential.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::encoding::PublicKeyX509Der;
use aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::KeyPair;
use bytes::Bytes;

use crate::authority::Authority;
use crate::authority::Order;
use crate::authority::Refused;
use crate::authority::TokenOrder;
use crate::evidence::CallerKey;
use crate::evidence::Undecided;
use crate::identity::JwtSvid;
use crate::identity::PrivateKey;
use crate::identity::X509Svid;
use crate::issuance::metrics::Metrics;
use crate::issuance::turns::Turns;
use crate::policy::decide::Granted;
use crate::policy::decide::Permit;
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
            Self::StalePermit => Undecided::NotReady,
            Self::Refused(_) | Self::NoKey | Self::NoRandomness => Undecided::Authority,
        }
    }
}

impl From<NoRandomness> for IssueError {
    fn from(_: NoRandomness) -> Self {
        Self::NoRandomness
    }
}

/// Tells the epoch of the entries that are in force now.
pub type CurrentEpoch = Box<dyn Fn() -> u64 + Send + Sync>;

/// Turns permits into SVIDs.
pub struct Issuer {
    authority: Arc<dyn Authority>,
    current_epoch: CurrentEpoch,
    randomness: Arc<dyn Randomness>,
    turns: Turns,
    metrics: Metrics,
}

impl Issuer {
    /// An issuer that uses as many cores at once as there are.
    pub fn new(authority: Arc<dyn Authority>, current_epoch: CurrentEpoch, randomness: Arc<dyn Randomness>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { authority, current_epoch, randomness, turns: Turns::new(cores), metrics: Metrics::default() }
    }

    /// What it has done so far.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// An X509-SVID with a key that was made for it alone. Waits for the turn of `caller`, whom the work is charged to.
    ///
    /// # Errors
    /// [`IssueError`]
    pub async fn x509_svid(&self, caller: CallerKey, permit: Permit, now: SystemTime) -> Result<X509Svid, IssueError> {
        let _turn = self.turns.take(caller).await;
        let issued = match self.check(&permit) {
            Ok(()) => self.sign_x509(permit.granted(), now).await,
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
        caller: CallerKey,
        permit: Permit,
        audiences: Vec<String>,
        now: SystemTime,
    ) -> Result<JwtSvid, IssueError> {
        let _turn = self.turns.take(caller).await;
        let issued = match self.check(&permit) {
            Ok(()) => self.sign_jwt(permit.granted(), audiences, now).await,
            Err(stale) => Err(stale),
        };
        self.count(issued)
    }

    /// Asked after the wait for a turn: the entries may have changed meanwhile.
    fn check(&self, permit: &Permit) -> Result<(), IssueError> {
        if permit.entries_epoch() == (self.current_epoch)() { Ok(()) } else { Err(IssueError::StalePermit) }
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

    async fn sign_x509(&self, granted: &Granted, now: SystemTime) -> Result<(X509Svid, bool), IssueError> {
        let entry = &granted.entry;
        let (key, public_key) = new_p256().ok_or(IssueError::NoKey)?;
        let order = Order {
            id: entry.id.clone(),
            dns: entry.terms.dns.clone(),
            public_key,
            issued: now,
            not_after: end_of(now, entry.terms.x509_ttl),
        };
        let unanswered = || Err(Refused::Unavailable("the authority answered nothing".to_owned()));
        let chain = self.authority.x509(vec![order]).await.pop().unwrap_or_else(unanswered)?;
        let svid = X509Svid {
            id: entry.id.clone(),
            chain: chain.certificates,
            key: Arc::new(key),
            hint: granted.hint.clone(),
            serial: chain.serial,
            issued: now,
            not_after: chain.not_after,
        };
        Ok((svid, chain.clamped))
    }

    async fn sign_jwt(
        &self,
        granted: &Granted,
        audiences: Vec<String>,
        now: SystemTime,
    ) -> Result<(JwtSvid, bool), IssueError> {
        let entry = &granted.entry;
        let token_id = self.new_token_id()?;
        let order = TokenOrder {
            id: entry.id.clone(),
            audiences,
            issued: now,
            not_after: end_of(now, entry.terms.jwt_ttl),
            token_id: token_id.clone(),
        };
        let token = self.authority.jwt(order).await?;
        let svid = JwtSvid {
            id: entry.id.clone(),
            token: token.compact,
            hint: granted.hint.clone(),
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

/// A new P-256 key as PKCS#8, and its public half as SubjectPublicKeyInfo.
fn new_p256() -> Option<(PrivateKey, Bytes)> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).ok()?;
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().ok()?;
    let public = Bytes::copy_from_slice(public.as_ref());
    Some((PrivateKey::from_pkcs8(pair.to_pkcs8v1().ok()?.as_ref().to_vec()), public))
}

/// A life that is longer than the calendar ends with its beginning: the authority refuses that, rather than sign for ever.
fn end_of(now: SystemTime, ttl: std::time::Duration) -> SystemTime {
    now.checked_add(ttl).unwrap_or(UNIX_EPOCH)
}
