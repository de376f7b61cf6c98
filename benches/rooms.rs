//! Benchmarks of single modules, each interleaved with a benchmark of the machine's own limit: `cargo bench --bench
//! rooms`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a measurement fails by panicking")]

#[allow(dead_code, reason = "the other program uses the rest")]
mod measure;

use std::fs;
use std::hint::black_box;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use bonafide::attestation::Attested;
use bonafide::attestation::Attestor;
use bonafide::attestation::linux::Linux;
use bonafide::authority::Embedded;
use bonafide::authority::EmbeddedSettings;
use bonafide::evidence::Level;
use bonafide::evidence::Principal;
use bonafide::issuance::Holder;
use bonafide::issuance::ImageSvids;
use bonafide::issuance::Issuer;
use bonafide::policy::Decision;
use bonafide::policy::DecisionId;
use bonafide::policy::Outcome;
use bonafide::policy::Permit;
use bonafide::policy::Rulebook;
use bonafide::policy::Rules;
use bonafide::policy::decide;
use bonafide::randomness::SystemRandomness;
use bonafide::registration::Entry;
use bonafide::registration::EntryIndex;
use bonafide::registration::entry::EntryOrder;
use bonafide::registration::entry::Origin;
use bonafide::registration::entry::Terms;
use bonafide::time::Clock as _;
use bonafide::time::SystemClock;
use futures_util::FutureExt as _;
use tokio::time::Instant;

use crate::measure::raw;
use crate::measure::report;
use crate::measure::report::Figure;
use crate::measure::report::Promise;
use crate::measure::report::median;
use crate::measure::report::micros;
use crate::measure::report::percentile;

const ROUNDS: usize = 5;
const PER_ROUND: u32 = 2_000;
/// One round more than is counted: the first is a warm-up.
const IN_ALL: u32 = (ROUNDS as u32 + 1) * PER_ROUND;
/// Entries that share a uid, the rarest of their selectors.
const OF_ONE_USER: u32 = 100;

fn main() {
    report::print_heading();
    let ourselves = Ourselves::new();
    for figure in ourselves.attestation() {
        figure.print(false);
    }
    let attested = ourselves.attest();
    for entries in [10, 1_000, 100_000] {
        matching(&attested, entries).print(false);
    }
    for figure in issuance(&attested) {
        figure.print(false);
    }
}

/// The time of each function: medians of interleaved rounds, after one warm-up round.
fn in_turns(mut ours: impl FnMut(), mut limit: impl FnMut()) -> (f64, f64) {
    let (mut our_rounds, mut limit_rounds) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (ours, limit) = (raw::time_each(PER_ROUND, &mut ours), raw::time_each(PER_ROUND, &mut limit));
        if round > 0 {
            our_rounds.push(micros(ours));
            limit_rounds.push(micros(limit));
        }
    }
    (median(&mut our_rounds), median(&mut limit_rounds))
}

/// This process as its own caller, over a pair of sockets.
struct Ourselves {
    machine: Arc<Linux>,
    attestor: Attestor,
    entries: EntryIndex,
    socket: UnixStream,
}

impl Ourselves {
    fn new() -> Self {
        let machine = Arc::new(Linux::open(Level::Reduced).expect("a machine that can attest"));
        let path = std::env::current_exe().expect("this program has a path");
        let selectors = [our_uid(0), format!("unix:path:{}", path.display())];
        Self {
            attestor: Attestor::new(machine.clone(), Vec::new()),
            machine,
            entries: EntryIndex::new(vec![entry(0, &selectors)]),
            socket: UnixStream::pair().expect("a pair of sockets").0,
        }
    }

    /// The whole attestation of an accepted connection; the entry has a path selector.
    fn attest(&self) -> Attested {
        let process = self.machine.peer(self.socket.as_fd()).expect("we live");
        let pinned = self.attestor.by_peer(Arc::new(process)).expect("we are ourselves");
        let wants = |evidence: &_| self.entries.wants(evidence);
        self.attestor.attest(&pinned, &wants, self.entries.accounts()).expect("we are ourselves").proof
    }

    /// Attests a thousand times a second, as on a busy node. The limit is a plain read of the same files.
    fn attestation(&self) -> [Figure; 2] {
        let (mut p50s, mut p99s, mut limits) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (mut ours, mut limit) = (Vec::new(), Vec::new());
            for _ in 0..PER_ROUND {
                std::thread::sleep(Duration::from_millis(1));
                let begin = Instant::now();
                let _ = black_box(self.attest());
                let between = Instant::now();
                read_the_same_files();
                ours.push(micros(between - begin));
                limit.push(micros(between.elapsed()));
            }
            p50s.push(percentile(&mut ours, 0.5));
            p99s.push(percentile(&mut ours, 0.99));
            limits.push(percentile(&mut limit, 0.5));
        }
        let name = "attestation of a host process, warm, 1,000/s";
        [
            Figure::new(format!("{name}, p50"), "us", median(&mut p50s), Promise::AtMost(50.0))
                .beside(median(&mut limits)),
            Figure::new(format!("{name}, p99"), "us", median(&mut p99s), Promise::AtMost(1_000.0)),
        ]
    }
}

