//! New keys of the authority under open streams: what everybody holds verifies by what everybody else was told, through
//! disks that fail, clocks that step, a signer that refuses, and power cuts.

use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use bonafide::authority::KeyKind;
use bonafide::authority::KeyStatus;
use bonafide::authority::Stage;
use bonafide::endpoints::workload_api::proto::X509svidResponse;
use bonafide::time::Clock as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::kernel::FakeKernel;
use crate::kernel::FakePid;
use crate::kernel::FakeProcess;
use crate::node::Client;
use crate::node::Configuration;
use crate::node::Seeded;
use crate::node::Seen;
use crate::node::Setup;
use crate::node::TestClock;
use crate::node::TestNode;
use crate::node::Updates;
use crate::node::workload;
use crate::simulated_disk::SimulatedDisk;
use crate::simulated_disk::Trouble;
use crate::simulated_disk::Unsynced;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const SEEDS: u64 = 60;
const EVENTS: u64 = 60;

fn tables() -> String {
    workload("/web", &["unix:uid:1000"]) + &workload("/db", &["unix:uid:1001"])
}

fn spawn(kernel: &FakeKernel, uid: u32) -> FakePid {
    kernel.spawn(FakeProcess { uid, gid: uid, ..FakeProcess::default() })
}

fn keys(node: &TestNode, kind: KeyKind) -> Vec<KeyStatus> {
    use bonafide::authority::Authority as _;
    node.authority.keys(node.clock.now()).into_iter().filter(|key| key.kind == kind).collect()
}

fn active(node: &TestNode, kind: KeyKind) -> String {
    keys(node, kind).into_iter().find(|key| key.stage == Stage::Active).unwrap().id
}

/// The roots of a bundle: DER, concatenated.
fn roots(mut bundle: &[u8]) -> Vec<X509Certificate<'_>> {
    let mut roots = Vec::new();
    while !bundle.is_empty() {
        let (rest, root) = X509Certificate::from_der(bundle).unwrap();
        roots.push(root);
        bundle = rest;
    }
    roots
}

/// Whether somebody with this bundle believes this leaf.
fn believes(bundle: &[u8], leaf: &[u8]) -> bool {
    let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
    roots(bundle).iter().any(|root| leaf.verify_signature(Some(root.public_key())).is_ok())
}

fn leaf(update: &X509svidResponse) -> &[u8] {
    &update.svids[0].x509_svid
}

fn bundle(update: &X509svidResponse) -> &[u8] {
    &update.svids[0].bundle
}

/// The latest of what comes within half a second.
async fn latest(updates: &mut Updates) -> Option<X509svidResponse> {
    let mut told = None;
    while let Some(Seen::Update(update)) = updates.within(SECOND / 2).await {
        told = Some(update);
    }
    told
}

#[tokio::test(start_paused = true)]
async fn a_stream_has_the_new_bundle_before_anybody_has_an_svid_of_the_new_key() {
    let node = TestNode::start(7, &tables());
    let mut web = node.workload(&spawn(&node.kernel, 1000)).await;
    let first = web.update().await;
    let old = active(&node, KeyKind::X509);
    node.rotate(None, false).unwrap();
    let told = latest(&mut web).await.expect("the new bundle");
    assert_eq!((leaf(&told), roots(bundle(&told)).len()), (leaf(&first), 2));
    tokio::time::sleep(8 * SECOND).await;
    assert_eq!(active(&node, KeyKind::X509), old);
    tokio::time::sleep(3 * SECOND).await;
    let later = node.workload(&spawn(&node.kernel, 1001)).await.update().await;
    assert!(believes(bundle(&told), leaf(&later)) && !believes(bundle(&first), leaf(&later)));
    assert_eq!(latest(&mut web).await, None, "an SVID of the key before is renewed in its own time");
}

