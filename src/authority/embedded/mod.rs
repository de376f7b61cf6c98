//! The authority inside this daemon: a self-signed X.509 authority and a JWT key, made at first start, kept in the data
//! directory, and replaced in their time. Refuses to make a new key in place of one that it cannot read.
//!
//! [`keeper`] owns the state and is locked by whoever changes it, also while it is written to disk; what signs and what is
//! shown are swapped whole, so that nobody who signs or looks waits for a disk.

mod keeper;
mod rotation;
mod service;
pub mod settings;
mod state;
mod stored;
mod usage;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use crate::authority::embedded::keeper::Keeper;
use crate::authority::embedded::rotation::RotationStep;
use crate::authority::embedded::settings::EmbeddedSettings;
use crate::authority::embedded::state::AuthorityKey;
use crate::authority::embedded::state::AuthorityState;
use crate::authority::embedded::state::NotItsState;
use crate::authority::embedded::state::PublicPart;
use crate::authority::embedded::usage::ActiveKey;
use crate::authority::embedded::usage::KeyUsage;
use crate::authority::embedded::usage::Signed;
use crate::authority::keys::KeyId;
use crate::authority::keys::KeyKind;
use crate::authority::keys::KeyStatus;
use crate::authority::no_authority::NoAuthority;
use crate::authority::no_authority::Note;
use crate::authority::signing::certificates::X509Signer;
use crate::authority::signing::tokens::JwtSigner;
use crate::durable::DataDir;
use crate::durable::Name;
use crate::durable::StoreError;
use crate::identity::Bundle;
use crate::randomness::Randomness;
use crate::time::Moment;

/// So many tainted keys are remembered: longer than any SVID lives they need not be.
const TAINTED: usize = 64;

/// The embedded authority.
#[derive(Debug)]
pub struct Embedded {
    settings: EmbeddedSettings,
    /// How long keys live that are made from now on.
    ca_ttl: Mutex<Duration>,
    randomness: Arc<dyn Randomness>,
    /// Not there yet only at a first start with a clock that must be wrong.
    keeper: Mutex<Option<Keeper>>,
    x509: ArcSwapOption<ActiveKey<X509Signer>>,
    jwt: ArcSwapOption<ActiveKey<JwtSigner>>,
    statuses: ArcSwap<Vec<KeyStatus>>,
    /// What the JWT keys have signed that are in the bundle.
    tokens: ArcSwap<Vec<(String, Arc<KeyUsage>)>>,
    tainted: ArcSwap<Vec<KeyId>>,
    bundle: watch::Sender<Arc<Bundle>>,
    /// INVARIANT: held as long as anything is signed, so that no second daemon opens the same keys.
    data_dir: Option<Arc<DataDir>>,
}

impl Embedded {
    /// Opens the authority that `data_dir` holds, or makes one where there is none yet. While the clock must be wrong
    /// none is made: what is opened then has no keys and an empty bundle, until [`Authority::maintain`](crate::authority::Authority::maintain) makes them.
    ///
    /// # Errors
    /// [`NoAuthority`]. A key that cannot be read is never replaced by a new one.
    pub fn open(
        data_dir: Arc<DataDir>,
        settings: EmbeddedSettings,
        now: Moment,
        randomness: Arc<dyn Randomness>,
    ) -> Result<(Self, Vec<Note>), NoAuthority> {
        let authority = Self::without_keys(settings, randomness, Some(data_dir.clone()));
        if let Some(bytes) = data_dir.load(Name::Authority)? {
            let not_writable =
                |error: io::Error| Note::NotWritable { path: data_dir.path().to_owned(), why: error.to_string() };
            let note = data_dir.probe().err().map(not_writable);
            let state = AuthorityState::parse(&bytes, &authority.settings.trust_domain);
            let keeper = authority.take_up(state.map_err(|why| authority.refused(why))?, true, now)?;
            *authority.keeper() = Some(keeper);
            return Ok((authority, note.into_iter().collect()));
        }
        let note = match authority.make_first_keys(now) {
            Err(NoAuthority::ClockBeforeRelease) => {
                data_dir.probe().map_err(|source| StoreError { file: data_dir.file(Name::Authority), source })?;
                Note::AwaitsClock
            }
            made => {
                let (keeper, note) = made?;
                *authority.keeper() = Some(keeper);
                note
            }
        };
        Ok((authority, vec![note]))
    }

