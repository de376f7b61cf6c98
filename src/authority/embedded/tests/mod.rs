//! The embedded authority's claims: what it signs, what it keeps, and how its keys take turns.

mod hard_cases;
mod keeping;
mod lives;
mod odd_states;
mod rotating;
mod signing;

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::authority::Authority;
use crate::authority::Chain;
use crate::authority::EmbeddedSettings;
use crate::authority::Order;
use crate::authority::RELEASE_DATE;
use crate::authority::Refused;
use crate::authority::TokenOrder;
use crate::authority::embedded::Embedded;
use crate::identity::KeyType;
use crate::identity::SubjectKey;
use crate::randomness::SystemRandomness;
use crate::registration::Entry;
use crate::time::Moment;

const HOUR: Duration = Duration::from_secs(3600);
const CA_TTL: Duration = Duration::from_secs(168 * 3600);

fn release() -> SystemTime {
    UNIX_EPOCH + RELEASE_DATE
}

/// A moment of a machine that was started at the release.
fn moment(wall: SystemTime) -> Moment {
    Moment { wall, since_boot: wall.duration_since(release()).unwrap_or_default() }
}

fn settings() -> EmbeddedSettings {
    EmbeddedSettings { trust_domain: "example.org".parse().unwrap(), ca_ttl: CA_TTL, jwt_issuer: None }
}

fn authority() -> Embedded {
    Embedded::in_memory(settings(), moment(release()), Arc::new(SystemRandomness)).unwrap()
}

fn entry(dns: &[&str]) -> Arc<Entry> {
    let mut entry = Entry::example(0, "/payments/api", &["unix:uid:1000"]);
    entry.terms.dns = dns.iter().map(|name| (*name).to_owned()).collect();
    Arc::new(entry)
}

fn order(issued: SystemTime, ttl: Duration) -> Order {
    order_for(entry(&["payments.internal"]), issued, ttl)
}

fn order_for(entry: Arc<Entry>, issued: SystemTime, ttl: Duration) -> Order {
    let key = Arc::new(SubjectKey::generate(KeyType::P256).unwrap());
    Order { id: entry.id.clone(), entry, key, issued, not_after: issued + ttl }
}

async fn sign(authority: &Embedded, order: Order) -> Result<Chain, Refused> {
    authority.x509(vec![order]).await.remove(0)
}

fn token(issued: SystemTime, ttl: Duration) -> TokenOrder {
    let entry = entry(&[]);
    TokenOrder {
        id: entry.id.clone(),
        entry,
        audiences: vec!["ledger".to_owned()],
        issued,
        not_after: issued + ttl,
        token_id: "5f3a".to_owned(),
    }
}

fn seconds(time: SystemTime) -> i64 {
    i64::try_from(time.duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}
