//! A source of evidence that is late, changes its mind, goes down and hangs: what streams gain, keep and lose by it (SPEC:
//! product contract §5, rules 7 and 9).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bonafide::attestation::source::Asked;
use bonafide::attestation::source::Changes;
use bonafide::attestation::source::EvidenceSource;
use bonafide::attestation::source::Known;
use bonafide::audit::Event;
use bonafide::endpoints::workload_api::proto::JwtsvidRequest;
use bonafide::evidence::Fact;
use bonafide::evidence::Grade;
use bonafide::evidence::Provider;
use bonafide::evidence::Selector;
use bonafide::evidence::Source;
use bonafide::evidence::Undecided;
use bonafide::registration::EntrySource;
use prost::Message as _;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;
use tonic::Code;

use crate::http2;
use crate::kernel::FakePid;
use crate::kernel::FakeProcess;
use crate::late_source::DELAY;
use crate::late_source::LateSource;
use crate::node::Seen;
use crate::node::Setup;
use crate::node::TestNode;
use crate::node::Updates;
use crate::node::ids;
use crate::node::workload;
use crate::pipes::WIDE_PIPE;
use crate::server_entries::server;

const LABELLED: &str = "spiffe://example.org/labelled";
const PLAIN: &str = "spiffe://example.org/plain";
const LABEL: &[&str] = &["unix:uid:1000", "docker:label:app:web"];
/// `[attest] wait`, by default.
const WAIT: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A node whose `/labelled` needs the label `app:web`, and a process that has it. `/plain` needs the user alone.
struct Scene {
    node: TestNode,
    source: LateSource,
    web: FakePid,
}

impl Scene {
    /// With these entries in order, of `/labelled` and `/plain`.
    fn new(order: &[&str]) -> Self {
        Self::piped(order, WIDE_PIPE)
    }

    /// Likewise; each connection holds `pipe` bytes on their way.
    fn piped(order: &[&str], pipe: usize) -> Self {
        let source = LateSource::default();
        source.label(1000, Some("app:web"));
        let entries: Vec<(&str, &[&str])> = order
            .iter()
            .map(|path| (*path, if *path == "/labelled" { LABEL } else { &["unix:uid:1000"] as &[&str] }))
            .collect();
        // What is pushed once is enough: the server stays silent.
        let (_silent, entries) = server(&entries);
        let evidence_sources: Vec<Arc<dyn EvidenceSource>> = vec![Arc::new(source.clone())];
        let entry_sources: Vec<Arc<dyn EntrySource>> = vec![entries];
        let node = TestNode::with(Setup { pipe, evidence_sources, entry_sources, ..Setup::default() });
        let web = node.kernel.spawn(FakeProcess { uid: 1000, gid: 1000, ..FakeProcess::default() });
        Self { node, source, web }
    }

    /// A stream of the process, and how long its first message or its end took.
    async fn first(&self) -> (Updates, Seen, Duration) {
        let begun = Instant::now();
        let mut stream = self.node.workload_later(&self.web);
        let seen = stream.next().await;
        (stream, seen, begun.elapsed())
    }
}

fn names(seen: &Seen) -> Vec<String> {
    match seen {
        Seen::Update(update) => ids(update),
        Seen::End(code) => panic!("the stream ended with {code}"),
    }
}

