//! A fake signer on a network: each call takes a round trip and up to 500 orders, and each entry has one key. It verifies
//! the signature of every certificate request.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;

use bonafide::authority::Authority;
use bonafide::authority::Chain;
use bonafide::authority::Embedded;
use bonafide::authority::KeyId;
use bonafide::authority::KeySharing;
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
use bonafide::identity::Bundle;
use bonafide::randomness::SystemRandomness;
use bonafide::time::Clock;
use bonafide::time::Moment;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::sleep;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::node::TestClock;
use crate::node::authority_made_at;

pub(crate) const ROUND_TRIP: Duration = Duration::from_millis(20);
pub(crate) const MAX_BATCH: usize = 500;

#[derive(Debug)]
pub(crate) struct RemoteSigner {
    keys: Embedded,
    calls: Mutex<Vec<usize>>,
    is_down: AtomicBool,
}

impl RemoteSigner {
    pub(crate) fn start() -> Arc<Self> {
        let keys = authority_made_at(TestClock::default().now(), Arc::new(SystemRandomness));
        Arc::new(Self { keys, calls: Mutex::default(), is_down: AtomicBool::new(false) })
    }

    /// The number of orders in each call.
    pub(crate) fn calls(&self) -> Vec<usize> {
        self.calls.lock().unwrap().clone()
    }

    pub(crate) fn goes_down(&self) {
        self.is_down.store(true, Ordering::Relaxed);
    }

    pub(crate) fn comes_back(&self) {
        self.is_down.store(false, Ordering::Relaxed);
    }

    async fn round_trip(&self) -> Result<(), Refused> {
        sleep(ROUND_TRIP).await;
        let down = || Refused::Unavailable("connection refused".to_owned());
        if self.is_down.load(Ordering::Relaxed) { Err(down()) } else { Ok(()) }
    }

    async fn sign(&self, order: Order) -> Result<Chain, Refused> {
        let not_proven = || Refused::Unavailable("the request is not signed by its key".to_owned());
        let request = order.key.certificate_request(&order.id).ok_or_else(not_proven)?;
        let (_, request) = X509CertificationRequest::from_der(&request).map_err(|_| not_proven())?;
        request.verify_signature().map_err(|_| not_proven())?;
        assert_eq!(request.certification_request_info.subject_pki.raw, order.key.public_key());
        self.keys.x509(vec![order]).await.remove(0)
    }
}

impl Authority for RemoteSigner {
    fn kind(&self) -> &'static str {
        "remote"
    }

    fn x509(&self, orders: Vec<Order>) -> BoxFuture<'_, Vec<Result<Chain, Refused>>> {
        assert!((1..=MAX_BATCH).contains(&orders.len()), "{} orders in a call", orders.len());
        self.calls.lock().unwrap().push(orders.len());
        Box::pin(async move {
            let arrived = self.round_trip().await;
            let mut answers = Vec::new();
            for order in orders {
                answers.push(match &arrived {
                    Ok(()) => self.sign(order).await,
                    Err(down) => Err(down.clone()),
                });
            }
            answers
        })
    }

    fn jwt(&self, order: TokenOrder) -> BoxFuture<'_, Result<Token, Refused>> {
        Box::pin(async move {
            self.round_trip().await?;
            self.keys.jwt(order).await
        })
    }

    fn bundle(&self) -> watch::Receiver<Arc<Bundle>> {
        self.keys.bundle()
    }

    fn location(&self) -> SignerLocation {
        SignerLocation::Remote { max_batch: MAX_BATCH, key_sharing: KeySharing::PerEntry }
    }

    fn not_after(&self) -> Option<SystemTime> {
        self.keys.not_after()
    }

    fn validity(&self, now: SystemTime) -> Option<Validity> {
        self.keys.validity(now)
    }

    fn keys(&self, _: SystemTime) -> Vec<KeyStatus> {
        Vec::new()
    }

    fn tainted(&self) -> Arc<Vec<KeyId>> {
        Arc::default()
    }

    fn remedy(&self) -> String {
        "Ask whoever runs the signer.".to_owned()
    }

    fn set_key_life(&self, _: Duration) {}

    fn rotate(&self, _: RotationOrder, _: Moment) -> Result<RotationBegun, NotRotated> {
        Err(NotRotated::KeptElsewhere)
    }

    fn is_due(&self, _: Moment, _: Served) -> bool {
        false
    }

    fn maintain(&self, _: Moment, _: Served) -> Result<Maintained, NoAuthority> {
        Ok(Maintained::default())
    }
}
