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
pub use life::Validity;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

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
use crate::authority::embedded::state::AuthorityState;
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
pub struct EmbeddedSettings {
    /// Whose identities it signs.
    pub trust_domain: TrustDomain,
    /// How long a key of its own lives, from its making; used when one is made.
    pub ca_ttl: Duration,
    /// `iss` of its tokens; absent from them when `None`.
    pub jwt_issuer: Option<String>,
}

/// Why there is no authority. Nothing was changed, on disk or otherwise.
#[derive(Debug, thiserror::Error)]
pub enum NoAuthority {
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
    /// There are no keys yet, and the clock is wrong, so that no life could be given to new ones.
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
    /// There are no keys yet, and none can be made before the clock is right.
    #[error("{}", NoAuthority::ClockBeforeRelease)]
    AwaitsClock,
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
    settings: EmbeddedSettings,
    randomness: Arc<dyn Randomness>,
    /// Not there yet only at a first start with a clock that must be wrong.
    signers: OnceLock<Signers>,
    making: Mutex<()>,
    /// The earliest issue, in seconds since 1970, of an SVID that its own end has cut short.
    first_cut_short: AtomicU64,
    bundle: watch::Sender<Arc<Bundle>>,
    /// INVARIANT: held as long as anything is signed, so that no second daemon opens the same keys.
    data_dir: Option<Arc<DataDir>>,
}

/// The active keys.
#[derive(Debug)]
struct Signers {
    x509: X509Signer,
    jwt: JwtSigner,
}

impl Embedded {
    /// Opens the authority that `data_dir` holds, or makes one where there is none yet. While the clock must be wrong
    /// none is made: what is opened then has no keys and an empty bundle, until [`Self::make_first_keys`] succeeds.
    ///
    /// # Errors
    /// [`NoAuthority`]. A key that cannot be read is never replaced by a new one.
    pub fn open(
        data_dir: Arc<DataDir>,
        settings: EmbeddedSettings,
        now: SystemTime,
        randomness: Arc<dyn Randomness>,
    ) -> Result<(Self, Vec<Note>), NoAuthority> {
        let authority = Self::without_keys(settings, randomness, Some(data_dir.clone()));
        if let Some(bytes) = data_dir.load(Name::Authority)? {
            let not_writable =
                |error: io::Error| Note::NotWritable { path: data_dir.path().to_owned(), why: error.to_string() };
            let note = data_dir.probe().err().map(not_writable);
            authority.take_up(&AuthorityState::parse(&bytes).map_err(|why| authority.contradiction(why))?)?;
            return Ok((authority, note.into_iter().collect()));
        }
        let note = match authority.make_first_keys(now) {
            Err(NoAuthority::ClockBeforeRelease) => {
                data_dir.probe().map_err(|source| StoreError { file: data_dir.file(Name::Authority), source })?;
                Some(Note::AwaitsClock)
            }
            made => made?,
        };
        Ok((authority, note.into_iter().collect()))
    }

    /// An authority that lives and dies with this process.
    ///
    /// # Errors
    /// [`NoAuthority`]
    pub fn in_memory(
        settings: EmbeddedSettings,
        now: SystemTime,
        randomness: Arc<dyn Randomness>,
    ) -> Result<Self, NoAuthority> {
        let authority = Self::without_keys(settings, randomness, None);
        authority.make_first_keys(now)?;
        Ok(authority)
    }

    /// Makes keys and keeps them, where there are none yet; says so, if it did. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// [`NoAuthority`]; nothing was changed, and it may be tried again.
    pub fn make_first_keys(&self, now: SystemTime) -> Result<Option<Note>, NoAuthority> {
        // RACE: a second maker would leave other keys on the disk than those that sign.
        let _one_at_a_time = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if self.signers.get().is_some() {
            return Ok(None);
        }
        let made = AuthorityState::make(&self.settings, now, &*self.randomness)?;
        if let Some(data_dir) = &self.data_dir {
            data_dir.store(Name::Authority, &made.to_bytes()?)?;
        }
        self.take_up(&made)?;
        Ok(Some(Note::New { trust_domain: made.trust_domain }))
    }

