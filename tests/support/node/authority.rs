//! An authority that a test disturbs.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::SystemTime;

use bonafide::authority::Authority;
use bonafide::authority::Chain;
use bonafide::authority::Embedded;
use bonafide::authority::EmbeddedSettings;
use bonafide::authority::KeyId;
use bonafide::authority::KeyStatus;
use bonafide::authority::Maintained;
use bonafide::authority::NoAuthority;
use bonafide::authority::NotRotated;
use bonafide::authority::Order;
use bonafide::authority::Refused;
use bonafide::authority::RotationBegun;
use bonafide::authority::RotationOrder;
use bonafide::authority::Served;
use bonafide::authority::SignerLocation;
use bonafide::authority::Token;
use bonafide::authority::TokenOrder;
use bonafide::authority::Validity;
use bonafide::durable::DataDir;
use bonafide::identity::Bundle;
use bonafide::randomness::Randomness;
use bonafide::time::Moment;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::sync::watch;

use crate::node::Seeded;
use crate::node::TRUST_DOMAIN;

/// An embedded authority of the tests' trust domain.
pub(crate) fn authority_made_at(now: SystemTime, randomness: Arc<dyn Randomness>) -> Embedded {
    Embedded::in_memory(settings(TRUST_DOMAIN), moment(now), randomness).unwrap()
}

/// The embedded authority of a trust domain: the one that the directory holds, or a new one.
pub(super) fn embedded(
    trust_domain: &str,
    now: Moment,
    randomness: Arc<Seeded>,
    data_dir: Option<Arc<DataDir>>,
) -> Result<Arc<dyn Authority>, NoAuthority> {
    let settings = settings(trust_domain);
    Ok(Arc::new(match data_dir {
        Some(data_dir) => Embedded::open(data_dir, settings, now, randomness)?.0,
        None => Embedded::in_memory(settings, now, randomness)?,
    }))
}

fn settings(trust_domain: &str) -> EmbeddedSettings {
    EmbeddedSettings {
        trust_domain: trust_domain.parse().unwrap(),
        ca_ttl: Duration::from_secs(7 * 24 * 3600),
        jwt_issuer: None,
    }
}

/// A real authority that refuses, waits or takes new keys when told to.
#[derive(Debug)]
pub(crate) struct FakeAuthority {
    /// The one that signs.
    active: Mutex<Arc<dyn Authority>>,
    randomness: Arc<Seeded>,
    bundle: watch::Sender<Arc<Bundle>>,
    /// How many certificates it signs before it waits for more.
    may_sign: Semaphore,
    refusing: Mutex<Option<String>>,
    refusing_one: Mutex<Option<String>>,
}

impl FakeAuthority {
    pub(super) fn over(real: Arc<dyn Authority>, randomness: Arc<Seeded>) -> Self {
        let mut published = real.bundle();
        let bundle = watch::Sender::new(published.borrow_and_update().clone());
        let sender = bundle.clone();
        tokio::spawn(async move {
            while published.changed().await.is_ok() {
                sender.send_replace(published.borrow_and_update().clone());
            }
        });
        Self {
            active: Mutex::new(real),
            randomness,
            bundle,
            may_sign: Semaphore::new(Semaphore::MAX_PERMITS),
            refusing: Mutex::default(),
            refusing_one: Mutex::default(),
        }
    }

    /// Makes new keys, publishes them beside the old ones, and signs with them from now on.
    pub(crate) fn rotate(&self, now: SystemTime) {
        let next = Embedded::in_memory(settings(&self.trust_domain()), moment(now), self.randomness.clone()).unwrap();
        let new = next.bundle().borrow().clone();
        self.bundle.send_modify(|bundle| {
            let mut both = Bundle::clone(bundle);
            both.x509_authorities.extend(new.x509_authorities.iter().cloned());
            both.jwt_authorities.extend(new.jwt_authorities.iter().cloned());
            both.sequence = both.sequence.map(|sequence| sequence + 1);
            *bundle = Arc::new(both);
        });
        *self.active.lock().unwrap() = Arc::new(next);
    }

