//! The embedded authority's claims: what it signs, and what it keeps.

mod keeping;
mod signing;

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::authority::Authority;
use crate::authority::Chain;
use crate::authority::Order;
use crate::authority::Refused;
use crate::authority::TokenOrder;
use crate::authority::embedded::Embedded;
use crate::authority::embedded::EmbeddedSettings;
use crate::authority::embedded::RELEASE_DATE;
use crate::identity::p256;
use crate::randomness::SystemRandomness;

const HOUR: Duration = Duration::from_secs(3600);
const CA_TTL: Duration = Duration::from_secs(168 * 3600);

fn release() -> SystemTime {
    UNIX_EPOCH + RELEASE_DATE
}

fn settings() -> EmbeddedSettings {
    EmbeddedSettings { trust_domain: "example.org".parse().unwrap(), ca_ttl: CA_TTL, jwt_issuer: None }
}

fn authority() -> Embedded {
    Embedded::in_memory(settings(), release(), Arc::new(SystemRandomness)).unwrap()
}

fn order(issued: SystemTime, ttl: Duration) -> Order {
    Order {
        id: "spiffe://example.org/payments/api".parse().unwrap(),
        dns: vec!["payments.internal".to_owned()],
        public_key: p256::generate().unwrap().1,
        issued,
        not_after: issued + ttl,
    }
}

async fn sign(authority: &Embedded, order: Order) -> Result<Chain, Refused> {
    authority.x509(vec![order]).await.remove(0)
}

fn token(issued: SystemTime, ttl: Duration) -> TokenOrder {
    TokenOrder {
        id: "spiffe://example.org/payments/api".parse().unwrap(),
        audiences: vec!["ledger".to_owned()],
        issued,
        not_after: issued + ttl,
        token_id: "5f3a".to_owned(),
    }
}

fn seconds(time: SystemTime) -> i64 {
    i64::try_from(time.duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}
