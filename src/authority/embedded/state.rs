//! What the authority remembers: its keys, the stage of each, and how often its bundle has changed. INVARIANT: each key fits
//! its certificate, exactly one of each kind is active, at most one of each kind is to follow it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::authority::embedded::rotation;
use crate::authority::embedded::rotation::STAY_AFTER_START;
use crate::authority::embedded::settings::EmbeddedSettings;
use crate::authority::embedded::stored::StoredJwtKey;
use crate::authority::embedded::stored::StoredState;
use crate::authority::embedded::stored::StoredX509Key;
use crate::authority::embedded::usage::Signed;
use crate::authority::keys::KeyKind;
use crate::authority::keys::Stage;
use crate::authority::no_authority::NoAuthority;
use crate::authority::signing::certificates;
use crate::authority::signing::certificates::OwnCertificate;
use crate::authority::signing::certificates::X509Signer;
use crate::authority::signing::key::LocalKey;
use crate::authority::signing::key::SignatureForm;
use crate::authority::signing::key::SigningKey;
use crate::authority::signing::life::AUTHORITY_BACKDATE;
use crate::authority::signing::life::Life;
use crate::authority::signing::life::is_before_release;
use crate::authority::signing::life::seconds;
use crate::authority::signing::life::whole_seconds;
use crate::authority::signing::tokens;
use crate::authority::signing::tokens::JwtSigner;
use crate::identity::JwtAuthority;
use crate::identity::KeyType;
use crate::identity::PrivateKey;
use crate::identity::TrustDomain;
use crate::randomness::Randomness;

/// The largest number that every reader of JSON holds. A kept one above it is no number of ours.
const LAST_SEQUENCE: u64 = 1 << 53;
/// Seconds since 1970 that lie in the year 6325. A kept time after it is none of ours, and sums with an earlier one are dates.
const LAST_TIME: u64 = 1 << 37;

/// The state.
#[derive(Debug, Clone)]
pub(super) struct AuthorityState {
    /// `spiffe_sequence`. INVARIANT: never goes back. It starts at the clock's seconds, so that an authority made in
    /// place of a lost one is not taken for an older bundle by those who have seen the lost one's.
    pub(super) sequence: u64,
    /// Of each kind, the oldest first.
    pub(super) keys: Vec<AuthorityKey>,
}

/// One key.
#[derive(Debug, Clone)]
pub(super) struct AuthorityKey {
    pub(super) stage: Stage,
    pub(super) public: PublicPart,
    pub(super) life: Life,
    /// When it was made; it is valid from earlier on.
    pub(super) made: SystemTime,
    /// Absent of a retired key, which signs no more.
    pub(super) private_key: Option<Arc<PrivateKey>>,
    /// Of a published key: when it is used.
    pub(super) used_from: Option<SystemTime>,
    /// Of a retired key: when the last thing it signed has ended.
    pub(super) needed_until: Option<SystemTime>,
    /// Whether it may have leaked.
    pub(super) tainted: bool,
    /// The earliest time for its next stage by the clock that nobody sets; counted anew after a start.
    pub(super) waits_until: Duration,
    /// Of a published key: its lead, until it begins.
    pub(super) lead: Option<Duration>,
}

/// What verifies what a key signed.
#[derive(Debug, Clone)]
pub(super) enum PublicPart {
    X509(OwnCertificate),
    Jwt {
        authority: JwtAuthority,
        /// SubjectPublicKeyInfo, DER.
        key: Bytes,
    },
}

/// Why kept bytes are not the state of this authority.
#[derive(Debug)]
pub(super) enum NotItsState {
    ForeignTrustDomain(String),
    Contradiction(&'static str),
}

impl AuthorityState {
    /// New keys, which are used from now on.
    pub(super) fn make(
        settings: &EmbeddedSettings,
        now: SystemTime,
        randomness: &dyn Randomness,
    ) -> Result<Self, NoAuthority> {
        let key = |kind| {
            let made = AuthorityKey::make(kind, settings, (now, None), randomness)?;
            Ok(AuthorityKey { stage: Stage::Active, ..made })
        };
        let keys = KeyKind::ALL.into_iter().map(key).collect::<Result<_, NoAuthority>>()?;
        Ok(Self { sequence: seconds(now), keys })
    }

