//! A thousand random lives of a node, each from a seed: processes that change in every way, entries, keys, faults and late
//! evidence. Whatever happens, no identity leaves that is not permitted then, no process is refused to which something is
//! permitted, and once faults are over each process has all that is permitted to it.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use bonafide::attestation::kernel::Namespace;
use bonafide::attestation::kernel::Process;
use bonafide::audit::Event;
use bonafide::authority::KeyKind;
use bonafide::evidence::Undecided;
use tonic::Code;

use crate::kernel::FakeKernel;
use crate::kernel::FakePid;
use crate::kernel::FakeProcess;
use crate::late_source::LateSource;
use crate::node::Client;
use crate::node::FakeNames;
use crate::node::Seeded;
use crate::node::Seen;
use crate::node::Setup;
use crate::node::TestNode;
use crate::node::Updates;
use crate::node::ids;
use crate::truth::GROUP;
use crate::truth::Need;
use crate::truth::Place;
use crate::truth::Rule;
use crate::truth::Subject;
use crate::truth::Truth;
use crate::truth::user_name;

const SEEDS: u64 = 1000;
const EVENTS: u64 = 40;
/// Less than one message: most of what is handed over waits, while other things happen.
const TIGHT_PIPE: usize = 32;
const USERS: [u32; 3] = [1000, 1001, 1002];
const PROGRAMS: [&str; 2] = ["/usr/bin/web", "/usr/bin/db"];
const LABEL: &str = "app:web";
const UNIT: &str = "/system.slice/web.service";
const OTHER_UNIT: &str = "/system.slice/other.service";

/// A process with one connection.
struct Caller {
    process: FakePid,
    client: Client,
}

/// A stream of X.509-SVIDs: whose, which of its calls, and what comes on it.
struct Open {
    pid: u32,
    call: u32,
    updates: Updates,
}

