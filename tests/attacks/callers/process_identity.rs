//! Attacks by the caller's process: callers that change, pass their connection on, or imitate others.

use std::fs;
use std::process::Command;
use std::time::Duration;

use tokio::time::Instant;

use crate::node::HONEST;
use crate::node::Node;
use crate::node::PYTHON;

/// Execs the trusted program after the accept, with its request still unread; a child waits for the response.
pub(crate) fn swap(uid: u32) -> String {
    format!("asks_and_becomes(TRUSTED, {uid}, after_the_accept=True)")
}

/// Changes its uid after connect(2).
pub(crate) const DROP: &str = "s = connect(); become(41000); say(s, HELLO + request()); answer(s)";

/// A child sends the request on the connection that it inherited.
pub(crate) const CHILD: &str = "s = connect(); say(s, HELLO); accepted(s)\n\
                                if os.fork() == 0: say(s, request()); answer(s); os._exit(0)\nos.wait()";

/// Defence: the kernel has no `/proc` entry of a reaped process. If `Process::alive`, `pinned::pidfd_facts` and
/// `pinned::layout` return early, the caller gets nothing. They stop attacks 1 and 4.
#[test]
fn attack_3_a_caller_that_is_dead_at_the_accept_gets_nothing() {
    let Some(node) = Node::start("attack_3") else { return };
    assert_eq!(node.gets(&format!("become(41000); {HONEST}")), "identity");
    assert_eq!(node.gets(&node.dead_at_the_accept("os.waitpid(middle, 0)")), "nothing");
}

/// Defences: `Process::alive` fails for a process that exited, reaped or not; `pinned::layout`. If both return early,
/// the zombie's child gets the identity; if only the first does, nothing.
#[test]
fn attack_4_a_caller_that_is_a_zombie_at_the_accept_gets_nothing() {
    let Some(node) = Node::start("attack_4") else { return };
    assert_eq!(node.gets(&format!("become(41000); {HONEST}")), "identity");
    let unreaped = "os.waitid(os.P_PID, middle, os.WEXITED | os.WNOWAIT)";
    assert_eq!(node.gets(&node.dead_at_the_accept(unreaped)), "nothing");
}

/// Defence: `pinned::layout`: a thread group leader that exited has neither executable nor namespaces. If it accepts
/// their absence, the other thread gets the identity.
#[test]
fn attack_5_a_caller_whose_first_thread_has_exited_gets_nothing() {
    let Some(node) = Node::start("attack_5") else { return };
    assert_eq!(node.gets(&format!("become(41000); {HONEST}")), "identity");
    let rest = "become(41000)\ndef rest():\n while open('/proc/self/stat').read().split(') ')[1][0] != 'Z': pass\n \
                s = connect(); say(s, HELLO + request()); answer(s); os._exit(0)\n\
                threading.Thread(target=rest).start(); libc.syscall(60, 0)";
    assert_eq!(node.gets(rest), "nothing");
}

/// Defence: `PinnedProcess::runs_still`. If it returns early, the attacker gets the identity.
#[test]
fn attack_6_an_exec_of_the_trusted_program_after_the_accept_gives_nothing() {
    let Some(node) = Node::start("attack_6") else { return };
    let trusted = node.trusted.display().to_string();
    assert_eq!(node.gets_as(&trusted, &format!("become(41001); {HONEST}")), "identity");
    assert_eq!(node.gets(&format!("become(41001); {HONEST}")), "nothing");
    assert_eq!(node.gets(&swap(41001)), "nothing");
}

/// Defences: `pinned::pidfd_facts`, `pinned::agree` and `PinnedProcess::check_writer`. If all three return early, the
/// caller gets root's identity; if one of the last two remains, nothing.
#[test]
fn attack_10_a_caller_that_changes_its_uid_after_connect_gets_nothing() {
    let Some(node) = Node::start("attack_10") else { return };
    assert_eq!(node.gets(HONEST), "identity");
    assert_eq!(node.gets(DROP), "nothing");
}

