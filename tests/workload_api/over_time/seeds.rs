//! A thousand random lives of a node, each from a seed. Whatever happens, nobody is handed an identity that the entries
//! do not permit to that process at the moment when its bytes leave.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use bonafide::agent::reload::ReloadTrigger;
use bonafide::attestation::kernel::Process;
use bonafide::audit::Event;
use bonafide::evidence::Undecided;

use crate::kernel::FakePid;
use crate::kernel::FakeProcess;
use crate::node::Records;
use crate::node::Seeded;
use crate::node::TestNode;
use crate::node::Updates;
use crate::node::workload;

const SEEDS: u64 = 1000;
const EVENTS: u64 = 40;
/// Less than one message: most of what is handed over waits, while other things happen.
const TIGHT_PIPE: usize = 32;
const USERS: [u32; 3] = [1000, 1001, 1002];
const PROGRAMS: [&str; 2] = ["/usr/bin/web", "/usr/bin/db"];
const PREFIX: &[u8] = b"spiffe://example.org/";

/// What is true of the machine and of the configuration, told apart from anything that the node believes.
#[derive(Default)]
struct Truth {
    /// Entries as (path, uid, program).
    entries: Vec<(String, u32, Option<&'static str>)>,
    /// By number: what the process was when its connection was accepted, and whether it still is.
    processes: HashMap<u32, Known>,
    /// What is on its way out, by number.
    frames: HashMap<u32, Frame>,
    /// Names of identities that left.
    handed_over: u64,
    /// What should never be.
    wrong: Vec<String>,
}

#[derive(Debug)]
struct Known {
    uid: u32,
    program: &'static str,
    /// The daemon has said something to it. An exec before the accept cannot be told from having been that program all
    /// along.
    spoken_to: bool,
    unchanged: bool,
}

impl Truth {
    /// A naive reading of what is permitted now.
    fn permitted(&self, pid: u32) -> Vec<String> {
        let Some(process) = self.processes.get(&pid).filter(|process| process.unchanged) else { return Vec::new() };
        let fits = |uid: u32, program: Option<&str>| {
            uid == process.uid && program.is_none_or(|program| program == process.program)
        };
        self.entries.iter().filter(|(_, uid, program)| fits(*uid, *program)).map(|(path, ..)| path.clone()).collect()
    }

    /// Takes in what leaves for `pid`, and judges every whole frame by what was permitted when its first byte left.
    fn leaves(&mut self, pid: u32, bytes: &[u8]) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.spoken_to = true;
        }
        let mut frame = self.frames.remove(&pid).unwrap_or_default();
        for byte in bytes {
            if frame.bytes.is_empty() {
                frame.permitted = self.permitted(pid);
            }
            frame.bytes.push(*byte);
            if frame.is_whole() {
                self.judge(pid, &std::mem::take(&mut frame));
            }
        }
        self.frames.insert(pid, frame);
    }

    /// A SPIFFE ID with a path stands in clear text in every message that hands over an identity.
    fn judge(&mut self, pid: u32, frame: &Frame) {
        for at in 0..frame.bytes.len().saturating_sub(PREFIX.len()) {
            if !frame.bytes[at..].starts_with(PREFIX) {
                continue;
            }
            let rest = &frame.bytes[at + PREFIX.len() - 1..];
            let end = rest[1..].iter().position(|byte| !byte.is_ascii_lowercase()).map_or(rest.len(), |end| end + 1);
            let path = String::from_utf8_lossy(&rest[..end]).into_owned();
            self.handed_over += 1;
            if !frame.permitted.contains(&path) {
                let known = self.processes.get(&pid);
                self.wrong.push(format!("process {pid}, {known:?}, was handed {path} by {:?}", self.entries));
            }
        }
    }
}

/// A frame of HTTP/2 on its way out.
#[derive(Default)]
struct Frame {
    bytes: Vec<u8>,
    /// What was permitted when its first byte left.
    permitted: Vec<String>,
}

impl Frame {
    /// SPEC: RFC 9113 §4.1: a length of 24 bits, and nine bytes before the payload.
    fn is_whole(&self) -> bool {
        let [high, middle, low, ..] = self.bytes[..] else { return false };
        self.bytes.len() == 9 + u32::from_be_bytes([0, high, middle, low]) as usize
    }
}