struct Walk {
    node: TestNode,
    source: LateSource,
    chance: Seeded,
    truth: Arc<Mutex<Truth>>,
    callers: Vec<Caller>,
    streams: Vec<Open>,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let truth = Arc::new(Mutex::new(Truth::default()));
        let judge = truth.clone();
        let source = LateSource::default();
        let names = FakeNames::default();
        USERS.iter().for_each(|uid| names.serve_user(&user_name(*uid), Some(*uid)));
        let node = TestNode::with(Setup {
            seed,
            names,
            kernel: FakeKernel::new(),
            evidence_sources: vec![Arc::new(source.clone())],
            pipe: TIGHT_PIPE,
            observer: Arc::new(move |process: &dyn Process, bytes: &[u8]| {
                judge.lock().unwrap().leaves(process.peer().pid, bytes);
            }),
            ..Setup::default()
        });
        let chance = Seeded(Mutex::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1));
        let mut walk = Self { node, source, chance, truth, callers: Vec::new(), streams: Vec::new() };
        walk.change_entries();
        walk
    }

    fn one_of<T: Copy>(&self, all: &[T]) -> T {
        all[self.chance.below(all.len() as u64) as usize]
    }

    fn truth<T>(&self, act: impl FnOnce(&mut Truth) -> T) -> T {
        act(&mut self.truth.lock().unwrap())
    }

    async fn step(&mut self) {
        match self.chance.below(29) {
            0..=4 => self.connect(),
            5..=6 => self.open_another_stream(),
            7..=8 => self.ask_for_tokens(),
            9 => self.exec(),
            10 => self.make_nobody(|process| process.exit()),
            11 => self.make_nobody(|process| process.setuid(0)),
            12 => self.unshare(),
            13 => self.give_up_the_group(),
            14 => self.move_to_another_cgroup(),
            15..=18 => self.change_entries(),
            19 => self.node.authority.refuse("signer unreachable"),
            20 => self.node.authority.relent(),
            21 => self.rotate(),
            22 => self.fail(),
            23 => self.node.kernel.heal(),
            24 => self.disturb_the_source(),
            25 => self.change_labels(),
            26 => self.disturb_the_name_service(),
            _ => tokio::time::sleep(Duration::from_secs(self.chance.below(400))).await,
        }
        // How far the node gets before the next event is random, too: mostly a few turns of its tasks, so that things
        // happen between a decision and the first byte; sometimes as far as it can.
        if self.chance.below(8) == 0 {
            self.read().await;
        }
        for _ in 0..self.chance.below(8) {
            tokio::task::yield_now().await;
        }
    }

    /// Reads what streams have; the observer judges it, but for a refusal, which is judged here.
    async fn read(&mut self) {
        let mut open = Vec::new();
        for mut stream in std::mem::take(&mut self.streams) {
            match stream.updates.within(Duration::from_millis(1)).await {
                Some(Seen::End(Code::PermissionDenied)) => {
                    self.truth(|truth| truth.judge_refusal(stream.pid, stream.call));
                }
                Some(Seen::End(_)) => {}
                Some(Seen::Update(_)) | None => open.push(stream),
            }
        }
        self.streams = open;
    }

    fn connect(&mut self) {
        let (uid, exe) = (self.one_of(&USERS), self.one_of(&PROGRAMS));
        let process = FakeProcess { uid, gid: uid, groups: vec![GROUP], exe, ..FakeProcess::default() };
        let process = self.node.kernel.spawn(process);
        let subject = Subject::new(uid, exe, self.source.is_labelled(uid));
        self.truth(|truth| truth.add(process.number(), subject));
        let client = self.node.client(&process);
        self.callers.push(Caller { process, client });
        self.open_stream(self.callers.len() - 1);
    }

    fn open_stream(&mut self, at: usize) {
        let Caller { process, client } = &self.callers[at];
        let (pid, call) = (process.number(), self.count_call(process));
        self.streams.push(Open { pid, call, updates: client.x509_svids_later() });
    }

    fn open_another_stream(&mut self) {
        if let Some(at) = self.some_caller() {
            self.open_stream(at);
        }
    }

    fn ask_for_tokens(&self) {
        let Some(at) = self.some_caller() else { return };
        let Caller { process, client } = &self.callers[at];
        let (pid, call, truth) = (process.number(), self.count_call(process), self.truth.clone());
        let wanted = self.one_of(&["", "spiffe://example.org/web", "spiffe://example.org/mail"]);
        let client = client.clone();
        tokio::spawn(async move {
            let answer = client.jwt_svids("ledger", wanted).await;
            if wanted.is_empty() && answer == Err(Code::PermissionDenied) {
                truth.lock().unwrap().judge_refusal(pid, call);
            }
        });
    }

    /// The number of the call that the process makes next on its connection.
    fn count_call(&self, process: &FakePid) -> u32 {
        self.truth(|truth| {
            truth.change(process.number(), |subject| {
                subject.calls += 1;
                subject.calls - 1
            })
        })
    }

    fn exec(&mut self) {
        let program = self.one_of(&PROGRAMS);
        let Some(at) = self.some_caller() else { return };
        let Caller { process, .. } = self.callers.swap_remove(at);
        self.change(&process, |subject| {
            subject.has_changed = true;
            subject.is_nobody = subject.is_spoken_to;
            subject.program = program;
        });
        process.exec(program);
    }

    /// Something happens to a process after which it gets nothing, whenever its connection is accepted.
    fn make_nobody(&mut self, happens: impl Fn(&FakePid)) {
        let Some(at) = self.some_caller() else { return };
        let Caller { process, .. } = self.callers.swap_remove(at);
        self.change(&process, |subject| (subject.has_changed, subject.is_nobody) = (true, true));
        happens(&process);
    }

    fn unshare(&mut self) {
        let kind = self.one_of(&[Namespace::User, Namespace::Mount, Namespace::Pid, Namespace::Cgroup]);
        let Some(at) = self.some_caller() else { return };
        let process = self.callers[at].process.clone();
        self.change(&process, |subject| match kind {
            Namespace::User => subject.own_user_namespace = true,
            Namespace::Cgroup => subject.host_cgroup_namespace = false,
            Namespace::Mount | Namespace::Pid => {}
        });
        process.unshare(kind);
    }

    fn give_up_the_group(&mut self) {
        let Some(at) = self.some_caller() else { return };
        let process = self.callers[at].process.clone();
        self.change(&process, |subject| subject.group = false);
        process.setgroups(&[]);
    }

    fn move_to_another_cgroup(&mut self) {
        let container = FakeProcess::in_docker().cgroup;
        let (place, cgroup) =
            self.one_of(&[(Place::Unit, UNIT), (Place::OtherUnit, OTHER_UNIT), (Place::Container, container.as_str())]);
        let Some(at) = self.some_caller() else { return };
        let process = self.callers[at].process.clone();
        self.change(&process, |subject| subject.place = place);
        process.move_to(cgroup);
    }

    fn change(&self, process: &FakePid, act: impl FnOnce(&mut Subject)) {
        self.truth(|truth| truth.change(process.number(), act));
    }

    fn some_caller(&self) -> Option<usize> {
        let at = self.chance.below(self.callers.len().max(1) as u64) as usize;
        (at < self.callers.len()).then_some(at)
    }

    fn fail(&self) {
        let undecided = self.one_of(&[Undecided::OutOfDescriptors, Undecided::OutOfMemory]);
        match self.some_caller().filter(|_| self.chance.below(2) == 0) {
            Some(at) => self.callers[at].process.fail(undecided),
            None => self.node.kernel.fail(undecided),
        }
    }

    fn disturb_the_source(&self) {
        match self.chance.below(4) {
            0 => self.source.go_down(),
            1 => self.source.hang(),
            _ => self.source.come_back(),
        }
    }

    fn disturb_the_name_service(&self) {
        match self.chance.below(4) {
            0 => self.node.names.go_down(),
            1 => self.node.names.hang(),
            2 => self.node.names.hang_user(&user_name(self.one_of(&USERS))),
            _ => self.node.names.come_back(),
        }
    }

    fn rotate(&self) {
        let (kind, taint) = (self.one_of(&[None, Some(KeyKind::X509), Some(KeyKind::Jwt)]), self.chance.below(4) == 0);
        let _there_may_be_too_many = self.node.rotate(kind, taint);
    }

    fn change_labels(&self) {
        let (uid, is_labelled) = (self.one_of(&USERS), self.chance.below(2) == 0);
        self.truth(|truth| {
            truth.change_all_of(uid, |subject| subject.label.set(is_labelled, subject.calls));
        });
        self.source.label(uid, is_labelled.then_some(LABEL));
    }

    fn change_entries(&mut self) {
        let all = [
            ("/web", USERS[0], Need::Nothing),
            ("/db", USERS[1], Need::Program(PROGRAMS[1])),
            ("/both", USERS[0], Need::Program(PROGRAMS[0])),
            ("/mail", self.one_of(&USERS), Need::Nothing),
            ("/named", self.one_of(&USERS), Need::Name),
            ("/group", USERS[1], Need::Group),
            ("/unit", USERS[2], Need::Unit),
            ("/host", USERS[2], Need::Host),
            ("/labelled", self.one_of(&USERS), Need::Label),
        ];
        let rules = all.into_iter().filter(|_| self.chance.below(3) > 0);
        let rules: Vec<_> = rules.map(|(path, uid, need)| Rule { path, uid, need }).collect();
        let tables: String = rules.iter().map(Rule::table).collect();
        self.truth(|truth| truth.change_rules(rules));
        self.node.reload_with(&tables, &[("/labelled", &format!("docker:label:{LABEL}"))]);
    }

    /// Ends all faults, and the judgement of what leaves.
    fn heal(&self) {
        self.truth(|truth| truth.is_over = true);
        self.node.kernel.heal();
        self.node.authority.relent();
        self.source.come_back();
        self.node.names.come_back();
    }

    /// Once every SVID was due for renewal, each stream that is still open has said what is permitted, and so does a new
    /// one of each process that is who it was.
    async fn judge_the_end(&mut self) {
        tokio::time::sleep(Duration::from_secs(600)).await;
        for Open { pid, mut updates, .. } in std::mem::take(&mut self.streams) {
            let is_who_it_was = self.callers.iter().any(|caller| caller.process.number() == pid);
            if let Some(told) = latest(&mut updates).await.filter(|_| is_who_it_was) {
                self.judge_latest(pid, &told);
            }
        }
        for at in 0..self.callers.len() {
            let process = self.callers[at].process.clone();
            let told = latest(&mut self.node.workload(&process).await).await;
            self.judge_latest(process.number(), &told.unwrap_or_default());
        }
    }

    fn judge_latest(&self, pid: u32, told: &[String]) {
        self.truth(|truth| {
            let expected: Vec<_> =
                truth.permitted(pid).iter().map(|path| format!("spiffe://example.org{path}")).collect();
            if *told != expected {
                truth.wrong.push(format!("process {pid} was told {told:?} in the end, and not {expected:?}"));
            }
        });
    }
}

