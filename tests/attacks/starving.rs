//! One principal that asks for more than its share: of the processor, of memory, of places, of the listen queue. What it
//! costs another in time is measured by the benchmarks; here it is what the other gets.

use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::process::Stdio;

use crate::daemon::Daemon;
use crate::floods::resident;
use crate::http2::hello;
use crate::http2::request;
use crate::node::HONEST;
use crate::node::Node;
use crate::node::PYTHON;
use crate::transport::TIMEOUT;

/// More functions for hostile callers: `raise_descriptors` and a call of FetchJWTSVID.
const FLOOD: &str = r#"
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)

def literals(fields):
    return b"".join(b"\0" + bytes([len(n)]) + n.encode() + bytes([len(v)]) + v.encode() for n, v in fields.items())

TOKEN_CALL = literals({
    ":method": "POST", ":scheme": "http", ":path": "/SpiffeWorkloadAPI/FetchJWTSVID", ":authority": "localhost",
    "content-type": "application/grpc", "te": "trailers", "workload.spiffe.io": "true",
})

def token_request(stream, length, sent):
    """A call with a message of this length (an audience of so many letters), of which so many bytes are sent."""
    size = length - 4
    message = b"\x0a" + bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14]) + b"a" * size
    body = b"\0" + struct.pack(">I", len(message)) + message
    data = b"".join(frame(0, 0, stream, body[at:min(at + 16384, sent)]) for at in range(0, sent, 16384))
    return frame(1, 4, stream, TOKEN_CALL) + data

def many(count, says):
    held = []
    for _ in range(count):
        try:
            s = connect()
            s.setblocking(False)
            s.send(says)
            held.append(s)
        except OSError:
            pass
    return held
"#;

/// A process that floods, killed at the end of the test.
struct Flood(Child);