#[tokio::test(start_paused = true)]
async fn an_svid_that_was_signed_after_its_bundle_was_read_waits_for_the_next_bundle() {
    let node = TestNode::start(7, &tables());
    let old = active(&node, KeyKind::X509);
    node.authority.sign_only(0);
    let client = node.client(&spawn(&node.kernel, 1000));
    let mut web = client.x509_svids_later();
    assert!(web.within(SECOND).await.is_none());
    node.rotate(None, false).unwrap();
    tokio::time::sleep(12 * SECOND).await;
    assert_ne!(active(&node, KeyKind::X509), old);
    node.authority.sign_only(1);
    let told = web.update().await;
    assert!(believes(bundle(&told), leaf(&told)));
}

#[tokio::test(start_paused = true)]
async fn an_svid_that_a_tainted_key_signed_last_is_handed_out_to_nobody() {
    let node = TestNode::start(7, &tables());
    let mut holder = node.workload(&spawn(&node.kernel, 1001)).await;
    let first = holder.update().await;
    let old = active(&node, KeyKind::X509);
    node.rotate(Some(KeyKind::X509), true).unwrap();
    node.authority.answer_only(0);
    let client = node.client(&spawn(&node.kernel, 1000));
    let mut web = client.x509_svids_later();
    assert!(web.within(SECOND).await.is_none());
    assert_eq!(active(&node, KeyKind::X509), old);
    tokio::time::sleep(4 * SECOND).await;
    assert_ne!(active(&node, KeyKind::X509), old);
    node.authority.answer_only(8);
    let told = web.update().await;
    assert_eq!(
        roots(bundle(&told)).len(),
        2,
        "the tainted key is still in the bundle, for somebody holds an SVID of it"
    );
    assert!(!believes(bundle(&first), leaf(&told)));
}

