//! The claims of signing: what a key signs, who else reads and writes the same, and what a key that fails leaves behind.

mod keys;
mod readers;
mod writers;

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::future::FutureExt;

use crate::authority::order::Order;
use crate::authority::order::TokenOrder;
use crate::authority::signing::certificates;
use crate::authority::signing::certificates::OwnCertificate;
use crate::authority::signing::certificates::X509Signer;
use crate::authority::signing::key::KeyFailed;
use crate::authority::signing::key::LocalKey;
use crate::authority::signing::key::SignatureForm;
use crate::authority::signing::key::SigningKey;
use crate::authority::signing::life::AUTHORITY_BACKDATE;
use crate::authority::signing::life::Life;
use crate::authority::signing::life::RELEASE_DATE;
use crate::identity::KeyType;
use crate::identity::PrivateKey;
use crate::identity::SubjectKey;
use crate::identity::TrustDomain;
use crate::randomness::SystemRandomness;
use crate::registration::Entry;

const HOUR: Duration = Duration::from_secs(3600);

fn release() -> SystemTime {
    UNIX_EPOCH + RELEASE_DATE
}

fn trust_domain() -> TrustDomain {
    "example.org".parse().unwrap()
}

/// A life of a week.
fn life() -> Life {
    Life { not_before: release() - AUTHORITY_BACKDATE, not_after: release() + 168 * HOUR }
}

fn new_key() -> PrivateKey {
    KeyType::P256.generate().unwrap().0
}

fn local(form: SignatureForm) -> LocalKey {
    LocalKey::new(&new_key(), form).unwrap()
}

/// The certificate that a key makes of itself.
fn own_certificate(key: &LocalKey) -> OwnCertificate {
    let der = certificates::self_signed(key, &trust_domain(), life(), &SystemRandomness).unwrap();
    OwnCertificate::read(der, &trust_domain()).unwrap()
}

fn signer(key: Arc<dyn SigningKey>, own: &OwnCertificate) -> X509Signer {
    X509Signer::new(key, trust_domain(), own, Arc::new(SystemRandomness))
}

fn order(dns: &[&str]) -> Order {
    let mut entry = Entry::example(0, "/payments/api", &["unix:uid:1000"]);
    entry.terms.dns = dns.iter().map(|name| (*name).to_owned()).collect();
    let (id, entry) = (entry.id.clone(), Arc::new(entry));
    let key = Arc::new(SubjectKey::generate(KeyType::P256).unwrap());
    Order { entry, id, key, issued: release(), not_after: release() + HOUR }
}

fn token() -> TokenOrder {
    let Order { entry, id, issued, not_after, .. } = order(&[]);
    TokenOrder { entry, id, audiences: vec!["ledger".to_owned()], issued, not_after, token_id: "5f3a".to_owned() }
}

/// A key elsewhere: it answers later, and remembers what it has signed.
#[derive(Debug)]
struct DistantKey {
    key: LocalKey,
    fails: bool,
    signed: Mutex<Vec<Vec<u8>>>,
}

impl DistantKey {
    fn new(form: SignatureForm) -> Self {
        Self { key: local(form), fails: false, signed: Mutex::new(Vec::new()) }
    }

    /// What it has signed since it was last asked.
    fn signed(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.signed.lock().unwrap())
    }
}

impl SigningKey for DistantKey {
    fn public_key(&self) -> &Bytes {
        self.key.public_key()
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, KeyFailed>> {
        async move {
            tokio::task::yield_now().await;
            if self.fails {
                return Err(KeyFailed("the token was pulled out".to_owned()));
            }
            self.signed.lock().unwrap().push(message.to_vec());
            self.key.sign(message).await
        }
        .boxed()
    }
}
