//! Attacks on the operator: at the door of the admin API, and where the operator's commands write.

use std::fs;
use std::fs::Permissions;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::lchown;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

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
    if !only_as_root("attack_157_child") {
        return;
    }
    if !Path::new(PYTHON).exists() {
        return eprintln!("skipped: attack_157_child: needs {PYTHON}");
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

fn fetches_to(daemon: &Daemon, folder: &Path) -> Output {
    daemon.ask(&["fetch", "x509", "--write", folder.to_str().unwrap()])
}

/// Defence: `trusted_path::open_directory_to_write`. If `Walk::judge_owner` returns early, root writes where the other user
/// leads it.
#[test]
fn attack_158_root_writes_to_no_directory_of_another_user() {
    if !only_as_root("attack_158_owner") {
        return;
    }
    let daemon = Daemon::start(&me());
    let place = tempfile::tempdir().unwrap();
    let [theirs, link, target] = ["theirs", "link", "target"].map(|name| place.path().join(name));
    fs::create_dir(&theirs).unwrap();
    fs::create_dir(&target).unwrap();
    symlink(&target, &link).unwrap();
    assert!(fetches_to(&daemon, &link).status.success(), "by a link of root's");
    fs::remove_dir_all(&target).unwrap();
    fs::create_dir(&target).unwrap();
    for name in [&theirs, &link] {
        lchown(name, Some(41000), Some(41000)).unwrap();
        let refused = fetches_to(&daemon, name);
        let printed = String::from_utf8_lossy(&refused.stderr).into_owned();
        let unwrapped = printed.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(refused.status.code(), Some(1), "{printed}");
        assert!(unwrapped.contains("belongs to uid 41000, and has to belong to root or to uid 0"), "{printed}");
        assert_eq!(fs::read_dir(name).unwrap().count(), 0, "something was written");
    }
}

/// Defence: `FileSet` changes modes on descriptors alone. If it sets the mode of the fresh directory by its name, the file of
/// root becomes 0755.
#[test]
fn attack_158_a_fresh_directory_swapped_for_a_link_opens_no_file_of_root() {
    if !only_as_root("attack_158_swap") {
        return;
    }
    let daemon = Daemon::start(&me());
    let place = tempfile::tempdir().unwrap();
    let [folder, victim] = ["folder", "victim"].map(|name| place.path().join(name));
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
    fs::write(&victim, "of root").unwrap();
    fs::set_permissions(&victim, Permissions::from_mode(0o600)).unwrap();
    let done = AtomicBool::new(false);
    let swapped = std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let mut swapped = 0;
            while !done.load(Ordering::Relaxed) {
                for name in fs::read_dir(&folder).unwrap().filter_map(|entry| Some(entry.ok()?.path())) {
                    let is_fresh = name.file_name().is_some_and(|name| name.to_string_lossy().starts_with("..x509-"));
                    let aside = place.path().join(format!("aside-{swapped}"));
                    if is_fresh && !name.is_symlink() && fs::rename(&name, aside).is_ok() {
                        swapped += usize::from(symlink(&victim, &name).is_ok());
                    }
                }
            }
            swapped
        });
        (0..20).for_each(|_| drop(fetches_to(&daemon, &folder)));
        done.store(true, Ordering::Relaxed);
        swapper.join().unwrap()
    });
    assert!(swapped > 0, "nothing was attacked");
    assert_eq!(fs::metadata(&victim).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "of root");
    fs::remove_dir_all(&folder).unwrap();
    fs::create_dir(&folder).unwrap();
    assert!(fetches_to(&daemon, &folder).status.success());
}