#[tokio::test(start_paused = true)]
async fn what_a_tainted_key_signed_is_renewed_at_once_and_its_key_leaves_when_all_have_been_served() {
    let mut node = TestNode::start(7, &tables());
    let admin = node.open_admin_door();
    let processes = [spawn(&node.kernel, 1000), spawn(&node.kernel, 1001)];
    let mut streams = [node.workload(&processes[0]).await, node.workload(&processes[1]).await];
    let mut before = Vec::new();
    for stream in &mut streams {
        before.push(stream.update().await);
    }
    let web = node.client(&processes[0]);
    let token = web.jwt_svids("ledger", "").await.unwrap().remove(0).svid;
    let begun = node.rotate(None, true).unwrap();
    assert_eq!(begun.tainted.iter().map(|key| key.tokens).sum::<u64>(), 1);
    tokio::time::sleep(4 * SECOND).await;
    for (stream, before) in streams.iter_mut().zip(&before) {
        let told = latest(stream).await.expect("a new SVID");
        assert_ne!(leaf(&told), leaf(before));
        assert!(believes(bundle(&told), leaf(&told)) && !believes(bundle(&told), leaf(before)));
    }
    assert!(web.validate("ledger", &token).await.is_err(), "its key has left");
    assert_eq!(keys(&node, KeyKind::X509).len() + keys(&node, KeyKind::Jwt).len(), 2);
    let again = node.workload(&processes[0]).await.update().await;
    assert_ne!(leaf(&again), leaf(&before[0]), "the SVID that the process had is handed out to nobody");
    assert_eq!(admin.status().await.reasons, []);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_does_not_read_keeps_a_tainted_key_in_the_bundle_for_a_minute_and_no_longer() {
    let pipe = 32;
    let configuration = tables();
    let configuration = Configuration::Tables(&configuration);
    let node = TestNode::with(Setup { configuration, pipe, ..Setup::default() });
    let mut reader = node.workload(&spawn(&node.kernel, 1000)).await;
    let slow = node.connect(&spawn(&node.kernel, 1001));
    let slow = Client::new(slow).x509_svids().await;
    reader.update().await;
    tokio::time::sleep(SECOND).await;
    node.rotate(Some(KeyKind::X509), true).unwrap();
    let mut told = None;
    for _ in 0..61 {
        tokio::time::sleep(SECOND).await;
        told = latest(&mut reader).await.or(told);
    }
    let told = told.unwrap();
    assert_eq!(roots(bundle(&told)).len(), 1, "it has left");
    assert!(believes(bundle(&told), leaf(&told)));
    drop(slow);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_does_not_answer_holds_up_no_renewal_of_what_a_tainted_key_signed_and_is_reported() {
    let mut node = TestNode::start(7, &tables());
    let admin = node.open_admin_door();
    let mut web = node.workload(&spawn(&node.kernel, 1000)).await;
    let first = web.update().await;
    node.authority.hang();
    node.rotate(Some(KeyKind::X509), true).unwrap();
    node.authority.hung().await;
    for _ in 0..30 {
        tokio::time::advance(SECOND / 2).await;
        for _ in 0..30 {
            tokio::task::yield_now().await;
        }
    }
    let mut told = web.update().await;
    while leaf(&told) == leaf(&first) {
        told = web.update().await;
    }
    let reasons = admin.status().await.reasons;
    let said = reasons.iter().find(|reason| reason.name == "rotation").expect("a reason");
    assert!(said.detail.contains("has not taken it for 10 s"), "{}", said.detail);
    node.authority.answer();
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(admin.status().await.reasons, []);
    assert_eq!(keys(&node, KeyKind::X509).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_rotation_waits_for_a_disk_and_says_so() {
    let (disk, configuration) = (SimulatedDisk::default(), tables());
    let configuration = Configuration::Tables(&configuration);
    let ca_ttl = 10 * HOUR;
    let mut node = TestNode::with(Setup { configuration, ca_ttl, disk: Some(disk.clone()), ..Setup::default() });
    let admin = node.open_admin_door();
    disk.expect(Trouble::NoWrites(io::ErrorKind::StorageFull));
    let first = active(&node, KeyKind::X509);
    tokio::time::sleep(6 * HOUR).await;
    let reasons = admin.status().await.reasons;
    let said = reasons.iter().find(|reason| reason.name == "rotation").expect("a reason");
    assert!(said.detail.contains("postponed") && said.detail.contains("make room"), "{}", said.detail);
    assert_eq!(active(&node, KeyKind::X509), first);
    disk.expect(Trouble::StepFails(usize::MAX, io::ErrorKind::Other));
    tokio::time::sleep(HOUR).await;
    assert_ne!(active(&node, KeyKind::X509), first);
    assert_eq!(admin.status().await.reasons, []);
}

/// On a clock that runs: a paused one waits for the thread that waits for the disk.
#[tokio::test]
async fn a_disk_that_hangs_in_a_rotation_holds_up_nothing_else() {
    let (disk, configuration) = (SimulatedDisk::default(), tables());
    let configuration = Configuration::Tables(&configuration);
    let mut node = TestNode::with(Setup { configuration, disk: Some(disk.clone()), ..Setup::default() });
    let admin = node.open_admin_door();
    disk.expect(Trouble::Hangs);
    node.clock.suspend(100 * HOUR);
    let mut reasons = node.readiness.watch();
    let told =
        reasons.wait_for(|reasons| reasons.iter().any(|reason| reason.detail.contains("has not taken it for 10 s")));
    let (web, first) = (node.client(&spawn(&node.kernel, 1000)), active(&node, KeyKind::X509));
    assert_eq!(web.x509_svids().await.update().await.svids.len(), 1);
    assert_eq!(web.jwt_svids("ledger", "").await.map(|svids| svids.len()), Ok(1));
    tokio::time::timeout(30 * SECOND, told).await.expect("the operator is told").unwrap();
    assert_eq!(admin.status().await.reasons.len(), 1);
    disk.expect(Trouble::StepFails(usize::MAX, io::ErrorKind::Other));
    let healthy = reasons.wait_for(|reasons| reasons.is_empty());
    tokio::time::timeout(30 * SECOND, healthy).await.expect("it goes on").unwrap();
    while active(&node, KeyKind::X509) == first {
        node.clock.suspend(HOUR / 6); // its lead begins when the upkeep looks again
        tokio::task::yield_now().await;
        tokio::time::sleep(SECOND / 20).await;
    }
}

/// Whatever the clock was set to while a rotation was due: within a second of its being right the node serves, and nothing
/// was lost.
#[tokio::test(start_paused = true)]
async fn a_clock_that_steps_while_a_rotation_is_due_loses_nothing() {
    let configuration = tables();
    for asked in [false, true] {
        for by in [5 * SECOND, HOUR, 24 * HOUR, 8760 * HOUR] {
            for forward in [true, false] {
                let configuration = Configuration::Tables(&configuration);
                let node = TestNode::with(Setup { configuration, ca_ttl: 10 * HOUR, ..Setup::default() });
                let before = node.workload(&spawn(&node.kernel, 1000)).await.update().await;
                if asked {
                    node.rotate(None, false).unwrap();
                } else {
                    node.clock.suspend(5 * HOUR);
                }
                tokio::time::sleep(SECOND).await;
                let steps: [fn(&TestClock, Duration); 2] = [TestClock::step_forward, TestClock::step_back];
                steps[usize::from(!forward)](&node.clock, by);
                tokio::time::sleep(20 * SECOND).await;
                steps[usize::from(forward)](&node.clock, by);
                tokio::time::sleep(SECOND).await;
                let told = node.workload(&spawn(&node.kernel, 1000)).await.update().await;
                assert!(believes(bundle(&told), leaf(&told)), "{by:?} {forward}");
                if asked {
                    assert!(believes(bundle(&told), leaf(&before)), "{by:?} {forward}: the key before is gone");
                }
                let count = keys(&node, KeyKind::X509).len();
                assert!(count <= 3, "{by:?} {forward}: {count} keys");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn after_eight_hours_of_sleep_keys_and_svids_are_renewed_within_a_second_or_two() {
    let configuration = tables();
    let configuration = Configuration::Tables(&configuration);
    for ca_ttl in [6 * HOUR, 12 * HOUR] {
        let configuration = match &configuration {
            Configuration::Tables(tables) => Configuration::Tables(tables),
            _ => unreachable!("these are tables"),
        };
        let node = TestNode::with(Setup { configuration, ca_ttl, ..Setup::default() });
        let mut web = node.workload(&spawn(&node.kernel, 1000)).await;
        let before = web.update().await;
        tokio::time::sleep(SECOND).await;
        node.clock.suspend(8 * HOUR);
        tokio::time::sleep(4 * SECOND).await;
        let mut again = node.workload(&spawn(&node.kernel, 1000)).await;
        let told = again.update().await;
        let (_, svid) = X509Certificate::from_der(leaf(&told)).unwrap();
        let now = node.clock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
        assert!(svid.validity().not_after.timestamp() > now + 1800, "of a key that lives {ca_ttl:?}");
        assert_ne!(leaf(&told), leaf(&before));
    }
}

/// A process with a connection, and what it was told last.
struct Reader {
    process: FakePid,
    client: Client,
    updates: Updates,
    told: Option<X509svidResponse>,
    /// Whether the last thing it was told came on the stream that it has.
    is_served: bool,
    tokens: Vec<Token>,
}

struct Token {
    text: String,
    key: String,
    issued: SystemTime,
    not_after: SystemTime,
    /// When as much time has passed as it was to live.
    lived: Duration,
}

impl Token {
    /// Whether it has begun and not ended, by the wall clock, and has not lived its time by the other.
    fn is_to_be_valid(&self, clock: &TestClock) -> bool {
        let now = clock.now();
        self.issued <= now && now + SECOND < self.not_after && clock.since_boot() < self.lived
    }
}

/// `iat` and `exp`.
fn times(token: &str) -> [SystemTime; 2] {
    let claims = BASE64URL.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    ["iat", "exp"].map(|name| SystemTime::UNIX_EPOCH + Duration::from_secs(claims[name].as_u64().unwrap()))
}

/// A machine with a node on it.
struct Walk {
    node: TestNode,
    disk: SimulatedDisk,
    clock: Arc<TestClock>,
    ca_ttl: Duration,
    chance: Seeded,
    readers: Vec<Reader>,
    tainted: Vec<String>,
    generations: Vec<String>,
}

impl Walk {
    async fn new(seed: u64) -> Self {
        let chance = Seeded(Mutex::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1));
        let ca_ttl = [40 * SECOND, HOUR / 4][chance.below(2) as usize];
        let (disk, clock) = (SimulatedDisk::default(), Arc::new(TestClock::default()));
        let node = start(ca_ttl, &disk, &clock);
        let mut walk = Self {
            node,
            disk,
            clock,
            ca_ttl,
            chance,
            readers: Vec::new(),
            tainted: Vec::new(),
            generations: Vec::new(),
        };
        walk.connect().await;
        walk
    }

    async fn connect(&mut self) {
        self.readers.clear();
        for uid in [1000, 1001, 1000] {
            let process = spawn(&self.node.kernel, uid);
            let client = self.node.client(&process);
            let updates = client.x509_svids_later();
            self.readers.push(Reader { process, client, updates, told: None, is_served: false, tokens: Vec::new() });
        }
        self.read().await;
    }

    async fn step(&mut self) {
        let life = self.ca_ttl.as_secs();
        match self.chance.below(20) {
            0..=5 => tokio::time::sleep(Duration::from_secs(self.chance.below(life / 8))).await,
            6..=8 => tokio::time::sleep(Duration::from_secs(self.chance.below(12))).await,
            9 => self.clock.step_forward(Duration::from_secs(self.chance.below(life / 4))),
            10 => self.clock.step_back(Duration::from_secs(self.chance.below(life / 4))),
            11 => self.clock.suspend(Duration::from_secs(self.chance.below(life))),
            12 => {
                let (at, full) = (self.chance.below(12) as usize, io::ErrorKind::StorageFull);
                let trouble = [Trouble::StepFails(at, full), Trouble::NoWrites(full), Trouble::PowerFailsAt(at)];
                self.disk.expect(trouble[self.chance.below(3) as usize]);
            }
            13 => self.disk.expect(Trouble::StepFails(usize::MAX, io::ErrorKind::Other)),
            14 => self.start_again().await,
            15 => self.node.authority.refuse("signer unreachable"),
            16 => self.node.authority.relent(),
            17 => self.rotate(false),
            18 => self.rotate(true),
            _ => self.ask_for_tokens().await,
        }
        for _ in 0..self.chance.below(8) {
            tokio::task::yield_now().await;
        }
    }

    fn rotate(&mut self, taint: bool) {
        let kind = [None, Some(KeyKind::X509), Some(KeyKind::Jwt)][self.chance.below(3) as usize];
        // Where it could not be stored, the disk may have it all the same, and the next start goes by that.
        let kinds = KeyKind::ALL.into_iter().filter(|one| kind.is_none_or(|only| only == *one));
        let meant: Vec<_> = kinds.flat_map(|kind| keys(&self.node, kind)).map(|key| key.id).collect();
        match self.node.rotate(kind, taint) {
            Ok(begun) => self.tainted.extend(begun.tainted.into_iter().map(|key| key.id)),
            Err(_) if taint => self.tainted.extend(meant),
            Err(_) => {}
        }
    }

    async fn start_again(&mut self) {
        let torn = self.chance.below(4096) as usize;
        let unsynced = [Unsynced::Lost, Unsynced::Kept, Unsynced::Zeroed, Unsynced::TornAt(torn)];
        let unsynced = unsynced[self.chance.below(4) as usize];
        let held: Vec<_> = self.readers.drain(..).collect();
        self.disk = self.disk.after_power_cut(unsynced);
        self.node = start(self.ca_ttl, &self.disk, &self.clock);
        self.connect().await;
        // What those before hold still verifies by the bundle that those have who come now.
        self.judge_by_newest(&held);
    }

    /// Everybody reads what there is.
    async fn read(&mut self) {
        for reader in &mut self.readers {
            loop {
                match reader.updates.within(Duration::from_millis(20)).await {
                    Some(Seen::Update(update)) => (reader.told, reader.is_served) = (Some(update), true),
                    Some(Seen::End(_)) => {
                        reader.is_served = false;
                        reader.client = self.node.client(&reader.process);
                        reader.updates = reader.client.x509_svids_later();
                        break;
                    }
                    None => break,
                }
            }
        }
    }

    async fn ask_for_tokens(&mut self) {
        for reader in &mut self.readers {
            let booted = self.clock.since_boot();
            if let Ok(mut svids) = reader.client.jwt_svids("ledger", "").await {
                let (text, key) = (svids.remove(0).svid, active(&self.node, KeyKind::Jwt));
                let [issued, not_after] = times(&text);
                let lived = booted + not_after.duration_since(issued).unwrap();
                reader.tokens.push(Token { text, key, issued, not_after, lived });
            }
        }
    }

    /// Whoever has an SVID that has not ended is believed by everybody who reads.
    async fn judge(&mut self) {
        self.read().await;
        for kind in KeyKind::ALL {
            let count = keys(&self.node, kind).into_iter().filter(|key| key.stage == Stage::Active).count();
            assert_eq!(count, 1);
        }
        let newest = active(&self.node, KeyKind::X509);
        if self.generations.last() != Some(&newest) {
            self.generations.push(newest);
        }
        self.judge_by_newest(&self.readers);
        for reader in &self.readers {
            for token in reader.tokens.iter().filter(|token| token.is_to_be_valid(&self.clock)) {
                let valid = reader.client.validate("ledger", &token.text).await;
                assert!(valid.is_ok() || self.tainted.contains(&token.key), "a token of {}: {valid:?}", token.key);
            }
        }
    }

    fn judge_by_newest(&self, holders: &[Reader]) {
        for holder in holders.iter().filter_map(|reader| reader.told.as_ref()) {
            let (_, svid) = X509Certificate::from_der(leaf(holder)).unwrap();
            let ends = SystemTime::UNIX_EPOCH + Duration::from_secs(svid.validity().not_after.timestamp() as u64);
            if ends <= self.clock.now() || self.is_of_tainted(holder) {
                continue;
            }
            let verifiers = self.readers.iter().filter(|reader| reader.is_served);
            for verifier in verifiers.filter_map(|reader| reader.told.as_ref()) {
                assert!(believes(bundle(verifier), leaf(holder)), "somebody is not believed");
            }
        }
    }

    fn is_of_tainted(&self, holder: &X509svidResponse) -> bool {
        let (_, svid) = X509Certificate::from_der(leaf(holder)).unwrap();
        let issuer = svid.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(id) => id
                .key_identifier
                .as_ref()
                .map(|id| id.0[..8].iter().map(|octet| format!("{octet:02x}")).collect::<String>()),
            _ => None,
        });
        self.tainted.contains(&issuer.unwrap())
    }
}

fn start(ca_ttl: Duration, disk: &SimulatedDisk, clock: &Arc<TestClock>) -> TestNode {
    let ttl = (ca_ttl / 2).min(HOUR).as_secs();
    let terms = format!("x509_ttl = \"{ttl}s\"\njwt_ttl = \"{}s\"\n", ttl.min(300));
    let entry = |path, selector| workload(path, &[selector]) + &terms;
    let tables = entry("/web", "unix:uid:1000") + &entry("/db", "unix:uid:1001");
    let tables = format!("{tables}[authority]\nca_ttl = \"{}s\"\n", ca_ttl.as_secs());
    let (disk, clock) = (Some(disk.clone()), Some(clock.clone()));
    TestNode::with(Setup { configuration: Configuration::Tables(&tables), ca_ttl, disk, clock, ..Setup::default() })
}

#[test]
fn whatever_happens_everybody_who_reads_believes_everybody_whose_svid_has_not_ended() {
    let mut generations = 0;
    for seed in 0..SEEDS {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let lived = runtime.block_on(async {
            let mut walk = Walk::new(seed).await;
            for _ in 0..EVENTS {
                walk.step().await;
                walk.judge().await;
            }
            walk.generations.len()
        });
        generations += lived;
    }
    assert!(generations > 3 * SEEDS as usize, "only {generations} generations of keys: that proves nothing");
}
