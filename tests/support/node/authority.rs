//! An authority that a test disturbs.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::SystemTime;

use bonafide::authority::Authority;
use bonafide::authority::Chain;
use bonafide::authority::Embedded;
use bonafide::authority::EmbeddedSettings;
use bonafide::authority::NoAuthority;
use bonafide::authority::Note;
use bonafide::authority::Order;
use bonafide::authority::Refused;
use bonafide::authority::SignerLocation;
use bonafide::authority::Token;
use bonafide::authority::TokenOrder;
use bonafide::authority::Validity;
use bonafide::durable::DataDir;
use bonafide::identity::Bundle;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::sync::watch;

use crate::node::Seeded;

/// A real authority that refuses, waits or takes a new key when told to.
#[derive(Debug)]
pub(crate) struct FakeAuthority {
    /// The one that signs.
    active: Mutex<Arc<Embedded>>,
    settings: EmbeddedSettings,
    randomness: Arc<Seeded>,
    bundle: watch::Sender<Arc<Bundle>>,
    /// How many certificates it signs before it waits for more.
    may_sign: Semaphore,
    refusing: Mutex<Option<String>>,
    refusing_one: Mutex<Option<String>>,
}

impl FakeAuthority {
    pub(super) fn new(
        trust_domain: &str,
        now: SystemTime,
        randomness: Arc<Seeded>,
        data_dir: Option<Arc<DataDir>>,
    ) -> Result<Self, NoAuthority> {
        let settings = EmbeddedSettings {
            trust_domain: trust_domain.parse().unwrap(),
            ca_ttl: Duration::from_secs(7 * 24 * 3600),
            jwt_issuer: None,
        };
        let opened = Arc::new(match data_dir {
            Some(data_dir) => Embedded::open(data_dir, settings.clone(), now, randomness.clone())?.0,
            None => Embedded::in_memory(settings.clone(), now, randomness.clone())?,
        });
        let bundle = watch::Sender::new(opened.bundle().borrow().clone());
        Ok(Self {
            active: Mutex::new(opened),
            settings,
            randomness,
            bundle,
            may_sign: Semaphore::new(Semaphore::MAX_PERMITS),
            refusing: Mutex::default(),
            refusing_one: Mutex::default(),
        })
    }

    /// Makes new keys, publishes them beside the old ones, and signs with them from now on.
    pub(crate) fn rotate(&self, now: SystemTime) {
        let next = Embedded::in_memory(self.settings.clone(), now, self.randomness.clone()).unwrap();
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

    pub(super) fn trust_domain(&self) -> &str {
        self.settings.trust_domain.as_str()
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

    fn active(&self) -> Arc<Embedded> {
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

    fn replacement(&self) -> String {
        self.active().replacement()
    }

    fn maintain(&self, now: SystemTime) -> Result<Option<Note>, NoAuthority> {
        self.active().maintain(now)
    }
}