/// Defences: `pinned::pidfd_facts` and `pinned::agree`. If both return early, the thread gets the identity; if only the
/// first does, nothing.
#[test]
fn attack_11_a_thread_with_another_uid_gets_the_identity_of_neither() {
    let Some(node) = Node::start("attack_11") else { return };
    assert_eq!(node.gets(&format!("become(41000); {HONEST}")), "identity");
    let thread = "def other():\n libc.syscall(117, 41000, 41000, 41000)\n \
                  s = connect(); say(s, HELLO + request()); answer(s)\n\
                  t = threading.Thread(target=other); t.start(); t.join()";
    assert_eq!(node.gets(thread), "nothing");
}

/// Defence: `PinnedProcess::check_writer`. If it returns early, the child gets the identity.
#[test]
fn attack_12_a_child_that_inherits_the_connection_gets_nothing() {
    let Some(node) = Node::start("attack_12") else { return };
    assert_eq!(node.gets(HONEST), "identity");
    assert_eq!(node.gets(CHILD), "nothing");
    let root_forks_and_drops = "s = connect(); say(s, HELLO); accepted(s)\n\
                                if os.fork() == 0: become(41002); say(s, request()); answer(s); os._exit(0)\nos.wait()";
    assert_eq!(node.gets(root_forks_and_drops), "nothing");
}

/// Defence: `PinnedProcess::check_writer`. If it returns early, the other user gets the identity.
#[test]
fn attack_13_a_connection_that_is_passed_to_another_user_gives_it_nothing() {
    let Some(node) = Node::start("attack_13") else { return };
    assert_eq!(node.gets(&format!("become(41000); {HONEST}")), "identity");
    let passed = "a, b = socket.socketpair()\n\
                  if os.fork() == 0:\n become(41002); _, fds, _, _ = socket.recv_fds(b, 1, 1)\n \
                  s = socket.socket(fileno=fds[0]); s.settimeout(20); say(s, request()); answer(s); os._exit(0)\n\
                  become(41000); s = connect(); say(s, HELLO); accepted(s); socket.send_fds(a, [b'.'], [s.fileno()]); os.wait()";
    assert_eq!(node.gets(passed), "nothing");
}

/// Defence: `host::facts::path`. If it returns early, the attacker gets the identity.
#[test]
fn attack_25_a_file_bound_over_the_trusted_path_gets_nothing() {
    let Some(node) = Node::start("attack_25") else { return };
    let private = "mount --bind /etc /etc && mount -o remount,ro,bind /etc";
    assert_eq!(node.gets_in(private, &format!("become(41001); {HONEST}")), "identity", "a sandbox keeps its path");
    let (trusted, liar) = (node.trusted.display(), node.trusted.with_file_name("liar"));
    let lie = format!("cp {PYTHON} {liar} && mount --bind {liar} {trusted}", liar = liar.display());
    assert_eq!(node.gets_in(&lie, &format!("become(41001); {HONEST}")), "nothing");
}

/// Defence: `PinnedProcess::check_writer`. If it returns early, the thief gets the identity.
#[test]
fn attack_14_a_connection_taken_by_pidfd_getfd_gives_the_thief_nothing() {
    let Some(node) = Node::start("attack_14") else { return };
    assert_eq!(node.honest_gets(PYTHON, 41000), "identity");
    let stolen = "a, b = os.pipe(); victim = os.fork()\n\
                  if victim == 0:\n become(41000); libc.prctl(4, 1); s = connect(); say(s, HELLO); accepted(s)\n \
                  os.write(b, bytes([s.fileno()])); signal.pause()\n\
                  become(41000); number = os.read(a, 1)[0]\n\
                  s = socket.socket(fileno=libc.syscall(438, os.pidfd_open(victim), number, 0)); s.settimeout(20)\n\
                  say(s, request()); answer(s); os.kill(victim, signal.SIGKILL)";
    assert_eq!(node.gets(stolen), "nothing");
}

/// Defence: `host::stat::Stat::parse` searches the last parenthesis. If it takes the first, the honest caller with this
/// name gets nothing.
#[test]
fn attack_37_a_process_name_that_imitates_stat_fields_changes_nothing() {
    let Some(node) = Node::start("attack_37") else { return };
    let renamed = "libc.prctl(15, b') R 1 (', 0, 0, 0)";
    assert_eq!(node.gets(&format!("{renamed}; become(41000); {HONEST}")), "identity");
    assert_eq!(node.gets(&format!("{renamed}; become(41002); {HONEST}")), "nothing");
}