impl Flood {
    /// Starts a process of this user and waits until its script prints a line.
    fn start(node: &Node, command: &[&str], uid: u32, script: &str) -> Self {
        let script = format!("{FLOOD}\nbecome({uid})\n{script}");
        let mut flood =
            Self(node.caller(command, &script).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(flood.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "flooding");
        flood
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As [`HONEST`], of a client that waits for its place in the listen queue.
const PATIENT: &str = "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.settimeout(20); \
                       say(s, HELLO + request()); answer(s)";

const STAY: &str = "print('flooding', flush=True)\ntime.sleep(600)";

fn issued_to(daemon: &Daemon, uid: u32) -> usize {
    let uid = format!(" uid={uid} ");
    daemon.log().lines().filter(|line| line.contains(" issued ") && line.contains(&uid)).count()
}

/// Asks for an SVID as this process, and reads until it is there.
fn is_answered(daemon: &Daemon) {
    let mut client = UnixStream::connect(daemon.socket()).unwrap();
    client.set_read_timeout(Some(TIMEOUT)).unwrap();
    client.write_all(&[hello(), request(1, None, &[])].concat()).unwrap();
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    while !answer.windows(9).any(|bytes| bytes == b"spiffe://") {
        let read = client.read(&mut part).unwrap();
        assert!(read > 0, "closed without an SVID");
        answer.extend_from_slice(&part[..read]);
    }
}

/// Defence: `Turns` gives the principal that has used the least processor time the next turn, and `RunningStreams` ends a
/// turn after eight answers. If the principal that has used the most comes first, the other user waits for all of these.
#[test]
fn attack_150_ten_thousand_requests_of_one_user_are_not_answered_before_one_of_another() {
    let entry = "[[workload]]\nid = \"/greedy\"\nselectors = [\"unix:uid:41005\"]\n";
    let test = "attack_150_ten_thousand_requests_of_one_user_are_not_answered_before_one_of_another";
    let Some(node) = Node::start_behind(test, &[], entry) else { return };
    let script = format!(
        "small = lambda n: frame(1, 4, n, TOKEN_CALL) + frame(0, 1, n, b'\\0\\0\\0\\0\\x03\\x0a\\x01a')\n\
         requests = HELLO + b''.join(small(2 * n + 1) for n in range(100))\n\
         held = many(100, requests)\n{STAY}"
    );
    let _flood = Flood::start(&node, &[PYTHON], 41005, &script);
    while issued_to(&node.daemon, 41005) == 0 {} // until it is answered
    let before = issued_to(&node.daemon, 41005);
    is_answered(&node.daemon);
    let meanwhile = issued_to(&node.daemon, 41005) - before;
    assert!(meanwhile < 1000, "{meanwhile} of 10,000 first, {before} before");
}

/// Defence: `RequestBody` charges what has arrived of a message to its principal, and ends the call after two seconds. If it
/// charges nothing, the daemon holds 300 MiB.
#[test]
fn attack_151_messages_without_their_last_byte_take_no_more_memory_than_one_user_may() {
    let test = "attack_151_messages_without_their_last_byte_take_no_more_memory_than_one_user_may";
    let Some(node) = Node::start(test) else { return };
    let script = format!(
        "requests = [token_request(2 * n + 1, 18000, 18004) for n in range(100)]\n\
         held = many(164, HELLO)\n\
         for s in held: s.setblocking(True); s.settimeout(2)\n\
         for at in range(0, 100, 3):\n for s in held:\n  try:\n   for r in requests[at:at + 3]: s.sendall(r)\n  except OSError: pass\n{STAY}"
    );
    let before = resident(&node.daemon);
    let _flood = Flood::start(&node, &[PYTHON], 41005, &script);
    for _ in 0..20 {
        assert_eq!(node.gets(&format!("become(41000); {HONEST}")), "identity");
        let grown = resident(&node.daemon).saturating_sub(before);
        assert!(grown < 64 * 1024, "{grown} KiB");
    }
}

/// Defences: `Connects` closes what comes above a user's rate, and `Turns` pins processes in turns. If both return early, the
/// other user's process waits behind all of these.
#[test]
fn attack_152_whoever_connects_and_closes_in_a_loop_keeps_no_other_out() {
    let test = "attack_152_whoever_connects_and_closes_in_a_loop_keeps_no_other_out";
    let Some(node) = Node::start(test) else { return };
    let script = "print('flooding', flush=True)\n\
                  while True:\n s = socket.socket(socket.AF_UNIX); s.setblocking(False)\n \
                  try: s.connect(sys.argv[1])\n except OSError: pass\n s.close()";
    let _flood = Flood::start(&node, &[PYTHON], 41005, script);
    for _ in 0..20 {
        assert_eq!(node.gets(&format!("become(41000); {PATIENT}")), "identity");
    }
}

/// Defences: `Connects` goes by the principal beyond the rate of a uid, and a full door ends connections of whoever holds
/// most. If the uid alone counts, root of a container takes all that root has.
#[test]
fn attack_152_root_of_a_container_takes_nothing_from_root_of_the_host() {
    let test = "attack_152_root_of_a_container_takes_nothing_from_root_of_the_host";
    let Some(node) = Node::start(test) else { return };
    let Some(group) = Cgroup::make() else {
        return eprintln!("skipped: {test}: no cgroup of version 2 can be made");
    };
    let join = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.0.display());
    let script = "print('flooding', flush=True)\nheld = many(3000, HELLO)\n\
                  while True:\n s = socket.socket(socket.AF_UNIX); s.setblocking(False)\n \
                  try: s.connect(sys.argv[1])\n except OSError: pass\n s.close()";
    let _flood = Flood::start(&node, &["/bin/sh", "-c", &join, "sh", PYTHON], 0, script);
    for _ in 0..20 {
        assert_eq!(node.gets(PATIENT), "identity");
    }
}

/// A cgroup of root's, removed at the end.
struct Cgroup(PathBuf);

impl Cgroup {
    fn make() -> Option<Self> {
        let of = |root: &str| {
            let directory = PathBuf::from(root).join(format!("bonafide-test-{}", std::process::id()));
            fs::create_dir(&directory).is_ok().then_some(directory)
        };
        let made = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].iter().find_map(|root| of(root))?;
        made.join("cgroup.procs").exists().then_some(Self(made))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Defences: `Budgets` keeps a quarter of the places for principals that hold few, and a full door ends the newest connection
/// of whoever holds most. If one returns early, the other holds.
#[test]
fn attack_154_eight_users_that_fill_the_door_keep_no_other_out() {
    let test = "attack_154_eight_users_that_fill_the_door_keep_no_other_out";
    let few_descriptors = ["/bin/sh", "-c", "ulimit -n 3000; exec \"$@\"", "sh"];
    let Some(node) = Node::start_behind(test, &few_descriptors, "") else { return };
    let script = format!("held = many(300, HELLO + request())\n{STAY}");
    let _floods: Vec<_> = (41010..41018).map(|uid| Flood::start(&node, &[PYTHON], uid, &script)).collect();
    for _ in 0..20 {
        assert_eq!(node.gets(&format!("become(41000); {HONEST}")), "identity");
    }
}