    pub(super) fn parse(bytes: &[u8], trust_domain: &TrustDomain) -> Result<Self, NotItsState> {
        let stored = StoredState::from_bytes(bytes).map_err(NotItsState::Contradiction)?;
        if stored.trust_domain != trust_domain.as_str() {
            return Err(NotItsState::ForeignTrustDomain(stored.trust_domain));
        }
        Self::of(stored, trust_domain).map_err(NotItsState::Contradiction)
    }

    fn of(stored: StoredState, trust_domain: &TrustDomain) -> Result<Self, &'static str> {
        if stored.sequence > LAST_SEQUENCE {
            return Err("its sequence number is out of range");
        }
        let x509 = stored.x509.into_iter().map(|key| AuthorityKey::of_x509(key, trust_domain));
        let jwt = stored.jwt.into_iter().map(AuthorityKey::of_jwt);
        let state = Self { sequence: stored.sequence, keys: x509.chain(jwt).collect::<Result<_, _>>()? };
        for kind in KeyKind::ALL {
            let count = |stages: &[Stage]| state.of_kind(kind).filter(|key| stages.contains(&key.stage)).count();
            if count(&[Stage::Active]) != 1 {
                return Err(match kind {
                    KeyKind::X509 => "there is not exactly one active X.509 key",
                    KeyKind::Jwt => "there is not exactly one active JWT key",
                });
            }
            if count(&[Stage::Prepared, Stage::Published]) > 1 {
                return Err("more than one key is to follow the active one");
            }
        }
        let ids: BTreeSet<_> = state.keys.iter().map(AuthorityKey::id).collect();
        if ids.len() < state.keys.len() {
            return Err("a key is there twice");
        }
        Ok(state)
    }

    /// The bytes to keep, with a sequence number that is ahead by `reserved`.
    pub(super) fn to_bytes(
        &self,
        trust_domain: &TrustDomain,
        reserved: u64,
    ) -> Result<Zeroizing<Vec<u8>>, NoAuthority> {
        let (mut x509, mut jwt) = (Vec::new(), Vec::new());
        for key in &self.keys {
            match &key.public {
                PublicPart::X509(own) => x509.push(key.stored_x509(own)),
                PublicPart::Jwt { key: public_key, .. } => jwt.push(key.stored_jwt(public_key)),
            }
        }
        let (trust_domain, sequence) = (trust_domain.to_string(), self.sequence.saturating_add(reserved));
        StoredState { trust_domain, sequence, x509, jwt }.to_bytes().ok_or(NoAuthority::NoKey)
    }

    pub(super) fn of_kind(&self, kind: KeyKind) -> impl Iterator<Item = &AuthorityKey> {
        self.keys.iter().filter(move |key| key.kind() == kind)
    }

    /// The key of a kind that signs.
    pub(super) fn active(&self, kind: KeyKind) -> Option<&AuthorityKey> {
        self.of_kind(kind).find(|key| key.stage == Stage::Active)
    }

    /// How often others should fetch the bundle.
    pub(super) fn refresh_hint(&self) -> Option<Duration> {
        let lives = self.keys.iter().filter(|key| key.stage == Stage::Active);
        let lives = lives.filter_map(|key| key.life.not_after.duration_since(key.made).ok());
        lives.min().map(rotation::refresh_hint)
    }

    /// The key of a kind that is to follow the active one.
    pub(super) fn next(&self, kind: KeyKind) -> Option<&AuthorityKey> {
        self.of_kind(kind).find(|key| matches!(key.stage, Stage::Prepared | Stage::Published))
    }

    /// The same, to be changed.
    pub(super) fn next_mut(&mut self, kind: KeyKind) -> Option<&mut AuthorityKey> {
        let is_next = |key: &&mut AuthorityKey| matches!(key.stage, Stage::Prepared | Stage::Published);
        self.keys.iter_mut().filter(|key| key.kind() == kind).find(is_next)
    }

    /// What the disk has of it. SECURITY: a tainted key is not kept once there is one to follow it. So whatever becomes of the
    /// disk afterwards, the tainted key signs nothing after a start, and leaves in time without one.
    pub(super) fn to_be_kept(&self) -> Self {
        let mut kept = self.clone();
        for kind in KeyKind::ALL {
            if kept.active(kind).is_some_and(|active| active.tainted)
                && let Some(next) = kept.next_mut(kind)
            {
                (next.stage, next.used_from) = (Stage::Active, None);
                kept.keys.retain(|key| key.kind() != kind || !key.tainted);
            }
        }
        kept
    }
}