/// Defence: `OwnedFd` holds every descriptor of a caller. If each attestation leaks one directory handle, descriptors
/// remain.
#[test]
fn attack_38_callers_that_fail_in_every_way_leave_no_descriptor_behind() {
    let Some(node) = Node::start("attack_38") else { return };
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", node.daemon.pid())).unwrap().count();
    assert_eq!(node.honest_gets(PYTHON, 41000), "identity");
    let before = descriptors();
    let failures = "def child(does):\n if os.fork() == 0: does(); os._exit(0)\n os.wait()\n\
                    def asks(uid): become(uid); s = connect(); say(s, HELLO + request()); answered(s)\n\
                    def dies(): become(41000); s = connect(); say(s, HELLO + request())\n\
                    def babbles(): s = connect(); say(s, b'.' * 100); answered(s)\n\
                    def lends(): s = connect(); say(s, HELLO); accepted(s); child(lambda: say(s, request())); answered(s)\n\
                    for _ in range(50):\n child(lambda: asks(41002)); child(dies); child(babbles); child(lends); child(connect)\n\
                    print('done')";
    assert_eq!(node.gets(failures), "done");
    assert_eq!(node.honest_gets(PYTHON, 41000), "identity");
    let begun = Instant::now();
    while descriptors() > before {
        assert!(begun.elapsed() < Duration::from_secs(20), "{before} descriptors became {}", descriptors());
    }
}