fn read_the_same_files() {
    for file in ["status", "stat", "cgroup"] {
        black_box(fs::read(format!("/proc/self/{file}")).expect("a file of our own"));
    }
    for link in ["exe", "ns/user", "ns/mnt", "ns/pid"] {
        black_box(fs::metadata(format!("/proc/self/{link}")).expect("a link of our own"));
    }
}

/// Decides among entries of this user and of many others, which all require a group that the caller lacks.
fn matching(caller: &Attested, entries: u32) -> Figure {
    let selectors = |n: u32| [our_uid(n / OF_ONE_USER), "unix:gid:4294967294".to_owned()];
    let mut all: Vec<Entry> = (1..entries).map(|n| entry(n, &selectors(n))).collect();
    all.push(entry(0, &[our_uid(0)]));
    let rulebook = rulebook(all);
    let now = SystemClock.now();
    let (ours, _) = in_turns(
        || {
            let decision = black_box(decide(black_box(caller), &rulebook, DecisionId([0; 6]), now));
            assert_eq!(permits(decision).len(), 1);
        },
        || (),
    );
    let name =
        format!("deciding, {entries} entries, {} candidates", rulebook.entries().candidates(caller.evidence()).len());
    Figure::new(name, "us", ours, Promise::AtMost(20.0))
}

fn issuance(caller: &Attested) -> [Figure; 2] {
    let settings = EmbeddedSettings {
        trust_domain: "load.test".parse().expect("a trust domain"),
        ca_ttl: Duration::from_secs(604_800),
        jwt_issuer: None,
    };
    let now = SystemClock.now();
    let authority =
        Embedded::in_memory(settings, SystemClock.moment(), Arc::new(SystemRandomness)).expect("an authority");
    let issuer = Issuer::new(Arc::new(authority), Box::new(|| 1), Arc::new(SystemClock), Arc::new(SystemRandomness));
    let rulebook = rulebook(vec![entry(0, &[our_uid(0)])]);
    let permits = || -> Vec<Permit> {
        (0..IN_ALL).flat_map(|_| permits(decide(caller, &rulebook, DecisionId([0; 6]), now))).collect()
    };
    let (principal, signer) = (Principal { uid: caller.peer().uid, cgroup: 0 }, raw::Signer::new());

    let mut left = permits();
    let (x509, key_and_signature) = in_turns(
        || {
            let holder = Holder { principal, svids: &ImageSvids::default(), held: &[] };
            let issuing = issuer.x509_svid(holder, left.pop().expect("one for each"));
            black_box(issuing.now_or_never().expect("no other request is queued").expect("an SVID"));
        },
        || signer.key_and_signature(),
    );
    let mut left = permits();
    let (jwt, signature) = in_turns(
        || {
            let permit = left.pop().expect("one for each");
            let issuing = issuer.jwt_svid(principal, permit, vec!["ledger".to_owned()]);
            black_box(issuing.now_or_never().expect("no other request is queued").expect("an SVID"));
        },
        || signer.sign(),
    );
    let per_second = |micros: f64| 1e6 / micros;
    [
        Figure::new("X509-SVIDs, P-256, on one core", "/s", per_second(x509), Promise::AtLeastOfTheLimit(0.8))
            .beside(per_second(key_and_signature)),
        Figure::new("JWT-SVIDs, ES256, on one core", "/s", per_second(jwt), Promise::Nothing)
            .beside(per_second(signature)),
    ]
}

fn permits(decision: Decision) -> Vec<Permit> {
    match decision.outcome {
        Outcome::Permits(permits) => permits,
        other => panic!("no permits but {other:?}"),
    }
}

fn rulebook(entries: Vec<Entry>) -> Rulebook {
    Rulebook::new(1, EntryIndex::new(entries), Rules { minimum: Level::Reduced, wait: Duration::from_secs(5) })
}

fn our_uid(further: u32) -> String {
    format!("unix:uid:{}", nix::unistd::getuid().as_raw() + further)
}

fn entry(n: u32, selectors: &[String]) -> Entry {
    let mut selectors: Vec<_> = selectors.iter().map(|text| text.parse().expect("a selector")).collect();
    selectors.sort();
    let terms = Terms {
        x509_ttl: Duration::from_secs(3600),
        jwt_ttl: Duration::from_secs(300),
        dns: Vec::new(),
        subject: Default::default(),
        audiences: None,
    };
    Entry {
        id: format!("spiffe://load.test/{n}").parse().expect("a SPIFFE ID"),
        selectors,
        terms,
        federates_with: Vec::new(),
        hint: None,
        priority: 0,
        accept_weak: false,
        order: EntryOrder::in_files(n),
        origin: Origin::File { file: "load.toml".into(), line: n },
    }
}
