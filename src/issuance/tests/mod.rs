//! Tests of the issuer with local and remote signers.

mod image;
mod local;
mod remote;
mod shared;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::sleep;

use crate::attestation::Attested;
use crate::authority::Authority;
use crate::authority::Chain;
use crate::authority::Embedded;
use crate::authority::EmbeddedSettings;
use crate::authority::KeyId;
use crate::authority::KeySharing;
use crate::authority::KeyStatus;
use crate::authority::Maintained;
use crate::authority::NoAuthority;
use crate::authority::NotRotated;
use crate::authority::Order;
use crate::authority::RELEASE_DATE;
use crate::authority::Refused;
use crate::authority::RotationBegun;
use crate::authority::RotationOrder;
use crate::authority::Served;
use crate::authority::SignerLocation;
use crate::authority::Token;
use crate::authority::TokenOrder;
use crate::authority::Validity;
use crate::evidence::EvidenceSet;
use crate::evidence::Grade;
use crate::evidence::Level;
use crate::evidence::Principal;
use crate::evidence::Source;
use crate::identity::Bundle;
use crate::issuance::EntriesInForce;
use crate::issuance::Holder;
use crate::issuance::ImageSvids;
use crate::issuance::IssueError;
use crate::issuance::IssuedX509Svid;
use crate::issuance::Issuer;
use crate::policy::DecisionId;
use crate::policy::Permit;
use crate::policy::Rulebook;
use crate::policy::Rules;
use crate::policy::decide;
use crate::randomness::SystemRandomness;
use crate::registration::Entry;
use crate::registration::EntryIndex;
use crate::time::Clock;
use crate::time::Moment;

const CALLER: Principal = Principal { uid: 1000, cgroup: 0 };
const EPOCH: u64 = 7;
const HOUR: Duration = Duration::from_secs(3600);
const ROUND_TRIP: Duration = Duration::from_millis(20);

fn release() -> SystemTime {
    UNIX_EPOCH + RELEASE_DATE
}

fn entry(path: &str) -> Entry {
    Entry::example(0, path, &["unix:uid:1000"])
}

/// The permit of uid 1000 by this entry alone.
fn permit_by(entry: Entry) -> Permit {
    let mut evidence = EvidenceSet::default();
    evidence.prove("unix:uid:1000".parse().unwrap(), Grade::Kernel, Source::Credentials);
    let caller = Attested::example(Level::Full, evidence);
    let rulebook =
        Rulebook::new(EPOCH, EntryIndex::new(vec![entry]), Rules { minimum: Level::Reduced, wait: Duration::ZERO });
    decide(&caller, &rulebook, DecisionId([3; 6]), release()).outcome.into_permits().remove(0)
}

/// Issues for a process image of its own.
async fn issue(world: &World, principal: Principal, permit: Permit) -> Result<IssuedX509Svid, IssueError> {
    let holder = Holder { principal, svids: &ImageSvids::default(), held: &[] };
    world.issuer.x509_svid(holder, permit).await
}

fn permit(path: &str) -> Permit {
    permit_by(entry(path))
}

fn embedded(ca_ttl: Duration) -> Embedded {
    let settings = EmbeddedSettings { trust_domain: "example.org".parse().unwrap(), ca_ttl, jwt_issuer: None };
    let now = Moment { wall: release(), since_boot: Duration::ZERO };
    Embedded::in_memory(settings, now, Arc::new(SystemRandomness)).unwrap()
}

/// An issuer with its clock and epoch. The wall clock follows tokio's paused clock.
struct World {
    issuer: Arc<Issuer>,
    clock: Arc<RunningClock>,
    epoch: Arc<AtomicU64>,
}

impl World {
    /// Uses a local authority that lives for `ca_ttl`.
    fn local(ca_ttl: Duration) -> Self {
        Self::of(Arc::new(embedded(ca_ttl)))
    }

