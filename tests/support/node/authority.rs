//! An authority that a test disturbs.

use std::sync::Arc;
use std::sync::Condvar;
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
use bonafide::authority::Note;
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

/// How long a key lives unless a test says otherwise.
pub(super) const CA_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// So long a test that fails is held up.
const LONGEST_HANG: Duration = Duration::from_secs(20);

/// An embedded authority of the tests' trust domain.
pub(crate) fn authority_made_at(now: SystemTime, randomness: Arc<dyn Randomness>) -> Embedded {
    Embedded::in_memory(settings(TRUST_DOMAIN, CA_TTL), moment(now), randomness).unwrap()
}

/// The embedded authority that the directory holds, or a new one.
pub(super) fn embedded(
    settings: EmbeddedSettings,
    now: Moment,
    randomness: Arc<Seeded>,
    data_dir: Option<Arc<DataDir>>,
) -> Result<Arc<dyn Authority>, NoAuthority> {
    Ok(Arc::new(match data_dir {
        Some(data_dir) => Embedded::open(data_dir, settings, now, randomness)?.0,
        None => Embedded::in_memory(settings, now, randomness)?,
    }))
}

pub(super) fn settings(trust_domain: &str, ca_ttl: Duration) -> EmbeddedSettings {
    EmbeddedSettings { trust_domain: trust_domain.parse().unwrap(), ca_ttl, jwt_issuer: None }
}

/// A real authority that refuses or waits when told to.
#[derive(Debug)]
pub(crate) struct FakeAuthority {
    real: Arc<dyn Authority>,
    /// How many certificates it signs before it waits for more.
    may_sign: Semaphore,
    /// How many calls it answers, after it has signed, before it waits for more.
    may_answer: Semaphore,
    refusing: Mutex<Option<String>>,
    refusing_one: Mutex<Option<String>>,
    /// Whether the disk does not answer from the first use of a key on, and whether somebody waits for it.
    hanging: (Mutex<bool>, Condvar),
    hung: watch::Sender<bool>,
}

impl FakeAuthority {
    pub(super) fn over(real: Arc<dyn Authority>) -> Self {
        Self {
            real,
            may_sign: Semaphore::new(Semaphore::MAX_PERMITS),
            may_answer: Semaphore::new(Semaphore::MAX_PERMITS),
            refusing: Mutex::default(),
            refusing_one: Mutex::default(),
            hanging: <_>::default(),
            hung: watch::Sender::new(false),
        }
    }

    /// The bundle that it publishes now, as a SPIFFE document.
    pub(crate) fn document(&self) -> String {
        String::from_utf8(self.real.bundle().borrow().to_spiffe_json().to_vec()).unwrap()
    }

    pub(super) fn trust_domain(&self) -> String {
        self.real.bundle().borrow().trust_domain.to_string()
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

    /// Answers so many calls more, and lets the others wait with what it has signed for them.
    pub(crate) fn answer_only(&self, calls: usize) {
        self.may_answer.forget_permits(Semaphore::MAX_PERMITS);
        self.may_answer.add_permits(calls);
    }

    fn signs(&self, order: &Order) -> bool {
        self.refusing_one.lock().unwrap().as_deref() != Some(order.id.path())
    }

    /// The disk does not answer after the next key is used.
    pub(crate) fn hang(&self) {
        *self.hanging.0.lock().unwrap() = true;
    }

    /// Returns when the disk does not answer.
    pub(crate) async fn hung(&self) {
        self.hung.subscribe().wait_for(|hung| *hung).await.unwrap();
    }

    /// The disk answers again.
    pub(crate) fn answer(&self) {
        *self.hanging.0.lock().unwrap() = false;
        self.hanging.1.notify_all();
    }

    pub(crate) fn relent(&self) {
        *self.refusing.lock().unwrap() = None;
    }

    fn refused(&self) -> Option<Refused> {
        self.refusing.lock().unwrap().clone().map(Refused::Unavailable)
    }
}

impl Authority for FakeAuthority {
    fn kind(&self) -> &'static str {
        self.real.kind()
    }

    fn x509(&self, orders: Vec<Order>) -> BoxFuture<'_, Vec<Result<Chain, Refused>>> {
        match self.refused() {
            Some(refused) => Box::pin(std::future::ready(orders.iter().map(|_| Err(refused.clone())).collect())),
            None if orders.iter().all(|order| self.signs(order)) => Box::pin(async {
                self.may_sign.acquire().await.unwrap().forget();
                let answers = self.real.x509(orders).await;
                self.may_answer.acquire().await.unwrap().forget();
                answers
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
            None => Box::pin(async { self.real.jwt(order).await }),
        }
    }

    fn bundle(&self) -> watch::Receiver<Arc<Bundle>> {
        self.real.bundle()
    }

    fn not_after(&self) -> Option<SystemTime> {
        self.real.not_after()
    }

    fn location(&self) -> SignerLocation {
        self.real.location()
    }

    fn validity(&self, now: SystemTime) -> Option<Validity> {
        self.real.validity(now)
    }

    fn keys(&self, now: SystemTime) -> Vec<KeyStatus> {
        self.real.keys(now)
    }

    fn tainted(&self) -> Arc<Vec<KeyId>> {
        self.real.tainted()
    }

    fn remedy(&self) -> String {
        self.real.remedy()
    }

    fn set_key_life(&self, ca_ttl: Duration) {
        self.real.set_key_life(ca_ttl);
    }

    fn rotate(&self, order: RotationOrder, now: Moment) -> Result<RotationBegun, NotRotated> {
        self.real.rotate(order, now)
    }

    fn is_due(&self, now: Moment, served: Served) -> bool {
        self.real.is_due(now, served)
    }

    fn maintain(&self, now: Moment, served: Served) -> Result<Maintained, NoAuthority> {
        let done = self.real.maintain(now, served)?;
        let (hanging, answers) = (self.hanging.0.lock().unwrap(), &self.hanging.1);
        if *hanging && done.notes.iter().any(|note| matches!(note, Note::Used { .. })) {
            self.hung.send_replace(true);
            drop(answers.wait_timeout_while(hanging, LONGEST_HANG, |hanging| *hanging).unwrap());
        }
        Ok(done)
    }
}

/// A moment of a machine that was started then.
fn moment(wall: SystemTime) -> Moment {
    Moment { wall, since_boot: Duration::ZERO }
}