fn first_serial(seen: &Seen) -> Vec<u8> {
    match seen {
        Seen::Update(update) => update.svids[0].x509_svid.to_vec(),
        Seen::End(code) => panic!("the stream ended with {code}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_answer_waits_for_the_evidence_that_alone_can_permit() {
    let (_stream, seen, took) = Scene::new(&["/labelled"]).first().await;
    assert_eq!(names(&seen), [LABELLED]);
    assert!(took >= DELAY && took < SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_first_answer_waits_for_evidence_of_an_earlier_entry() {
    let (_stream, seen, took) = Scene::new(&["/labelled", "/plain"]).first().await;
    assert_eq!(names(&seen), [LABELLED, PLAIN]);
    assert!(took >= DELAY, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn evidence_of_a_later_entry_arrives_as_an_update() {
    let scene = Scene::new(&["/plain", "/labelled"]);
    let (mut stream, seen, took) = scene.first().await;
    assert_eq!(names(&seen), [PLAIN]);
    assert!(took < DELAY, "{took:?}");
    let update = stream.within(SECOND).await.unwrap();
    assert_eq!(names(&update), [PLAIN, LABELLED]);
    assert_eq!(first_serial(&update), first_serial(&seen), "what it had stays");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_turns_out_to_lack_the_label_is_denied() {
    let scene = Scene::new(&["/labelled"]);
    scene.source.label(1000, None);
    let (_stream, seen, took) = scene.first().await;
    assert_eq!(seen, Seen::End(Code::PermissionDenied));
    assert!(took >= DELAY, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_delays_the_first_caller_and_no_later_one() {
    let scene = Scene::new(&["/labelled", "/plain"]);
    scene.source.hang();
    let (_first, seen, took) = scene.first().await;
    assert_eq!((names(&seen), took.as_secs()), (vec![PLAIN.to_owned()], WAIT.as_secs()));
    let (_second, seen, took) = scene.first().await;
    assert_eq!(names(&seen), [PLAIN]);
    assert!(took < DELAY, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_caller_whom_only_a_hanging_source_could_help_may_retry() {
    let scene = Scene::new(&["/labelled"]);
    scene.source.hang();
    let (_stream, seen, took) = scene.first().await;
    assert_eq!((seen, took.as_secs()), (Seen::End(Code::Unavailable), WAIT.as_secs()));
    let refused = scene.node.records.0.lock().unwrap().last().cloned().unwrap();
    assert_eq!(refused.reason.as_deref(), Some("awaiting_evidence"));
    assert_eq!(refused.detail.as_deref(), Some("no answer yet from: docker"));
    scene.source.come_back();
    assert_eq!(names(&scene.first().await.1), [LABELLED]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_gains_an_identity_when_its_source_comes_back() {
    let scene = Scene::new(&["/plain", "/labelled"]);
    scene.source.hang();
    let (mut stream, seen, _) = scene.first().await;
    assert_eq!(names(&seen), [PLAIN]);
    assert_eq!(stream.within(MINUTE).await, None);
    scene.source.come_back();
    assert_eq!(names(&stream.within(SECOND).await.unwrap()), [PLAIN, LABELLED]);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_goes_down_takes_nothing_until_the_svid_ends() {
    let scene = Scene::new(&["/labelled"]);
    let (mut stream, ..) = scene.first().await;
    scene.source.go_down();
    assert_eq!(stream.within(59 * MINUTE).await, None);
    assert_eq!(stream.within(2 * MINUTE).await, Some(Seen::End(Code::Unavailable)));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_down_stops_no_renewal_of_another_identity() {
    let scene = Scene::new(&["/labelled", "/plain"]);
    let (mut stream, first, _) = scene.first().await;
    scene.source.go_down();
    let renewed = stream.within(40 * MINUTE).await.unwrap();
    assert_eq!(names(&renewed), [LABELLED, PLAIN], "the default identity stays");
    assert_eq!(first_serial(&renewed), first_serial(&first), "and gets nothing new");
    scene.source.come_back();
    let recovered = stream.within(2 * MINUTE).await.unwrap();
    assert_ne!(first_serial(&recovered), first_serial(&first));
}

#[tokio::test(start_paused = true)]
async fn a_new_stream_gets_no_other_default_identity_while_the_source_is_down() {
    let scene = Scene::new(&["/labelled", "/plain"]);
    let (_live, first, _) = scene.first().await;
    assert_eq!(names(&first), [LABELLED, PLAIN]);
    scene.source.go_down();
    let (_stream, seen, took) = scene.first().await;
    assert_eq!(seen, Seen::End(Code::Unavailable));
    assert!(took < SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_loses_its_label_loses_the_identity() {
    let scene = Scene::new(&["/labelled", "/plain"]);
    let (mut stream, ..) = scene.first().await;
    scene.source.label(1000, None);
    assert_eq!(names(&stream.within(SECOND).await.unwrap()), [PLAIN]);
    scene.source.label(1000, Some("app:web"));
    assert_eq!(names(&stream.within(SECOND).await.unwrap()), [LABELLED, PLAIN]);
}

#[tokio::test(start_paused = true)]
async fn a_token_for_one_identity_waits_for_its_evidence_alone() {
    let scene = Scene::new(&["/labelled", "/plain"]);
    scene.source.hang();
    let client = scene.node.client(&scene.web);
    let fetch = async |id: &str| {
        let begun = Instant::now();
        let answer = client.jwt_svids("ledger", id).await;
        (answer.map(|svids| svids.len()), begun.elapsed())
    };
    let (plain, took) = fetch(PLAIN).await;
    assert_eq!(plain, Ok(1));
    assert!(took < DELAY, "{took:?}");
    let (labelled, took) = fetch(LABELLED).await;
    assert_eq!((labelled, took.as_secs()), (Err(Code::Unavailable), WAIT.as_secs()));
    let (unknown, _) = fetch("spiffe://example.org/other").await;
    assert_eq!(unknown, Err(Code::PermissionDenied));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_delays_no_process_that_it_cannot_help() {
    let scene = Scene::new(&["/labelled"]);
    scene.source.hang();
    let tables = workload("/db", &["unix:uid:1001"]);
    scene.node.reload(&tables, bonafide::agent::reload::ReloadTrigger::Asked);
    let db = scene.node.kernel.spawn(FakeProcess { uid: 1001, gid: 1001, ..FakeProcess::default() });
    let begun = Instant::now();
    assert_eq!(scene.node.workload(&db).await.ids().await, ["spiffe://example.org/db"]);
    assert!(begun.elapsed() < DELAY);
}

/// What a reader gets who asks, waits a second and then reads, while `meanwhile` happens; and why he was denied something.
async fn read_late(order: &[&str], meanwhile: impl FnOnce(&LateSource)) -> (Vec<u8>, Vec<String>) {
    let scene = Scene::piped(order, 48);
    let mut reader = scene.node.connect(&scene.web).bytes;
    for part in [http2::hello(), http2::request(1, None, &[])].concat().chunks(48) {
        reader.write_all(part).await.unwrap();
    }
    tokio::time::sleep(SECOND).await;
    let records = |event| {
        let records = scene.node.records.0.lock().unwrap();
        records.iter().filter(|record| record.event == event).cloned().collect::<Vec<_>>()
    };
    assert_eq!(records(Event::Issued).len(), order.len(), "it waits");
    meanwhile(&scene.source);
    tokio::time::sleep(SECOND).await;
    let mut read = Vec::new();
    let _ = tokio::time::timeout(SECOND, reader.read_to_end(&mut read)).await; // cut, or a live stream
    (read, records(Event::Denied).into_iter().filter_map(|record| record.detail).collect())
}

/// What a reader gets of `call`, for whose answer he opens a window a second later only, while `meanwhile` happens. Until
/// then his stream asks for nothing more, and learns of nothing.
async fn open_late(call: &[u8], meanwhile: impl FnOnce(&LateSource)) -> Vec<u8> {
    let scene = Scene::new(&["/labelled", "/plain"]);
    let mut reader = scene.node.connect(&scene.web).bytes;
    let no_window = http2::frame(http2::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    reader.write_all(&[http2::PREFACE, &no_window, call].concat()).await.unwrap();
    tokio::time::sleep(SECOND).await;
    meanwhile(&scene.source);
    let window = http2::frame(http2::WINDOW_UPDATE, 0, 1, &9999_u32.to_be_bytes());
    reader.write_all(&window).await.unwrap();
    let mut read = Vec::new();
    let _ = tokio::time::timeout(SECOND, reader.read_to_end(&mut read)).await; // cut, or a live stream
    read
}

fn holds(read: &[u8], id: &str) -> bool {
    read.windows(id.len()).any(|bytes| bytes == id.as_bytes())
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_slow_reader_when_its_label_goes_never_leaves() {
    let read_late = async |meanwhile: fn(&LateSource)| read_late(&["/labelled"], meanwhile).await.0;
    assert!(holds(&read_late(|_| {}).await, LABELLED), "an honest reader who is slow");
    assert!(holds(&read_late(LateSource::go_down).await, LABELLED), "what cannot be found out takes nothing");
    assert!(!holds(&read_late(|source| source.label(1000, None)).await, LABELLED), "it left");
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_slow_reader_when_one_of_two_identities_goes_never_leaves() {
    let order = &["/labelled", "/plain"];
    let (read, denied) = read_late(order, |_| {}).await;
    assert!(holds(&read, LABELLED) && holds(&read, PLAIN), "an honest reader who is slow");
    assert!(denied.is_empty(), "{denied:?}");
    let (read, denied) = read_late(order, |source| source.label(1000, None)).await;
    assert!(!holds(&read, LABELLED), "it left");
    assert!(!holds(&read, PLAIN), "the connection was not cut");
    assert_eq!(
        denied,
        [format!("it lost {LABELLED} while a secret of it waited to be sent, so the connection was cut")]
    );
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_window_when_its_label_goes_never_leaves() {
    let message = JwtsvidRequest { audience: vec!["ledger".to_owned()], spiffe_id: LABELLED.to_owned() };
    let token = http2::calling("FetchJWTSVID", 1, None, &[], &message.encode_to_vec());
    for call in [http2::request(1, None, &[]), token] {
        assert!(holds(&open_late(&call, |_| {}).await, LABELLED), "an honest reader who is slow");
        assert!(
            holds(&open_late(&call, LateSource::go_down).await, LABELLED),
            "what cannot be found out takes nothing"
        );
        assert!(!holds(&open_late(&call, |source| source.label(1000, None)).await, LABELLED), "it left");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_down_takes_no_bundle_from_another_identity() {
    let scene = Scene::new(&["/labelled", "/plain"]);
    let (_live, first, _) = scene.first().await;
    assert_eq!(names(&first), [LABELLED, PLAIN]);
    scene.source.go_down();
    let mut bundles = scene.node.client(&scene.web).x509_bundles().await;
    assert_eq!(bundles.update().await.bundles.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_of_no_other_default_identity_while_the_source_is_down() {
    let scene = Scene::new(&["/labelled", "/plain"]);
    let (live, first, _) = scene.first().await;
    assert_eq!(names(&first), [LABELLED, PLAIN]);
    scene.source.go_down();
    let client = scene.node.client(&scene.web);
    let fetch = async |id: &str| client.jwt_svids("ledger", id).await.map(|svids| svids[0].spiffe_id.clone());
    assert_eq!(fetch("").await, Err(Code::Unavailable));
    assert_eq!(fetch(PLAIN).await, Ok(PLAIN.to_owned()));
    drop(live);
    tokio::time::sleep(SECOND).await;
    assert_eq!(fetch("").await, Ok(PLAIN.to_owned()), "it has no default identity any more");
}

/// A source that could not find out, once, and does not say when it can.
#[derive(Debug, Default)]
struct FailsOnce(AtomicBool);

impl EvidenceSource for FailsOnce {
    fn provider(&self) -> Provider {
        Provider::new("docker")
    }

    fn ask(&self, _: &Asked<'_>) -> Known {
        if !self.0.swap(true, Ordering::Relaxed) {
            return Known::undecided(Undecided::OutOfDescriptors);
        }
        let selector = Selector::try_from("docker:label:app:web".to_owned()).unwrap();
        Known::settled(vec![Fact { selector, grade: Grade::Claimed, source: Source::Runtime }], Vec::new())
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_failed_once_is_asked_again_within_a_minute() {
    let (_silent, entries) = server(&[("/plain", &["unix:uid:1000"]), ("/labelled", LABEL)]);
    let node = TestNode::with_sources("", vec![Arc::new(FailsOnce::default())], vec![entries]);
    let web = node.kernel.spawn(FakeProcess { uid: 1000, gid: 1000, ..FakeProcess::default() });
    let mut stream = node.workload_later(&web);
    assert_eq!(names(&stream.next().await), [PLAIN]);
    assert_eq!(names(&stream.within(MINUTE).await.expect("an update")), [PLAIN, LABELLED]);
}

/// A source whose answers have changed again as soon as they are given, up to the last of many.
#[derive(Debug, Default)]
struct Restless(AtomicU32);

const QUESTIONS: u32 = 200;

impl EvidenceSource for Restless {
    fn provider(&self) -> Provider {
        Provider::new("docker")
    }

    fn ask(&self, _: &Asked<'_>) -> Known {
        let changes = Changes::default();
        let change = changes.next();
        if self.0.fetch_add(1, Ordering::Relaxed) < QUESTIONS {
            changes.happened();
        }
        Known::settled(Vec::new(), Vec::new()).until(change)
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_changes_without_end_leaves_the_processor_to_others() {
    let (_silent, entries) = server(&[("/plain", &["unix:uid:1000"]), ("/labelled", LABEL)]);
    let source = Arc::new(Restless::default());
    let node = TestNode::with_sources("", vec![source.clone()], vec![entries]);
    let web = node.kernel.spawn(FakeProcess { uid: 1000, gid: 1000, ..FakeProcess::default() });
    let mut stream = node.workload_later(&web);
    assert_eq!(names(&stream.next().await), [PLAIN]);
    assert_eq!(stream.within(10 * SECOND).await, None);
    let asked = source.0.load(Ordering::Relaxed);
    assert!(asked < 100, "asked {asked} times in ten seconds");
}

/// A source of labels that proves another user.
#[derive(Debug)]
struct Overreaching;

impl EvidenceSource for Overreaching {
    fn provider(&self) -> Provider {
        Provider::new("docker")
    }

    fn ask(&self, _: &Asked<'_>) -> Known {
        let prove = |text: &str| Fact {
            selector: Selector::try_from(text.to_owned()).unwrap(),
            grade: Grade::Claimed,
            source: Source::Runtime,
        };
        Known::settled(vec![prove("unix:uid:0"), prove("docker:label:app:web")], Vec::new())
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_proves_nothing_of_another_provider() {
    let (_silent, entries) = server(&[("/root", &["unix:uid:0"]), ("/labelled", LABEL)]);
    let node = TestNode::with_sources("", vec![Arc::new(Overreaching)], vec![entries]);
    let web = node.kernel.spawn(FakeProcess { uid: 1000, gid: 1000, ..FakeProcess::default() });
    assert_eq!(node.workload(&web).await.ids().await, [LABELLED]);
}