    /// An authority that lives and dies with this process.
    ///
    /// # Errors
    /// [`NoAuthority`]
    pub fn in_memory(
        settings: EmbeddedSettings,
        now: Moment,
        randomness: Arc<dyn Randomness>,
    ) -> Result<Self, NoAuthority> {
        let authority = Self::without_keys(settings, randomness, None);
        *authority.keeper() = Some(authority.make_first_keys(now)?.0);
        Ok(authority)
    }

    fn without_keys(
        settings: EmbeddedSettings,
        randomness: Arc<dyn Randomness>,
        data_dir: Option<Arc<DataDir>>,
    ) -> Self {
        let bundle = watch::Sender::new(Arc::new(Bundle::empty(settings.trust_domain.clone())));
        Self {
            ca_ttl: Mutex::new(settings.ca_ttl),
            settings,
            randomness,
            keeper: Mutex::default(),
            x509: ArcSwapOption::empty(),
            jwt: ArcSwapOption::empty(),
            statuses: ArcSwap::default(),
            tokens: ArcSwap::default(),
            tainted: ArcSwap::default(),
            bundle,
            data_dir,
        }
    }

    /// Makes keys and keeps them.
    fn make_first_keys(&self, now: Moment) -> Result<(Keeper, Note), NoAuthority> {
        let settings = EmbeddedSettings { ca_ttl: self.ca_ttl(), ..self.settings.clone() };
        let made = AuthorityState::make(&settings, now.wall, &*self.randomness)?;
        if let Some(data_dir) = &self.data_dir {
            data_dir.store(Name::Authority, &made.to_bytes(&settings.trust_domain, 0)?)?;
        }
        let note = Note::New { trust_domain: settings.trust_domain.to_string() };
        Ok((self.take_up(made, false, now)?, note))
    }

    /// Signs with what is kept from now on, and publishes it. Keys of an earlier process may have signed until their end.
    fn take_up(&self, state: AuthorityState, are_of_earlier: bool, now: Moment) -> Result<Keeper, NoAuthority> {
        let keeper = Keeper::new(state, self.settings.trust_domain.clone(), self.data_dir.clone(), now);
        for kind in KeyKind::ALL {
            if let Some(key) = keeper.active(kind) {
                self.sign_with(key, are_of_earlier)?;
            }
        }
        self.show(&keeper);
        Ok(keeper)
    }

    /// Signs with a key from now on.
    fn sign_with(&self, key: &AuthorityKey, has_signed: bool) -> Result<(), NoAuthority> {
        let before = if has_signed { key.may_have_signed() } else { Signed::NOTHING };
        let contradiction = |why| self.refused(NotItsState::Contradiction(why));
        match key.kind() {
            KeyKind::X509 => {
                let signer = key.x509_signer(&self.settings.trust_domain, self.randomness.clone());
                self.x509.store(Some(Arc::new(ActiveKey::new(
                    signer.map_err(contradiction)?,
                    (key.life, key.made),
                    before,
                ))));
            }
            KeyKind::Jwt => {
                let signer = key.jwt_signer(self.settings.jwt_issuer.clone()).map_err(contradiction)?;
                let signing = ActiveKey::new(signer, (key.life, key.made), before);
                let mut tokens = Vec::clone(&self.tokens.load());
                tokens.retain(|(id, _)| self.statuses.load().iter().any(|key| key.id == *id));
                tokens.push((key.id(), Arc::clone(&signing.usage)));
                self.tokens.store(Arc::new(tokens));
                self.jwt.store(Some(Arc::new(signing)));
            }
        }
        Ok(())
    }

