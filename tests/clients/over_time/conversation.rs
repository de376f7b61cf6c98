//! Programs in four languages, and conversations over mTLS between them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::BufRead;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Duration;

use crate::daemon::Daemon;
use crate::tools::example;
use crate::tools::go_workload;
use crate::tools::java_workload;
use crate::tools::python;
use crate::tools::script;
use crate::tools::workload;

/// A program that is a client, a server or either.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// Its SPIFFE ID path.
    pub(crate) id: &'static str,
    pub(crate) path: PathBuf,
    /// The command that execs the program, whose path follows.
    pub(crate) launcher: Vec<OsString>,
    /// What comes before the arguments of the workload.
    arguments: Vec<OsString>,
    is_rust: bool,
}

impl Program {
    pub(crate) fn rust_server() -> Self {
        Self { is_rust: true, ..Self::new("/rust-server", example("server"), Vec::new()) }
    }

    pub(crate) fn rust_client(id: &'static str) -> Self {
        Self { is_rust: true, ..Self::new(id, example("client"), Vec::new()) }
    }

    /// The programs in other languages that there are on this machine. Each is a client or a server.
    pub(crate) fn others(test: &str) -> Vec<Self> {
        let python = python(test).map(|path| Self::new("/python", path, vec![script("workload.py").into()]));
        let go = go_workload(test).map(|path| Self::new("/go", path.to_owned(), Vec::new()));
        let java = java_workload(test);
        let java = java.map(|(path, arguments)| Self::new("/java", path.clone(), arguments.clone()));
        [python, go, java].into_iter().flatten().collect()
    }

    fn new(id: &'static str, path: PathBuf, arguments: Vec<OsString>) -> Self {
        Self { id, path, launcher: Vec::new(), arguments, is_rust: false }
    }

    pub(crate) fn spiffe_id(&self) -> String {
        format!("spiffe://example.org{}", self.id)
    }

    fn command(&self, node: &Daemon) -> Command {
        let words = [&self.launcher[..], &[self.path.clone().into()], &self.arguments].concat();
        let mut command = workload(node, Path::new(&words[0]));
        command.args(&words[1..]);
        command
    }

    fn server(&self, node: &Daemon, client: &str) -> Command {
        let mut command = self.command(node);
        match self.is_rust {
            true => command.args(["127.0.0.1:0", client]),
            false => command.args(["server", client]),
        };
        command
    }

    fn client(&self, node: &Daemon, server: &str, address: &str, requests: usize) -> Command {
        let mut command = self.command(node);
        let requests = requests.to_string();
        match self.is_rust {
            true => command.args([address, server, &requests]),
            false => command.args(["client", server, address, &requests]),
        };
        command
    }
}

/// How long a program may take to print its next line.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A process, and the lines that it prints.
struct Printing {
    child: Child,
    printed: Receiver<String>,
}

impl Drop for Printing {
    fn drop(&mut self) {
        let _already_ended = (self.child.kill(), self.child.wait());
    }
}

impl Printing {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, printed) = mpsc::channel();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, printed }
    }

    /// The next line, or none if the process has ended.
    fn next_line(&self) -> Option<String> {
        match self.printed.recv_timeout(TIMEOUT) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("a program has printed nothing for {TIMEOUT:?}"),
        }
    }
}

/// A client with its own server. The client sends a request every 100 ms, on a new connection after each twenty.
pub(crate) struct Conversation {
    name: String,
    requests: usize,
    server: Printing,
    client: Printing,
    answers: Vec<String>,
}

impl Conversation {
    pub(crate) fn begin(node: &Daemon, server: &Program, client: &Program, requests: usize) -> Self {
        let [server_id, client_id] = [server, client].map(Program::spiffe_id);
        let serving = Printing::start(&mut server.server(node, &client_id));
        let first = serving.next_line().expect("a server that listens");
        let address = first.rsplit_once("listens on ").expect("an address").1;
        let asking = Printing::start(&mut client.client(node, &server_id, address, requests));
        let name = format!("{client_id} -> {server_id}");
        Self { name, requests, server: serving, client: asking, answers: Vec::new() }
    }

    /// The process of the client.
    pub(crate) fn pid(&self) -> u32 {
        self.client.child.id()
    }

    /// Waits until this number of requests has been answered, or the client has ended.
    pub(crate) fn read_answers(&mut self, answers: usize) {
        while self.answers.len() < answers
            && let Some(line) = self.client.next_line()
        {
            self.answers.push(line);
        }
    }

    /// The number of requests that have been answered by now.
    pub(crate) fn answered(&mut self) -> usize {
        self.answers.extend(self.client.printed.try_iter());
        self.answers.len()
    }

    /// Waits until every request has been answered, on connections that did not fail. The answers after the first `skipped`
    /// show at least this number of renewals of the client's SVID.
    pub(crate) fn end(mut self, skipped: usize, renewals: usize) {
        self.read_answers(usize::MAX);
        let ended = self.client.child.wait().unwrap();
        assert!(ended.success(), "{}: {ended} after {} answers", self.name, self.answers.len());
        assert_eq!(self.answers.len(), self.requests, "{}", self.name);
        assert_eq!(self.server.child.try_wait().unwrap(), None, "{}: the server has ended", self.name);
        self.server.child.kill().unwrap();
        let printed: Vec<_> = self.server.printed.iter().collect();
        assert!(printed.is_empty(), "{}: a handshake failed: {printed:?}", self.name);
        let later = self.answers.iter().skip(skipped);
        let serials = later.filter_map(|line| line.split("serial ").nth(1)?.split(": ").next());
        let serials: BTreeSet<_> = serials.collect();
        assert!(serials.len() > renewals, "{}: the server saw only {} serials", self.name, serials.len());
    }

    /// Waits until the client has ended, which it does at a handshake that fails.
    pub(crate) fn end_early(mut self) {
        self.read_answers(usize::MAX);
        let ended = self.client.child.wait().unwrap();
        let answers = self.answers.len();
        assert!(!ended.success() && answers < self.requests, "{}: {ended} after {answers} answers", self.name);
    }
}