    /// The bundle that it publishes now, as a SPIFFE document.
    pub(crate) fn document(&self) -> String {
        String::from_utf8(self.bundle.borrow().to_spiffe_json().to_vec()).unwrap()
    }

    pub(super) fn trust_domain(&self) -> String {
        self.bundle.borrow().trust_domain.to_string()
    }

    pub(crate) fn refuse(&self, why: &str) {
        *self.refusing.lock().unwrap() = Some(why.to_owned());
    }

    /// Refuses certificates for this path alone.
    pub(crate) fn refuse_path(&self, path: &str) {
        *self.refusing_one.lock().unwrap() = Some(path.to_owned());
    }

    /// Signs so many certificates more, and then waits to be told again.
    pub(crate) fn sign_only(&self, certificates: usize) {
        self.may_sign.forget_permits(Semaphore::MAX_PERMITS);
        self.may_sign.add_permits(certificates);
    }

    fn signs(&self, order: &Order) -> bool {
        self.refusing_one.lock().unwrap().as_deref() != Some(order.id.path())
    }

    pub(crate) fn relent(&self) {
        *self.refusing.lock().unwrap() = None;
    }

    fn active(&self) -> Arc<dyn Authority> {
        self.active.lock().unwrap().clone()
    }

    fn refused(&self) -> Option<Refused> {
        self.refusing.lock().unwrap().clone().map(Refused::Unavailable)
    }
}

impl Authority for FakeAuthority {
    fn kind(&self) -> &'static str {
        self.active().kind()
    }

    fn x509(&self, orders: Vec<Order>) -> BoxFuture<'_, Vec<Result<Chain, Refused>>> {
        match self.refused() {
            Some(refused) => Box::pin(std::future::ready(orders.iter().map(|_| Err(refused.clone())).collect())),
            None if orders.iter().all(|order| self.signs(order)) => Box::pin(async {
                self.may_sign.acquire().await.unwrap().forget();
                self.active().x509(orders).await
            }),
            None => {
                let refused = || Err(Refused::Unavailable("not this one".to_owned()));
                Box::pin(std::future::ready(orders.iter().map(|_| refused()).collect()))
            }
        }
    }

    fn jwt(&self, order: TokenOrder) -> BoxFuture<'_, Result<Token, Refused>> {
        match self.refused() {
            Some(refused) => Box::pin(std::future::ready(Err(refused))),
            None => Box::pin(async { self.active().jwt(order).await }),
        }
    }

    fn bundle(&self) -> watch::Receiver<Arc<Bundle>> {
        self.bundle.subscribe()
    }

    fn not_after(&self) -> Option<SystemTime> {
        self.active().not_after()
    }

    fn location(&self) -> SignerLocation {
        self.active().location()
    }

    fn validity(&self, now: SystemTime) -> Option<Validity> {
        self.active().validity(now)
    }

    fn keys(&self, now: SystemTime) -> Vec<KeyStatus> {
        self.active().keys(now)
    }

    fn tainted(&self) -> Arc<Vec<KeyId>> {
        self.active().tainted()
    }

    fn remedy(&self) -> String {
        self.active().remedy()
    }

    fn set_key_life(&self, ca_ttl: Duration) {
        self.active().set_key_life(ca_ttl);
    }

    fn rotate(&self, order: RotationOrder, now: Moment) -> Result<RotationBegun, NotRotated> {
        self.active().rotate(order, now)
    }

    fn is_due(&self, now: Moment, served: Served) -> bool {
        self.active().is_due(now, served)
    }

    fn maintain(&self, now: Moment, served: Served) -> Result<Maintained, NoAuthority> {
        self.active().maintain(now, served)
    }
}

/// A moment of a machine that was started then.
fn moment(wall: SystemTime) -> Moment {
    Moment { wall, since_boot: Duration::ZERO }
}