    /// Publishes the bundle, where it has changed, and shows the keys.
    fn show(&self, keeper: &Keeper) {
        let bundle = keeper.bundle();
        self.bundle.send_if_modified(|before| {
            let changed = **before != bundle;
            *before = Arc::new(bundle);
            changed
        });
        self.statuses.store(Arc::new(keeper.statuses()));
    }

    fn take_step(
        &self,
        keeper: &mut Keeper,
        (kind, step): (KeyKind, RotationStep),
        now: Moment,
    ) -> Result<Vec<Note>, NoAuthority> {
        match step {
            RotationStep::Prepare => keeper.prepare(self.make_key(kind, keeper.made(), now)?).map(|()| Vec::new()),
            RotationStep::Publish => {
                let published = keeper.publish(kind, now)?.into_iter();
                Ok(published.map(|(id, used_from)| Note::Published { kind, id, used_from }).collect())
            }
            RotationStep::Activate => self.activate(keeper, kind, now),
            RotationStep::Withdraw => Ok(keeper.withdraw(kind, now)?.into_iter().map(|id| Note::Left { id }).collect()),
        }
    }

    fn activate(&self, keeper: &mut Keeper, kind: KeyKind, now: Moment) -> Result<Vec<Note>, NoAuthority> {
        let before = keeper.active(kind).map(AuthorityKey::id);
        let retiring = match kind {
            KeyKind::X509 => self.x509.load_full().zip(before).map(|(key, id)| key.retiring(id)),
            KeyKind::Jwt => self.jwt.load_full().zip(before).map(|(key, id)| key.retiring(id)),
        };
        let used = keeper.activate(kind, retiring, now)?;
        // RACE: known before the new key signs, so that nothing is asked for anew and gets the old key.
        self.taint(keeper);
        if let Some(key) = keeper.active(kind) {
            self.sign_with(key, false)?;
        }
        Ok(used.map(|(id, before)| Note::Used { kind, id, before }).into_iter().collect())
    }

    fn taint(&self, keeper: &Keeper) {
        let known = self.tainted.load_full();
        let x509 = keeper.leaving_x509().filter_map(|key| match &key.public {
            PublicPart::X509(own) => Some(own.key()),
            PublicPart::Jwt { .. } => None,
        });
        let new: Vec<_> = x509.filter(|key| !known.contains(key)).collect();
        if !new.is_empty() {
            let all: Vec<_> = known.iter().copied().chain(new).collect();
            let too_old = all.len().saturating_sub(TAINTED);
            self.tainted.store(Arc::new(all.into_iter().skip(too_old).collect()));
        }
    }

    /// A key that follows the active one of its kind, each of which was `made` then.
    fn make_key(&self, kind: KeyKind, made: [SystemTime; 2], now: Moment) -> Result<AuthorityKey, NoAuthority> {
        let settings = EmbeddedSettings { ca_ttl: self.ca_ttl(), ..self.settings.clone() };
        let [x509, jwt] = made;
        let follows = match kind {
            KeyKind::X509 => x509,
            KeyKind::Jwt => jwt,
        };
        AuthorityKey::make(kind, &settings, (now.wall, Some(follows)), &*self.randomness)
    }

    /// The file that has its keys.
    fn file(&self) -> PathBuf {
        self.data_dir.as_ref().map_or_else(|| PathBuf::from("memory"), |data_dir| data_dir.file(Name::Authority))
    }

    fn refused(&self, why: NotItsState) -> NoAuthority {
        let file = self.file();
        match why {
            NotItsState::Contradiction(why) => NoAuthority::Contradiction { file, why },
            NotItsState::ForeignTrustDomain(found) => {
                NoAuthority::ForeignTrustDomain { file, found, wanted: self.settings.trust_domain.to_string() }
            }
        }
    }

    fn keeper(&self) -> MutexGuard<'_, Option<Keeper>> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ca_ttl(&self) -> Duration {
        *self.ca_ttl.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
