//! Attacks on the operator: at the door of the admin API, and where the operator's commands write.

use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use crate::daemon::Daemon;
use crate::node::PYTHON;
use crate::surroundings::Group;
use crate::surroundings::unified;
use crate::transport::me;

const BINARY: &str = env!("CARGO_BIN_EXE_bonafide");

/// A command of the binary at the daemon's admin socket, behind a launcher.
fn asks(daemon: &Daemon, launcher: &[&str], command: &[&str]) -> Output {
    let words = [launcher, &[BINARY], command].concat();
    Command::new(words[0]).args(&words[1..]).env("BONAFIDE_ADMIN_SOCKET", daemon.admin_socket()).output().unwrap()
}

fn is_answered(daemon: &Daemon, launcher: &[&str]) {
    let answered = asks(daemon, launcher, &["status"]);
    assert!(answered.status.success(), "{launcher:?}: {}", String::from_utf8_lossy(&answered.stderr));
}

/// Asserts that no question gets an answer, and that the operator reads why.
fn is_closed(daemon: &Daemon, launcher: &[&str]) {
    for command in [&["status", "-o", "json"][..], &["explain", "1"], &["reload"]] {
        let closed = asks(daemon, launcher, command);
        let printed = String::from_utf8_lossy(&closed.stderr).into_owned();
        assert_eq!(closed.status.code(), Some(3), "{launcher:?} {command:?}: {printed}");
        assert!(closed.stdout.is_empty() && printed.contains("another container than the daemon's"), "{printed}");
    }
}

fn only_as_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: {test}: only root can enter namespaces and cgroups");
    }
    root
}

/// The cgroup of a container, and a launcher that enters it.
fn container(digit: &str) -> (Group, Vec<String>) {
    let group = Group::make(unified(), &format!("docker/{:0>64}", format!("{}{digit}", std::process::id())));
    let enter = Group::enter(&[&group]);
    (group, enter)
}

fn words(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// Defence: `Operators::check_whereabouts`. If it returns early, root of the container reads the status, explains processes of
/// the host and reloads.
#[test]
fn attack_157_root_of_a_container_gets_no_answer_on_the_admin_socket() {
    if !only_as_root("attack_157") {
        return;
    }
    let daemon = Daemon::start(&me());
    is_answered(&daemon, &["env"]);
    for namespace in [&["unshare", "-pf"][..], &["unshare", "-Ur"], &["unshare", "-C"]] {
        is_closed(&daemon, namespace);
    }
    let said = "it runs neither on the host (not in the host's own namespaces) nor in the daemon's own container";
    assert!(daemon.log().contains(said), "{}", daemon.log());
    let lines = daemon.log().matches("refused on the admin socket").count();
    assert_eq!(lines, 1, "nine refusals of one user within ten seconds: {}", daemon.log());
    let (_group, enter) = container("1");
    is_closed(&daemon, &words(&enter));
    is_answered(&daemon, &["env"]);
}

/// Defence: `Operators::check_whereabouts` compares the caller's namespaces and cgroup with the daemon's. Without that, nobody
/// can operate a daemon in a pod; if it compared the namespaces alone, another container of the pod could.
#[test]
fn attack_157_the_daemons_own_container_may_ask_and_another_may_not() {
    if !only_as_root("attack_157_own_container") {
        return;
    }
    let ((_own, enter_own), (_other, enter_other)) = (container("2"), container("3"));
    let launcher = [&words(&enter_own)[..], &["unshare", "-Cm"]].concat();
    let daemon = Daemon::start_behind(&launcher, &me());
    let pid = daemon.pid().to_string();
    let exec = ["nsenter", "-t", &pid, "-C", "-m"];
    is_answered(&daemon, &[&words(&enter_own)[..], &exec].concat());
    is_answered(&daemon, &["env"]);
    is_closed(&daemon, &words(&enter_own));
    is_closed(&daemon, &[&words(&enter_other)[..], &exec].concat());
}

/// Defence: `CheckedStream` on the admin socket. If it takes the bytes of any writer, the child reads the status.
#[test]
fn attack_157_a_child_that_root_lets_go_asks_nothing_on_roots_connection() {
    if !only_as_root("attack_157_child") || !Path::new(PYTHON).exists() {
        return;
    }
    let daemon = Daemon::start(&me());
    let asks = |become_another: &str| {
        let script = format!(
            "import os, socket, sys\ns = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1])\n\
             if {become_another}: os.wait(); os._exit(0)\n\
             answer = b''\ntry:\n s.sendall(b'GET /v1/status HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n'); answer = s.recv(4096)\n\
             except ConnectionError: pass\nprint(answer.startswith(b'HTTP/1.1 200'))"
        );
        let mut command = Command::new(PYTHON);
        let run = command.args(["-c", &script]).arg(daemon.admin_socket()).stdin(Stdio::null()).output().unwrap();
        String::from_utf8(run.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(asks("False"), "True");
    assert_eq!(asks("os.fork() or os.setresuid(41000, 41000, 41000)"), "False");
}