    /// Uses a remote signer, and runs the issuer's sender.
    fn remote(key_sharing: KeySharing, max_batch: usize) -> (Self, Arc<NetworkSigner>) {
        let signer = Arc::new(NetworkSigner {
            inner: embedded(HOUR * 168),
            location: SignerLocation::Remote { max_batch, key_sharing },
            seen: Mutex::default(),
            behaves: Mutex::new(Behaves::Signs),
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
        });
        let world = Self::of(signer.clone());
        let issuer = Arc::clone(&world.issuer);
        tokio::spawn(async move { issuer.run().await });
        (world, signer)
    }

    fn of(authority: Arc<dyn Authority>) -> Self {
        let epoch = Arc::new(AtomicU64::new(EPOCH));
        let clock = Arc::new(RunningClock { begun: Instant::now(), set_to: Mutex::new(release() + HOUR) });
        let current = Arc::clone(&epoch);
        let current_epoch = Box::new(move || current.load(Ordering::Relaxed));
        let issuer = Issuer::new(authority, current_epoch, clock.clone(), Arc::new(SystemRandomness));
        Self { issuer: Arc::new(issuer), clock, epoch }
    }

    fn change_rulebook(&self) {
        self.epoch.store(EPOCH + 1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct RunningClock {
    begun: Instant,
    set_to: Mutex<SystemTime>,
}

impl RunningClock {
    fn set_back(&self, by: Duration) {
        *self.set_to.lock().unwrap() -= by;
    }
}

impl Clock for RunningClock {
    fn now(&self) -> SystemTime {
        *self.set_to.lock().unwrap() + self.begun.elapsed()
    }

    fn since_boot(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// A remote signer with a scripted behaviour.
#[derive(Debug)]
struct NetworkSigner {
    inner: Embedded,
    location: SignerLocation,
    /// The SPIFFE IDs of each call.
    seen: Mutex<Vec<Vec<String>>>,
    behaves: Mutex<Behaves>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behaves {
    Signs,
    Refuses,
    Hangs,
    AnswersNothing,
}

impl NetworkSigner {
    fn begins_to(&self, behave: Behaves) {
        *self.behaves.lock().unwrap() = behave;
    }

    /// The number of orders in each call.
    fn calls(&self) -> Vec<usize> {
        self.seen.lock().unwrap().iter().map(Vec::len).collect()
    }
}

impl Authority for NetworkSigner {
    fn kind(&self) -> &'static str {
        "network"
    }

    fn x509(&self, orders: Vec<Order>) -> BoxFuture<'_, Vec<Result<Chain, Refused>>> {
        self.seen.lock().unwrap().push(orders.iter().map(|order| order.id.to_string()).collect());
        Box::pin(async move {
            let at_once = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
            self.most_at_once.fetch_max(at_once, Ordering::Relaxed);
            sleep(ROUND_TRIP).await;
            self.at_once.fetch_sub(1, Ordering::Relaxed);
            let behaves = *self.behaves.lock().unwrap();
            match behaves {
                Behaves::Signs => self.inner.x509(orders).await,
                Behaves::Refuses => orders.iter().map(|_| Err(Refused::Unavailable("down".to_owned()))).collect(),
                Behaves::Hangs => std::future::pending().await,
                Behaves::AnswersNothing => Vec::new(),
            }
        })
    }

    fn jwt(&self, order: TokenOrder) -> BoxFuture<'_, Result<Token, Refused>> {
        Box::pin(async move {
            sleep(ROUND_TRIP).await;
            let behaves = *self.behaves.lock().unwrap();
            if behaves == Behaves::Hangs { std::future::pending().await } else { self.inner.jwt(order).await }
        })
    }

    fn bundle(&self) -> watch::Receiver<Arc<Bundle>> {
        self.inner.bundle()
    }

    fn location(&self) -> SignerLocation {
        self.location
    }

    fn not_after(&self) -> Option<SystemTime> {
        self.inner.not_after()
    }

    fn validity(&self, now: SystemTime) -> Option<Validity> {
        self.inner.validity(now)
    }

    fn keys(&self, _: SystemTime) -> Vec<KeyStatus> {
        Vec::new()
    }

    fn tainted(&self) -> Arc<Vec<KeyId>> {
        Arc::default()
    }

    fn remedy(&self) -> String {
        String::new()
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