    /// Where `now` lies in its life; `None` before it has keys.
    #[must_use]
    pub fn validity(&self, now: SystemTime) -> Option<Validity> {
        let x509 = &self.signers.get()?.x509;
        match x509.validity(now) {
            Validity::Valid if seconds(now) >= self.first_cut_short.load(Ordering::Relaxed) => {
                Some(Validity::Ending { ends: x509.not_after() })
            }
            validity => Some(validity),
        }
    }

    /// The file that has its keys.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.data_dir.as_ref().map_or_else(|| PathBuf::from("memory"), |data_dir| data_dir.file(Name::Authority))
    }

    fn without_keys(
        settings: EmbeddedSettings,
        randomness: Arc<dyn Randomness>,
        data_dir: Option<Arc<DataDir>>,
    ) -> Self {
        let bundle = watch::Sender::new(Arc::new(Bundle::empty(settings.trust_domain.clone())));
        let first_cut_short = AtomicU64::new(u64::MAX);
        Self {
            settings,
            randomness,
            signers: OnceLock::new(),
            making: Mutex::new(()),
            first_cut_short,
            bundle,
            data_dir,
        }
    }

    /// Publishes what is kept, and signs with it from now on.
    fn take_up(&self, state: &AuthorityState) -> Result<(), NoAuthority> {
        if state.trust_domain != self.settings.trust_domain.as_str() {
            let (found, wanted) = (state.trust_domain.clone(), self.settings.trust_domain.to_string());
            return Err(NoAuthority::ForeignTrustDomain { file: self.file(), found, wanted });
        }
        let signers = state.signers(&self.settings, self.randomness.clone());
        let (x509, jwt) = signers.map_err(|why| self.contradiction(why))?;
        let bundle = state.bundle(self.settings.trust_domain.clone()).map_err(|why| self.contradiction(why))?;
        self.bundle.send_replace(Arc::new(bundle));
        self.signers.get_or_init(|| Signers { x509, jwt });
        Ok(())
    }

    fn signers(&self) -> Result<&Signers, Refused> {
        self.signers.get().ok_or_else(|| Refused::Unavailable("it has no keys yet".to_owned()))
    }

    fn certify(&self, order: &Order) -> Result<Chain, Refused> {
        let chain = self.signers()?.x509.sign(order)?;
        self.remember_if_cut_short(chain.clamped, order.issued);
        Ok(chain)
    }

    fn remember_if_cut_short(&self, cut_short: bool, issued: SystemTime) {
        if cut_short {
            self.first_cut_short.fetch_min(seconds(issued), Ordering::Relaxed);
        }
    }

    fn contradiction(&self, why: &'static str) -> NoAuthority {
        NoAuthority::Contradiction { file: self.file(), why }
    }
}

impl Authority for Embedded {
    fn x509(&self, orders: Vec<Order>) -> BoxFuture<'_, Vec<Result<Chain, Refused>>> {
        async move { orders.iter().map(|order| self.certify(order)).collect() }.boxed()
    }

    fn jwt(&self, order: TokenOrder) -> BoxFuture<'_, Result<Token, Refused>> {
        async move {
            let token = self.signers()?.jwt.sign(&order)?;
            self.remember_if_cut_short(token.clamped, order.issued);
            Ok(token)
        }
        .boxed()
    }

    fn bundle(&self) -> watch::Receiver<Arc<Bundle>> {
        self.bundle.subscribe()
    }

    fn key_sharing(&self) -> KeySharing {
        KeySharing::PerStream
    }

    fn not_after(&self) -> Option<SystemTime> {
        self.signers.get().map(|signers| signers.x509.not_after())
    }

    fn can_sign(&self, now: SystemTime) -> Result<(), Refused> {
        self.signers()?.x509.can_sign(now)
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