struct Walk {
    node: TestNode,
    chance: Seeded,
    truth: Arc<Mutex<Truth>>,
    alive: Vec<FakePid>,
    streams: Vec<Updates>,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let truth = Arc::new(Mutex::new(Truth::default()));
        let judge = truth.clone();
        let observer = Arc::new(move |process: &dyn Process, bytes: &[u8]| {
            judge.lock().unwrap().leaves(process.peer().pid, bytes);
        });
        let chance = Seeded(Mutex::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1));
        let node = TestNode::observed(seed, "", TIGHT_PIPE, observer);
        let mut walk = Self { node, chance, truth, alive: Vec::new(), streams: Vec::new() };
        walk.change_entries();
        walk
    }

    fn one_of<T: Copy>(&self, all: &[T]) -> T {
        all[self.chance.below(all.len() as u64) as usize]
    }

    async fn step(&mut self) {
        match self.chance.below(16) {
            0..=4 => self.connect().await,
            5 => self.exec(),
            6 => self.make_nobody(|process| process.exit()),
            7 => self.make_nobody(|process| process.setuid(0)),
            8..=10 => self.change_entries(),
            11 => self.node.authority.refuse("signer unreachable"),
            12 => self.node.authority.relent(),
            13 => self.node.kernel.fail(self.one_of(&[Undecided::OutOfDescriptors, Undecided::OutOfMemory])),
            14 => self.node.kernel.heal(),
            _ => tokio::time::sleep(Duration::from_secs(self.chance.below(400))).await,
        }
        // How far the node gets before the next thing happens is chance, too: mostly a few turns of its tasks, so that
        // things happen between a decision and the first byte; sometimes as far as it can.
        if self.chance.below(8) == 0 {
            for stream in &mut self.streams {
                let _ = stream.within(Duration::from_millis(1)).await; // the observer judges what it says
            }
        }
        for _ in 0..self.chance.below(8) {
            tokio::task::yield_now().await;
        }
    }

    async fn connect(&mut self) {
        let (uid, exe) = (self.one_of(&USERS), self.one_of(&PROGRAMS));
        let process = self.node.kernel.spawn(FakeProcess { uid, gid: uid, exe, ..FakeProcess::default() });
        let known = Known { uid, program: exe, spoken_to: false, unchanged: true };
        self.truth.lock().unwrap().processes.insert(process.number(), known);
        self.streams.push(self.node.workload_later(&process));
        self.alive.push(process);
    }

    fn exec(&mut self) {
        let program = self.one_of(&PROGRAMS);
        let Some(process) = self.some_process() else { return };
        let mut truth = self.truth.lock().unwrap();
        let known = truth.processes.get_mut(&process.number()).unwrap();
        if known.spoken_to {
            known.unchanged = false;
        } else {
            known.program = program;
        }
        process.exec(program);
    }

    /// Something happens to a process after which it gets nothing, whenever its connection is accepted.
    fn make_nobody(&mut self, happens: impl Fn(&FakePid)) {
        let Some(process) = self.some_process() else { return };
        self.truth.lock().unwrap().processes.get_mut(&process.number()).unwrap().unchanged = false;
        happens(&process);
    }

    fn some_process(&mut self) -> Option<FakePid> {
        let at = self.chance.below(self.alive.len().max(1) as u64) as usize;
        (at < self.alive.len()).then(|| self.alive.swap_remove(at))
    }

    fn change_entries(&mut self) {
        let mut entries = Vec::new();
        for (path, uid, program) in [
            ("/web", USERS[0], None),
            ("/db", USERS[1], Some(PROGRAMS[1])),
            ("/both", USERS[0], Some(PROGRAMS[0])),
            ("/mail", self.one_of(&USERS), None),
        ] {
            if self.chance.below(3) > 0 {
                entries.push((path.to_owned(), uid, program));
            }
        }
        let text: String = entries
            .iter()
            .map(|(path, uid, program)| {
                let mut selectors = vec![format!("unix:uid:{uid}")];
                selectors.extend(program.map(|program| format!("unix:path:{program}")));
                workload(path, &selectors.iter().map(String::as_str).collect::<Vec<_>>()) + "x509_ttl = \"6m\"\n"
            })
            .collect();
        self.truth.lock().unwrap().entries = entries;
        self.node.reload(&text, ReloadTrigger::Asked);
    }
}

/// One life from its first event to its last, and then the node's end.
fn live(seed: u64) -> (Arc<Mutex<Truth>>, Arc<Records>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut walk = Walk::new(seed);
        for _ in 0..EVENTS {
            walk.step().await;
        }
        walk.streams.clear();
        walk.node.stop();
        tokio::time::sleep(Duration::from_secs(10)).await;
        (walk.truth, walk.node.records.clone())
    })
}

#[test]
fn no_identity_leaves_that_is_not_permitted_at_its_first_byte() {
    let mut handed_over = 0;
    for seed in 0..SEEDS {
        let (truth, _) = live(seed);
        let truth = truth.lock().unwrap();
        assert!(truth.wrong.is_empty(), "seed {seed}: {:?}", truth.wrong);
        handed_over += truth.handed_over;
    }
    assert!(handed_over > 5 * SEEDS, "only {handed_over} identities left; the walk proves nothing");
}

#[test]
fn every_certificate_that_is_issued_ends_once() {
    let mut certificates = 0;
    for seed in 0..SEEDS / 10 {
        let (_, records) = live(seed);
        let issued = records.of_certificates(Event::Issued);
        assert_eq!(records.of_certificates(Event::Ended), issued, "seed {seed}");
        certificates += issued.len() as u64;
    }
    assert!(certificates > SEEDS / 4, "only {certificates} were issued; the walk proves nothing");
}