impl AuthorityKey {
    /// A new key, not yet known to anybody, that is made now and follows one that was made then.
    ///
    /// It is valid from when that one was made: where a clock ran ahead for a while, so that keys took turns too early, the
    /// next key signs as well once the clock is right again.
    pub(super) fn make(
        kind: KeyKind,
        settings: &EmbeddedSettings,
        (now, follows): (SystemTime, Option<SystemTime>),
        randomness: &dyn Randomness,
    ) -> Result<Self, NoAuthority> {
        if is_before_release(now) {
            return Err(NoAuthority::ClockBeforeRelease);
        }
        let now = whole_seconds(now);
        let end = now.checked_add(settings.ca_ttl).ok_or(NoAuthority::LifeTooLong)?;
        let begins = follows.map_or(now, |follows| follows.min(now)) - AUTHORITY_BACKDATE;
        let life = Life { not_before: whole_seconds(begins), not_after: whole_seconds(end) };
        let trust_domain = &settings.trust_domain;
        let (private_key, spki) = KeyType::P256.generate().ok_or(NoAuthority::NoKey)?;
        let public = match kind {
            KeyKind::X509 => {
                let key = LocalKey::new(&private_key, SignatureForm::Asn1).ok_or(NoAuthority::NoKey)?;
                let certificate = certificates::self_signed(&key, trust_domain, life, randomness)
                    .map_err(NoAuthority::OwnCertificate)?;
                let own = OwnCertificate::read(certificate, trust_domain);
                PublicPart::X509(own.map_err(|_| NoAuthority::NoKey)?)
            }
            KeyKind::Jwt => {
                PublicPart::Jwt { authority: tokens::jwt_authority(&spki).ok_or(NoAuthority::NoKey)?, key: spki }
            }
        };
        let private_key = Some(Arc::new(private_key));
        Ok(Self { private_key, made: now, ..Self::new(Stage::Prepared, public, life) })
    }

    fn new(stage: Stage, public: PublicPart, life: Life) -> Self {
        let (private_key, used_from, needed_until, lead) = (None, None, None, None);
        let waits_until = Duration::ZERO;
        let made = life.not_before + AUTHORITY_BACKDATE;
        Self { stage, public, life, made, private_key, used_from, needed_until, tainted: false, waits_until, lead }
    }

    /// With what was kept of it. A retired key has nothing to sign with, and is needed as long as it lives where nothing else
    /// is known.
    fn kept(self, private_key: Option<Arc<PrivateKey>>, [used_from, needed_until]: [Option<SystemTime>; 2]) -> Self {
        let is_retired = self.stage == Stage::Retired;
        let needed_until = needed_until.or(is_retired.then_some(self.life.not_after));
        Self { private_key: private_key.filter(|_| !is_retired), used_from, needed_until, ..self }
    }

    pub(super) fn kind(&self) -> KeyKind {
        match self.public {
            PublicPart::X509(_) => KeyKind::X509,
            PublicPart::Jwt { .. } => KeyKind::Jwt,
        }
    }

    /// What [`KeyStatus`](crate::authority::KeyStatus) calls it.
    pub(super) fn id(&self) -> String {
        match &self.public {
            PublicPart::X509(own) => own.key().to_string(),
            PublicPart::Jwt { authority, .. } => authority.key_id().to_owned(),
        }
    }

    /// Signs no more, and has nothing left to sign with. It is needed as long as it lives, until it is known what it signed.
    pub(super) fn retire(&mut self) {
        self.stage = Stage::Retired;
        self.private_key = None;
        self.needed_until = Some(self.life.not_after);
        self.waits_until = Duration::MAX;
    }

    /// What it may have signed in an earlier process.
    pub(super) fn may_have_signed(&self) -> Signed {
        let life = self.life.not_after.duration_since(self.made).unwrap_or_default();
        Signed { until: self.life.not_after, longest: (life / 2).min(STAY_AFTER_START) }
    }

