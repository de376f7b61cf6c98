//! Four services in four languages, each of which asks all of them twice a second, on a new mTLS connection each time. Each is
//! started once, and has one source of X509-SVIDs and one of JWT bundles for its whole life.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdin;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::daemon::Daemon;
use crate::rust_member;
use crate::rust_member::IN_AN_UPDATE;
use crate::rust_member::Seen;
use crate::tools::entry;
use crate::tools::go_workload;
use crate::tools::java_workload;
use crate::tools::python;
use crate::tools::script;
use crate::tools::workload;
use crate::trust::keys_of;

/// How long a member may take to start.
const START: Duration = Duration::from_secs(30);
/// How long a member may print nothing. The longest stay without a daemon is shorter.
const SILENCE: Duration = Duration::from_secs(8);
/// The member in this process.
const RUST: &str = "/rust";
/// What the libraries say where they do not believe a peer.
const VERDICTS: [&str; 9] = [
    "AuthorityNotFound",
    "UnknownCA",
    "authority",
    "cannot be verified",
    "could not verify",
    "expired",
    "invalid peer certificate",
    "token is refused",
    "verify failed",
];
/// Both ends of a handshake tell of its failure within this time.
const BOTH_ENDS: Duration = Duration::from_secs(1);

/// A program that becomes a member, and its arguments.
pub(crate) struct Program {
    id: &'static str,
    path: PathBuf,
    arguments: Vec<OsString>,
}

/// The programs that there are on this machine beside the one of this test.
pub(crate) fn programs(test: &str) -> Vec<Program> {
    let member = OsString::from("member");
    let python = python(test).map(|path| Program { id: "/python", path, arguments: vec![script("member.py").into()] });
    let go = go_workload(test);
    let go = go.map(|path| Program { id: "/go", path: path.to_owned(), arguments: vec![member.clone()] });
    let java = java_workload(test).map(|(path, arguments)| {
        let arguments = arguments.iter().cloned().chain([member]).collect();
        Program { id: "/java", path: path.clone(), arguments }
    });
    [python, go, java].into_iter().flatten().collect()
}

/// Entries for all members.
pub(crate) fn entries(programs: &[Program]) -> String {
    let others = programs.iter().map(|program| entry(program.id, &program.path));
    others.chain([entry(RUST, &std::env::current_exe().unwrap())]).collect()
}

/// A line of a member; `None` at its end.
type Said = (&'static str, Option<String>);

/// A member in a process of its own.
struct Process {
    id: &'static str,
    child: Child,
    /// Takes the peers, and is closed then.
    peers: Option<ChildStdin>,
    complaints: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _already_ended = (self.child.kill(), self.child.wait());
        if thread::panicking() {
            let complaints = fs::read_to_string(&self.complaints).unwrap_or_default();
            let last: Vec<_> = complaints.lines().rev().take(10).collect();
            eprintln!("the last complaints of {}, backwards:\n{}", self.id, last.join("\n"));
        }
    }
}

/// What the members have done.
pub(crate) struct Circle {
    processes: Vec<Process>,
    said: Receiver<Said>,
    last_words: BTreeMap<&'static str, Instant>,
    /// By who asked whom: the authorities of those who answered, and how often.
    asked: BTreeMap<(&'static str, String), BTreeMap<String, u32>>,
    failures: Vec<(Instant, String)>,
    without_token: u32,
    /// Everything that the member in this process was shown.
    pub(crate) seen: Seen,
    runtime: Runtime,
}

impl Circle {
    /// Starts all members, and returns when each of them has asked each.
    pub(crate) fn begin(daemon: &Daemon, programs: &[Program]) -> Self {
        let (sender, said) = mpsc::channel();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let processes = programs.iter().map(|program| start(daemon, program, sender.clone())).collect();
        let (seen, (tell_rust, peers)) = (Seen::default(), oneshot::channel());
        let say = sender.clone();
        let say: rust_member::Say = Arc::new(move |line| drop(say.send((RUST, Some(line)))));
        let (address, shown) = (daemon.address(), seen.clone());
        runtime.spawn(async move {
            let ended = rust_member::live(address, peers, shown, say.clone()).await;
            say(format!("failed to live: {ended:?}"));
            let _nobody_listens = sender.send((RUST, None));
        });
        let (last_words, asked) = (BTreeMap::new(), BTreeMap::new());
        let mut circle =
            Self { processes, said, last_words, asked, failures: Vec::new(), without_token: 0, seen, runtime };
        let addresses: Vec<_> = (0..=programs.len()).map(|_| circle.address()).collect();
        for process in &mut circle.processes {
            let mut peers = process.peers.take().unwrap();
            addresses.iter().for_each(|(id, address)| writeln!(peers, "{id} {address}").unwrap());
        }
        tell_rust.send(addresses.clone()).unwrap();
        let deadline = Instant::now() + START;
        while circle.asked.len() < addresses.len() * addresses.len() {
            circle.hear("at the start");
            circle.judge();
            assert!(Instant::now() < deadline, "not everyone has asked everyone: {:?}", circle.asked);
        }
        circle
    }

