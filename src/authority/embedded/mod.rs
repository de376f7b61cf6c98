//! The authority inside this daemon: a self-signed X.509 authority and a JWT key, made at first start and kept in the
//! data directory. Owns their state; what signs is parsed once and shared. Refuses to make a new key in place of one
//! that it cannot read.

pub mod settings;
mod state;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use futures_util::future::BoxFuture;
use futures_util::future::FutureExt;
use tokio::sync::watch;

use crate::authority::Authority;
use crate::authority::SignerLocation;
use crate::authority::embedded::settings::EmbeddedSettings;
use crate::authority::embedded::state::AuthorityState;
use crate::authority::no_authority::NoAuthority;
use crate::authority::no_authority::Note;
use crate::authority::order::Chain;
use crate::authority::order::Order;
use crate::authority::order::Refused;
use crate::authority::order::Token;
use crate::authority::order::TokenOrder;
use crate::authority::signing::certificates::X509Signer;
use crate::authority::signing::life::Validity;
use crate::authority::signing::tokens::JwtSigner;
use crate::durable::DataDir;
use crate::durable::Name;
use crate::durable::StoreError;
use crate::identity::Bundle;
use crate::randomness::Randomness;

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
    /// none is made: what is opened then has no keys and an empty bundle, until [`Authority::maintain`] makes them.
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

    /// Makes keys and keeps them, where there are none yet.
    fn make_first_keys(&self, now: SystemTime) -> Result<Option<Note>, NoAuthority> {
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

    /// The file that has its keys.
    fn file(&self) -> PathBuf {
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
    fn kind(&self) -> &'static str {
        "embedded"
    }

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

    fn location(&self) -> SignerLocation {
        SignerLocation::Local
    }

    fn not_after(&self) -> Option<SystemTime> {
        self.signers.get().map(|signers| signers.x509.not_after())
    }

    fn validity(&self, now: SystemTime) -> Option<Validity> {
        let x509 = &self.signers.get()?.x509;
        match x509.validity(now) {
            Validity::Valid if seconds(now) >= self.first_cut_short.load(Ordering::Relaxed) => {
                Some(Validity::Ending { ends: x509.not_after() })
            }
            validity => Some(validity),
        }
    }

    fn replacement(&self) -> String {
        format!(
            "Make a new authority: mv {file} {file}.old && systemctl restart bonafide. Its life is the ca_ttl of the \
             configuration. Give its bundle to everybody who verifies SVIDs of this node elsewhere; a workload can get \
             it: bonafide fetch bundle --write DIR",
            file = self.file().display()
        )
    }

    fn maintain(&self, now: SystemTime) -> Result<Option<Note>, NoAuthority> {
        self.make_first_keys(now)
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