    fn local(&self, form: SignatureForm) -> Result<Arc<dyn SigningKey>, &'static str> {
        let private_key = self.private_key.as_ref().ok_or("an active key has no private key")?;
        let key = LocalKey::new(private_key, form).ok_or("a private key of the authority is no P-256 key")?;
        Ok(Arc::new(key))
    }

    pub(super) fn x509_signer(
        &self,
        trust_domain: &TrustDomain,
        randomness: Arc<dyn Randomness>,
    ) -> Result<X509Signer, &'static str> {
        let PublicPart::X509(own) = &self.public else { return Err("a JWT key signs no certificates") };
        Ok(X509Signer::new(self.local(SignatureForm::Asn1)?, trust_domain.clone(), own, randomness))
    }

    pub(super) fn jwt_signer(&self, issuer: Option<String>) -> Result<JwtSigner, &'static str> {
        JwtSigner::new(self.local(SignatureForm::FixedWidth)?, issuer, self.life).ok_or("a JWT key has no id")
    }

    fn of_x509(stored: StoredX509Key, trust_domain: &TrustDomain) -> Result<Self, &'static str> {
        let StoredX509Key { stage, made, certificate, private_key, used_from, needed_until, tainted } = stored;
        let own = OwnCertificate::read(certificate.into(), trust_domain)?;
        if public_half(stage, private_key.as_deref())?.is_some_and(|key| key != own.public_key) {
            return Err("a certificate of the authority is not of its key");
        }
        let life = own.life;
        let times = [at(used_from)?, at(needed_until)?];
        let key = Self::new(stage, PublicPart::X509(own), life);
        let made = at(made)?.unwrap_or(key.made);
        Ok(Self { tainted, made, ..key.kept(private_key, times) })
    }

    fn of_jwt(stored: StoredJwtKey) -> Result<Self, &'static str> {
        let StoredJwtKey { stage, made, not_before, not_after, public_key, private_key, .. } = stored;
        let (used_from, needed_until, tainted) = (stored.used_from, stored.needed_until, stored.tainted);
        let kept = Some(Bytes::from(public_key)).filter(|key| !key.is_empty());
        let derived = public_half(stage, private_key.as_deref())?;
        if kept.is_some() && derived.is_some() && kept != derived {
            return Err("a public JWT key of the authority is not of its private key");
        }
        let key = derived.or(kept).ok_or("a retired JWT key has no public key")?;
        let authority = tokens::jwt_authority(&key).ok_or("a JWT key has no id")?;
        let life = Life { not_before: since_1970(not_before)?, not_after: since_1970(not_after)? };
        let times = [at(used_from)?, at(needed_until)?];
        let key = Self::new(stage, PublicPart::Jwt { authority, key }, life);
        let made = at(made)?.unwrap_or(key.made);
        Ok(Self { tainted, made, ..key.kept(private_key, times) })
    }

    /// When it was made, where that does not follow from the beginning of its life.
    fn made_elsewhen(&self) -> Option<u64> {
        (self.made != self.life.not_before + AUTHORITY_BACKDATE).then(|| seconds(self.made))
    }

    fn stored_x509(&self, own: &OwnCertificate) -> StoredX509Key {
        StoredX509Key {
            stage: self.stage,
            made: self.made_elsewhen(),
            certificate: own.der.to_vec(),
            private_key: self.private_key.clone(),
            used_from: self.used_from.map(seconds),
            needed_until: self.needed_until.map(seconds),
            tainted: self.tainted,
        }
    }

    fn stored_jwt(&self, public_key: &Bytes) -> StoredJwtKey {
        StoredJwtKey {
            stage: self.stage,
            made: self.made_elsewhen(),
            not_before: seconds(self.life.not_before),
            not_after: seconds(self.life.not_after),
            public_key: public_key.to_vec(),
            private_key: self.private_key.clone(),
            used_from: self.used_from.map(seconds),
            needed_until: self.needed_until.map(seconds),
            tainted: self.tainted,
        }
    }
}

/// The public half of a kept private key, which only a retired key may be without.
fn public_half(stage: Stage, private_key: Option<&PrivateKey>) -> Result<Option<Bytes>, &'static str> {
    let Some(private_key) = private_key else {
        return if stage == Stage::Retired { Ok(None) } else { Err("a key that is not retired has no private key") };
    };
    let key = LocalKey::new(private_key, SignatureForm::Asn1);
    key.map(|key| Some(key.public_key().clone())).ok_or("a private key of the authority is no P-256 key")
}

fn at(stored: Option<u64>) -> Result<Option<SystemTime>, &'static str> {
    stored.map(since_1970).transpose()
}

fn since_1970(seconds: u64) -> Result<SystemTime, &'static str> {
    let time = (seconds <= LAST_TIME).then(|| UNIX_EPOCH + Duration::from_secs(seconds));
    time.ok_or("a time is out of range")
}
