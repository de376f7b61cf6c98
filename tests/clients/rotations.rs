//! Services in four languages keep talking mTLS while their SVIDs rotate and the daemon is killed.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::BufRead;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::thread::JoinHandle;

use crate::daemon::Daemon;
use crate::tools::entry;
use crate::tools::example;
use crate::tools::go_workload;
use crate::tools::java_workload;
use crate::tools::python;
use crate::tools::script;
use crate::tools::workload;

const TEST: &str = "services_keep_mtls_through_ten_rotations_and_a_killed_daemon";
/// At 100 ms each, these take longer than eleven renewals of an SVID that is renewed after half of its 10 s.
const REQUESTS: usize = 640;
/// The number of answers after which the daemon is killed.
const KILLED_AFTER: usize = 240;

/// The server and the client program of a language, each with its SPIFFE ID path.
struct Language {
    server: (&'static str, PathBuf),
    client: (&'static str, PathBuf),
    /// What comes before the arguments of the workload.
    arguments: Vec<OsString>,
}

impl Language {
    fn rust() -> Self {
        let (server, client) = (("/rust-server", example("server")), ("/rust-client", example("client")));
        Self { server, client, arguments: Vec::new() }
    }

    fn one_program(id: &'static str, program: PathBuf, arguments: Vec<OsString>) -> Self {
        Self { server: (id, program.clone()), client: (id, program), arguments }
    }

    fn is_rust(&self) -> bool {
        self.server.1 != self.client.1
    }
}

/// A client with its own server.
struct Conversation {
    name: String,
    server: Child,
    server_printed: JoinHandle<Vec<String>>,
    client: Child,
    answers: BufReader<std::process::ChildStdout>,
    lines: Vec<String>,
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let _already_ended = (self.server.kill(), self.server.wait(), self.client.kill(), self.client.wait());
    }
}

impl Conversation {
    fn begin(node: &Daemon, server: &Language, client: &Language) -> Self {
        let [server_id, client_id] =
            [server.server.0, client.client.0].map(|path| format!("spiffe://example.org{path}"));
        let mut command = workload(node, &server.server.1);
        match server.is_rust() {
            true => command.args(["127.0.0.1:0", &client_id]),
            false => command.args(&server.arguments).args(["server", &client_id]),
        };
        let (serving, mut printed) = start(&mut command);
        let mut first = String::new();
        printed.read_line(&mut first).unwrap();
        let address = first.trim().rsplit_once("listens on ").expect("an address").1.to_owned();
        let server_printed = thread::spawn(move || printed.lines().map_while(Result::ok).collect());

        let mut command = workload(node, &client.client.1);
        let requests = REQUESTS.to_string();
        match client.is_rust() {
            true => command.args([&address, &server_id, &requests]),
            false => command.args(&client.arguments).args(["client", &server_id, &address, &requests]),
        };
        let (asking, answers) = start(&mut command);
        let name = format!("{client_id} -> {server_id}");
        Self { name, server: serving, server_printed, client: asking, answers, lines: Vec::new() }
    }

    /// Waits until this number of requests has been answered, or the client has ended.
    fn read_answers(&mut self, answers: usize) {
        while self.lines.len() < answers {
            let mut line = String::new();
            if self.answers.read_line(&mut line).unwrap() == 0 {
                return;
            }
            self.lines.push(line);
        }
    }

    fn end(mut self) {
        self.read_answers(usize::MAX);
        let ended = self.client.wait().unwrap();
        assert!(ended.success(), "{}: {ended} after {} answers", self.name, self.lines.len());
        assert_eq!(self.lines.len(), REQUESTS, "{}", self.name);
        assert_eq!(self.server.try_wait().unwrap(), None, "{}: the server has ended", self.name);
        self.server.kill().unwrap();
        let server_printed = std::mem::replace(&mut self.server_printed, thread::spawn(Vec::new)).join().unwrap();
        assert!(server_printed.is_empty(), "{}: a handshake failed: {server_printed:?}", self.name);
        let serials: BTreeSet<_> =
            self.lines.iter().filter_map(|line| line.split("serial ").nth(1)?.split(": ").next()).collect();
        assert!(serials.len() > 10, "{}: the server saw only {} serials of the client", self.name, serials.len());
    }
}

fn start(command: &mut Command) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let printed = BufReader::new(child.stdout.take().unwrap());
    (child, printed)
}

#[test]
fn services_keep_mtls_through_ten_rotations_and_a_killed_daemon() {
    let rust = Language::rust();
    let python = python(TEST);
    let python = python.map(|program| Language::one_program("/python", program, vec![script("workload.py").into()]));
    let go = go_workload(TEST).map(|program| Language::one_program("/go", program.to_owned(), Vec::new()));
    let java = java_workload(TEST);
    let java = java.map(|(program, arguments)| Language::one_program("/java", program.clone(), arguments.clone()));
    let others: Vec<_> = [python, go, java].into_iter().flatten().collect();
    let mut entries = entry(rust.server.0, &rust.server.1) + &entry(rust.client.0, &rust.client.1);
    entries.extend(others.iter().map(|other| entry(other.server.0, &other.server.1)));

    let mut node = Daemon::start(&entries);
    let mut conversations = vec![Conversation::begin(&node, &rust, &rust)];
    for other in &others {
        conversations.push(Conversation::begin(&node, &rust, other));
        conversations.push(Conversation::begin(&node, other, &rust));
    }
    for conversation in &mut conversations {
        conversation.read_answers(KILLED_AFTER);
    }
    node.kill_and_restart();
    for conversation in conversations {
        conversation.end();
    }
}