/// The identities of the latest update, on a stream that goes on.
async fn latest(updates: &mut Updates) -> Option<Vec<String>> {
    let mut told = Vec::new();
    loop {
        match updates.within(Duration::from_secs(1)).await {
            Some(Seen::Update(update)) => told = ids(&update),
            Some(Seen::End(_)) => return None,
            None => return Some(told),
        }
    }
}

/// One life from its first event to its last, what is to be done `at_the_end`, and then the node's end.
fn live(seed: u64, at_the_end: impl AsyncFnOnce(&mut Walk)) -> Walk {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut walk = Walk::new(seed);
        for _ in 0..EVENTS {
            walk.step().await;
        }
        at_the_end(&mut walk).await;
        walk.streams.clear();
        walk.node.stop();
        tokio::time::sleep(Duration::from_secs(10)).await;
        walk
    })
}

#[test]
fn no_identity_leaves_that_is_not_permitted_at_its_first_and_its_last_byte() {
    let (mut handed_over, mut refused) = (0, 0);
    for seed in 0..SEEDS {
        let walk = live(seed, async |_| {});
        let truth = walk.truth.lock().unwrap();
        assert!(truth.wrong.is_empty(), "seed {seed}: {:?}", truth.wrong);
        handed_over += truth.handed_over;
        refused += truth.refused;
    }
    assert!(handed_over > 5 * SEEDS, "only {handed_over} identities left; the walk proves nothing");
    assert!(refused > SEEDS / 4, "only {refused} calls were refused; the walk proves nothing");
}

#[test]
fn every_process_has_all_that_is_permitted_once_faults_are_over() {
    for seed in 0..SEEDS / 10 {
        let walk = live(seed, async |walk| {
            walk.heal();
            walk.judge_the_end().await;
        });
        let truth = walk.truth.lock().unwrap();
        assert!(truth.wrong.is_empty(), "seed {seed}: {:?}", truth.wrong);
    }
}

#[test]
fn every_certificate_ends_as_often_as_it_was_handed_over() {
    let mut certificates = 0;
    for seed in 0..SEEDS / 10 {
        let records = live(seed, async |_| {}).node.records.clone();
        let issued = records.of_certificates(Event::Issued);
        assert!(issued.values().all(|times| *times == 1), "seed {seed}: {issued:?}");
        certificates += issued.len() as u64;
        let mut handed_over = issued;
        for (serial, times) in records.of_certificates(Event::Delivered) {
            *handed_over.get_mut(&serial).unwrap() += times;
        }
        assert_eq!(records.of_certificates(Event::Ended), handed_over, "seed {seed}");
    }
    assert!(certificates > SEEDS / 4, "only {certificates} were issued; the walk proves nothing");
}