/// Starts a child that runs in the memory of its parent, and has its number as its value.
fn shares_memory(node: &Node) -> String {
    let library = node.trusted.with_file_name("memory_sharer.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/memory_sharer.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status().unwrap();
    assert!(built.success());
    format!("ctypes.CDLL({:?}).share_memory()", library.display().to_string())
}

/// Defence: `PinnedProcess::is_pinned_again`. Without it a process that became another image is taken for the one before, and
/// refused. A connection of the image before is open meanwhile, so that the node still knows it.
#[test]
fn threads_share_a_key_and_no_fork_or_exec_has_that_of_another() {
    const TEST: &str = "threads_share_a_key_and_no_fork_or_exec_has_that_of_another";
    let Some(node) = Node::start(TEST) else { return };
    let threads = "become(41000); mine, theirs = key(), []\n\
                   t = threading.Thread(target=lambda: theirs.append(key())); t.start(); t.join()\n\
                   compare(theirs, [mine])";
    assert_eq!(node.gets(threads), "same");
    let fork = "become(41000); mine = key(); r, w = os.pipe()\n\
                if os.fork() == 0: os.write(w, key()); os._exit(0)\nos.wait(); compare(os.read(r, 200), mine)";
    assert_eq!(node.gets(fork), "other");
    for child in ["0", &shares_memory(&node)] {
        let exec = format!(
            "if len(sys.argv) > 3:\n compare(key().hex(), sys.argv[3])\n \
             if sys.argv[4] != '0': os.kill(int(sys.argv[4]), 9)\n sys.exit()\n\
             become(41000); mine, child = key().hex(), str({child}); assert key().hex() == mine\n\
             s = connect(); say(s, HELLO + request()); accepted(s); s.set_inheritable(True)\n\
             me = open('/proc/self/cmdline').read().split('\\0')[2]\n\
             os.execv(sys.executable, [sys.executable, '-c', me, *sys.argv[1:], mine, child])"
        );
        assert_eq!(node.gets(&exec), "other", "{child}");
    }
}

/// Defence: `PinnedProcess::runs_still`, by the addresses. Where they are not random there is none, and none is needed: file,
/// user and every other fact are the same.
#[test]
fn attack_162_an_exec_of_the_same_file_at_fixed_addresses_is_not_noticed() {
    let Some(node) = Node::start("attack_162") else { return };
    let trusted = node.trusted.display().to_string();
    let fixed = ["env", "STEP=000", "CHILD=0000000", "setarch", "-R", &trusted];
    if Command::new("setarch").args(["-R", "true"]).status().is_ok_and(|status| !status.success()) {
        return eprintln!("skipped: attack_162: this machine does not let a process switch randomization off");
    }
    let becomes = |program: &str, child: &str| {
        format!(
            "given = dict(one.split(b'=', 1) for one in open('/proc/self/environ', 'rb').read().split(b'\\0') if one)\n\
             if given[b'STEP'] == b'000':\n become(41001); s = connect(); say(s, HELLO); accepted(s); child = {child}\n \
             os.set_inheritable(s.fileno(), True)\n \
             given.update({{b'STEP': b'%03d' % s.fileno(), b'CHILD': b'%07d' % child}})\n \
             os.execve({program}, sys.orig_argv, given)\n\
             s = socket.socket(fileno=int(given[b'STEP'])); s.settimeout(20); say(s, request()); answer(s)\n\
             if int(given[b'CHILD']): os.kill(int(given[b'CHILD']), signal.SIGKILL)"
        )
    };
    let child = shares_memory(&node);
    assert_eq!(node.gets_by(&fixed, &becomes("TRUSTED", "0")), "identity", "it was noticed");
    let random = ["env", "STEP=000", "CHILD=0000000", &trusted];
    assert_eq!(node.gets_by(&random, &becomes("TRUSTED", &child)), "nothing", "by the addresses");
    let other = node.trusted.with_file_name("another");
    fs::copy(&node.trusted, &other).unwrap();
    let other = format!("{:?}", other.display().to_string());
    assert_eq!(node.gets_by(&fixed, &becomes(&other, &child)), "nothing", "an exec of another file");
    let asks_before = "say(s, request()); assert answered(s) == 'identity';";
    let on_a_decision = becomes(&other, &child).replace("accepted(s);", asks_before);
    let on_a_decision = on_a_decision.replace("say(s, request()); answer(s)\n", "say(s, request(3)); answer(s)\n");
    assert_eq!(node.gets_by(&fixed, &on_a_decision), "nothing", "another file, within a second of a decision");
}

/// No defence: the kernel's thread writes as root, whose ring it is. Root gave its authority away, as with a shell whose input
/// another user may write.
#[test]
fn attack_164_who_shares_a_polled_ring_with_root_speaks_as_root() {
    let Some(node) = Node::start("attack_164") else { return };
    let ring = "import mmap\n\
                parameters = bytearray(120); struct.pack_into('<3I', parameters, 0, 4, 4, 2)\n\
                ring = libc.syscall(425, 4, (ctypes.c_char * 120).from_buffer(parameters))\n\
                if ring < 0: print('unavailable'); sys.exit()\n\
                head, tail, mask, entries, flags, dropped, array = struct.unpack_from('<7I', parameters, 40)\n\
                queue = mmap.mmap(ring, array + 4 * entries_of(parameters), offset=0)\n\
                slots = mmap.mmap(ring, 64 * entries_of(parameters), offset=0x10000000)\n\
                words = mmap.mmap(-1, 4096)\n\
                s = connect(); say(s, HELLO); accepted(s)\n\
                def speak():\n asked = request(); words[:len(asked)] = asked\n \
                at = ctypes.addressof(ctypes.c_char.from_buffer(words))\n \
                slots[:64] = struct.pack('<BBHiQQII', 26, 0, 0, s.fileno(), 0, at, len(asked), 0).ljust(64, b'\\0')\n \
                struct.pack_into('<I', queue, array, 0); struct.pack_into('<I', queue, tail, 1)\n \
                libc.syscall(426, ring, 0, 0, 2, None, 0)\n\
                if os.fork() == 0: become(41002); speak(); answer(s); os._exit(0)\n\
                os.wait()";
    let ring = format!("entries_of = lambda parameters: struct.unpack_from('<I', parameters, 0)[0]\n{ring}");
    match &*node.gets(&ring) {
        "unavailable" => eprintln!("skipped: attack_164: this kernel gives no io_uring"),
        verdict => assert_eq!(verdict, "identity"),
    }
    assert_eq!(node.gets(CHILD), "nothing", "without a ring");
}