    /// The SPIFFE ID and the address of the next member that listens.
    fn address(&self) -> (String, String) {
        let (id, line) = self.said.recv_timeout(START).expect("a member that listens");
        let line = line.unwrap_or_else(|| panic!("{id} has ended"));
        let address = line.split("listens on ").nth(1).unwrap_or_else(|| panic!("{id}: {line}"));
        (format!("spiffe://example.org{id}"), address.to_owned())
    }

    /// Waits a moment for a line, and notes what it says. `when` tells those who read of a failure where it belongs.
    pub(crate) fn hear(&mut self, when: &str) {
        match self.said.recv_timeout(Duration::from_millis(50)) {
            Ok((id, Some(line))) => self.note(id, &line, when),
            Ok((id, None)) => self.failures.push((Instant::now(), format!("{when}: {id} has ended"))),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => panic!("every member has ended"),
        }
        let silent = self.last_words.iter_mut().filter(|(_, last)| last.elapsed() > SILENCE);
        for (id, last) in silent {
            *last = Instant::now();
            self.failures.push((*last, format!("{when}: {id} has said nothing for {SILENCE:?}")));
        }
    }

    fn note(&mut self, id: &'static str, line: &str, when: &str) {
        if let Some((peer, authority)) = line.strip_prefix("asked ").and_then(|asked| asked.split_once(" under ")) {
            *self.asked.entry((id, peer.to_owned())).or_default().entry(authority.to_owned()).or_default() += 1;
            self.last_words.insert(id, Instant::now());
        } else if line.starts_with("no new token") {
            self.without_token += 1;
        } else {
            self.failures.push((Instant::now(), format!("{when}: {id} {line}")));
        }
    }

    /// Fails if a handshake has failed, a token was refused, or a member has ended, but for the last second.
    pub(crate) fn judge(&self) {
        let failures: Vec<_> = self.unexcused().into_iter().filter(|(at, _)| at.elapsed() > BOTH_ENDS).collect();
        let lines: Vec<_> = failures.iter().map(|(_, line)| line.as_str()).collect();
        assert!(lines.is_empty(), "{} failures:\n{}", lines.len(), lines.join("\n"));
    }

    /// The failures without those that `spiffe-rustls` makes by design, and without their other ends.
    ///
    /// The crate refuses every handshake between an update of its source and the conversion of what it brought, whatever that
    /// is, a renewed SVID of the same authority, too (its README: an acquisition "fails while conversion is pending"). Its
    /// verifiers say so; its resolvers have no certificate then, and the other end misses one.
    fn unexcused(&self) -> Vec<&(Instant, String)> {
        let (in_updates, mut others): (Vec<_>, Vec<_>) =
            self.failures.iter().partition(|(_, line)| line.contains(IN_AN_UPDATE) && !is_verdict(line));
        for (at, _) in in_updates {
            let is_other_end = |(other, line): &&(Instant, String)| {
                let apart = other.saturating_duration_since(*at).max(at.saturating_duration_since(*other));
                apart < BOTH_ENDS && !is_verdict(line)
            };
            if let Some(other_end) = others.iter().position(is_other_end) {
                others.remove(other_end);
            }
        }
        others
    }

    /// Under how many authorities everyone has met everyone, and has shown tokens. Not all meet under one that was soon
    /// replaced: an SVID of the one before is renewed after half of its life.
    pub(crate) fn least_met(&self) -> usize {
        let (_, tokens) = self.seen.all();
        let tokens = keys_of(&tokens);
        let least = self.asked.values().map(BTreeMap::len).chain(tokens.values().map(BTreeSet::len)).min();
        least.filter(|_| tokens.len() == self.processes.len() + 1).unwrap_or_default()
    }

    /// What was done, in one line.
    pub(crate) fn summary(&self) -> String {
        let handshakes: u32 = self.asked.values().flat_map(BTreeMap::values).sum();
        let in_updates = self.failures.iter().filter(|(_, line)| line.contains(IN_AN_UPDATE)).count();
        format!(
            "{} members, {handshakes} handshakes, {in_updates} more that spiffe-rustls refused, {} times no new token",
            self.processes.len() + 1,
            self.without_token
        )
    }

    /// Waits for something that takes a runtime.
    pub(crate) fn wait_for<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }
}

fn is_verdict(line: &str) -> bool {
    VERDICTS.iter().any(|verdict| line.contains(verdict))
}

fn start(daemon: &Daemon, program: &Program, said: Sender<Said>) -> Process {
    let complaints = daemon.folder().join(format!("{}.complaints", &program.id[1..]));
    let mut command = workload(daemon, &program.path);
    command.args(&program.arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(File::create(&complaints).unwrap()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let id = program.id;
    thread::spawn(move || {
        let told = lines.map_while(Result::ok).try_for_each(|line| said.send((id, Some(line))));
        told.and_then(|()| said.send((id, None)))
    });
    Process { id, peers: child.stdin.take(), child, complaints }
}
