//! The authority inside this daemon: a self-signed X.509 authority and a JWT key, made at first start and kept in the
//! data directory. Owns their state; what signs is parsed once and shared. Refuses to make a new key in place of one
//! that it cannot read.

mod certificates;
mod keys;
mod leaf;
mod life;
mod state;
mod tokens;

pub use life::RELEASE_DATE;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use futures_util::future::FutureExt;
use tokio::sync::watch;

use crate::authority::Authority;
use crate::authority::Chain;
use crate::authority::KeySharing;
use crate::authority::Order;
use crate::authority::Refused;
use crate::authority::Token;
use crate::authority::TokenOrder;
use crate::authority::embedded::certificates::X509Signer;
use crate::authority::embedded::state::State;
use crate::authority::embedded::tokens::JwtSigner;
use crate::durable::DataDir;
use crate::durable::LoadError;
use crate::durable::Name;
use crate::durable::StoreError;
use crate::identity::Bundle;
use crate::identity::TrustDomain;
use crate::randomness::Randomness;

/// What an embedded authority is for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose identities it signs.
    pub trust_domain: TrustDomain,
    /// How long a key of its own lives, from its making; used when one is made.
    pub ca_ttl: Duration,
    /// `iss` of its tokens; absent from them when `None`.
    pub jwt_issuer: Option<String>,
}

/// Why there is no authority. Nothing was changed, on disk or otherwise.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its state cannot be read, or must not be trusted.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The state is whole, and says what cannot be.
    #[error(
        "{file} does not fit together: {why}; restore it from a backup, or give up every identity it signed and type: \
         mv {file} {file}.damaged"
    )]
    Contradiction {
        /// The state file.
        file: PathBuf,
        /// What is wrong in it.
        why: &'static str,
    },
    /// The state belongs to another trust domain.
    #[error(
        "{file} belongs to the trust domain {found:?} and the configuration says {wanted:?}; set trust_domain = \
         {found:?}, or give another data_dir"
    )]
    ForeignTrustDomain {
        /// The state file.
        file: PathBuf,
        /// Its trust domain.
        found: String,
        /// The configured one.
        wanted: String,
    },
    /// There is no state yet, and what was made could not be kept.
    #[error("a new authority cannot be kept: {0}")]
    Store(#[from] StoreError),
    /// There is no state yet, and the clock is wrong, so that no life could be given to a new authority.
    #[error(
        "the clock shows a time before this release was made (2026-11-22), so no authority can be made; set the clock"
    )]
    ClockBeforeRelease,
    /// The crypto library could not make a key.
    #[error("the crypto library could not make a key for a new authority")]
    NoKey,
    /// `ca_ttl` reaches past the end of time.
    #[error("ca_ttl is too long for any calendar; the default is \"168h\"")]
    LifeTooLong,
    /// The new authority's own certificate could not be signed.
    #[error("a new authority could not be made: {0}")]
    OwnCertificate(Refused),
}

/// What an operator should know about an authority that did open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Note {
    /// It was made just now: nobody trusts it yet.
    #[error("a new authority was made for {trust_domain:?}")]
    New {
        /// For whom.
        trust_domain: String,
    },
    /// The data directory takes no writes: serving goes on, and no key can be rotated.
    #[error("{path} takes no writes ({why}): issuing goes on, rotation is postponed; make room or make it writable")]
    NotWritable {
        /// The data directory.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
}

/// The embedded authority.
#[derive(Debug)]
pub struct Embedded {
    x509: X509Signer,
    jwt: JwtSigner,
    bundle: watch::Sender<Arc<Bundle>>,
    /// INVARIANT: held as long as anything is signed, so that no second daemon opens the same keys.
    _lock: Option<Arc<DataDir>>,
}

impl Embedded {
    /// Opens the authority that `data_dir` holds, or makes one where there is none yet.
    ///
    /// # Errors
    /// [`OpenError`]. A key that cannot be read is never replaced by a new one.
    pub fn open(
        data_dir: Arc<DataDir>,
        settings: Settings,
        now: SystemTime,
        randomness: Arc<dyn Randomness>,
    ) -> Result<(Self, Vec<Note>), OpenError> {
        let file = data_dir.file(Name::Authority);
        let mut notes = Vec::new();
        let state = match data_dir.load(Name::Authority)? {
            Some(bytes) => {
                if let Err(error) = data_dir.probe() {
                    notes.push(Note::NotWritable { path: data_dir.path().to_owned(), why: error.to_string() });
                }
                State::parse(&bytes).map_err(|why| OpenError::Contradiction { file: file.clone(), why })?
            }
            None => {
                let made = State::make(&settings, now, &*randomness)?;
                data_dir.store(Name::Authority, &made.to_bytes()?)?;
                notes.push(Note::New { trust_domain: settings.trust_domain.to_string() });
                made
            }
        };
        if state.trust_domain != settings.trust_domain.as_str() {
            let (found, wanted) = (state.trust_domain.clone(), settings.trust_domain.to_string());
            return Err(OpenError::ForeignTrustDomain { file, found, wanted });
        }
        let authority = Self::with(&state, settings, randomness, Some(data_dir))
            .map_err(|why| OpenError::Contradiction { file, why })?;
        Ok((authority, notes))
    }

    /// An authority that lives and dies with this process.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn in_memory(settings: Settings, now: SystemTime, randomness: Arc<dyn Randomness>) -> Result<Self, OpenError> {
        let state = State::make(&settings, now, &*randomness)?;
        Self::with(&state, settings, randomness, None)
            .map_err(|why| OpenError::Contradiction { file: PathBuf::from("memory"), why })
    }

    fn with(
        state: &State,
        settings: Settings,
        randomness: Arc<dyn Randomness>,
        lock: Option<Arc<DataDir>>,
    ) -> Result<Self, &'static str> {
        let (x509, jwt) = state.signers(&settings, randomness)?;
        let bundle = state.bundle(settings.trust_domain)?;
        Ok(Self { x509, jwt, bundle: watch::Sender::new(Arc::new(bundle)), _lock: lock })
    }
}

impl Authority for Embedded {
    fn x509(&self, orders: Vec<Order>) -> BoxFuture<'_, Vec<Result<Chain, Refused>>> {
        async move { orders.iter().map(|order| self.x509.sign(order)).collect() }.boxed()
    }

    fn jwt(&self, order: TokenOrder) -> BoxFuture<'_, Result<Token, Refused>> {
        async move { self.jwt.sign(&order) }.boxed()
    }

    fn bundle(&self) -> watch::Receiver<Arc<Bundle>> {
        self.bundle.subscribe()
    }

    fn key_sharing(&self) -> KeySharing {
        KeySharing::PerStream
    }

    fn not_after(&self) -> SystemTime {
        self.x509.not_after()
    }

    fn can_sign(&self, now: SystemTime) -> Result<(), Refused> {
        self.x509.can_sign(now)
    }
}

#[cfg(test)]
mod tests;
