//! Attacks on what every door has beside its protocol: the log, and the places of the operator's doors.

use std::collections::VecDeque;
use std::fs;
use std::fs::Permissions;
use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use tokio::time::Instant;

use crate::daemon::Daemon;
use crate::node::PYTHON;
use crate::requests::tokens;
use crate::transport::TIMEOUT;
use crate::transport::answer_to;
use crate::transport::me;

/// A daemon whose admin socket is also for the group adm, and the id of that group.
fn daemon_with_operators(test: &str, launcher: &[&str], tables: &str) -> Option<(Daemon, u32)> {
    let group = nix::unistd::Group::from_name("adm").unwrap();
    let Some(group) = group.filter(|_| nix::unistd::getuid().is_root() && fs::exists(PYTHON).unwrap()) else {
        eprintln!("skipped: {test}: needs root, {PYTHON} and the group adm");
        return None;
    };
    let mut daemon = Daemon::start_behind(launcher, tables);
    daemon.kill();
    fs::set_permissions(daemon.folder(), Permissions::from_mode(0o755)).unwrap();
    let text = fs::read_to_string(daemon.configuration()).unwrap();
    fs::write(daemon.configuration(), text.replace("[admin]\n", "[admin]\ngroup = \"adm\"\n")).unwrap();
    Some((daemon, group.gid.as_raw()))
}

/// Runs a script as uid 41000 in this group, behind a launcher. Its first argument is the admin socket.
fn as_member(daemon: &Daemon, group: u32, launcher: &[&str], script: &str) -> Command {
    let become_member =
        format!("import os, socket, sys\nos.setgroups([]); os.setresgid(*[{group}] * 3); os.setresuid(*[41000] * 3)\n");
    let words = [launcher, &[PYTHON, "-c"]].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(become_member + script).arg(daemon.admin_socket());
    command
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Defences: `Lines` queues records for themselves and first; `DaemonLog::admit` limits lines by cause and caller. With one
/// queue for both, the lines at level debug take the place of the records.
#[tokio::test(flavor = "multi_thread")]
async fn attack_159_lines_that_callers_cause_push_no_record_out_of_a_log_that_is_read_slowly() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    // Nobody reads the daemon's output while the gate is there and closed.
    let reader = "exec \"$@\" > >(test -p \"$0\" && timeout 60 cat \"$0\" > /dev/null; exec cat)";
    let launcher = ["/bin/bash", "-c", reader, gate.to_str().unwrap()];
    let tables = format!("[log]\nlevel = \"debug\"\n{}", me());
    let name = "attack_159_lines_that_callers_cause_push_no_record_out_of_a_log_that_is_read_slowly";
    let Some((mut daemon, group)) = daemon_with_operators(name, &launcher, &tables) else { return };
    nix::unistd::mkfifo(&gate, Mode::S_IRWXU).unwrap();
    daemon.restart();

    let refused = "for _ in range(500):\n s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n \
                   assert s.recv(1) == b'', 'admitted'\nprint('refused')";
    let member_elsewhere = as_member(&daemon, group, &["unshare", "-C"], refused).output().unwrap();
    assert!(member_elsewhere.status.success(), "{}", printed(&member_elsewhere));
    let log_of = |daemon: &Daemon| {
        let status: serde_json::Value = serde_json::from_slice(&daemon.ask(&["status", "-o", "json"]).stdout).unwrap();
        status["log"].clone()
    };
    assert!(log_of(&daemon)["suppressed_lines"].as_u64().unwrap() > 0, "{}", log_of(&daemon));
    while log_of(&daemon)["dropped_lines"] == 0 {
        (0..1000).for_each(|_| drop(answer_to(&daemon.socket(), b"GET / HTTP/1.1\r\n\r\n and no HTTP/2 at all")));
    }
    for _ in 0..200 {
        assert_eq!(tokens(&daemon, vec!["audience".to_owned()], "").await.unwrap().len(), 1);
    }
    let lost = log_of(&daemon);
    assert_eq!(lost["dropped_records"], 0, "{lost}");

    fs::write(&gate, "").unwrap();
    let issued = |daemon: &Daemon| daemon.log().lines().filter(|line| line.contains(" issued ")).count();
    let begun = Instant::now();
    while issued(&daemon) < 200 {
        assert!(begun.elapsed() < TIMEOUT, "{} of 200 records are in the log", issued(&daemon));
    }
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.log().matches("refused on the admin socket").count() <= 20, "{}", daemon.log());
}

/// The status and the body of an answer on a loopback door; `None` where there is none within a second.
fn probed(port: u16, request: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Defence: `Places::take`. If it never frees a place, every probe waits for those who hold one.
#[test]
fn attack_160_requests_that_are_never_finished_keep_no_probe_out() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let daemon = Daemon::start(&format!("[health]\nlisten = \"127.0.0.1:{port}\"\n{}", me()));
    let probe = "GET /ready HTTP/1.1\r\nhost: localhost\r\n\r\n";
    for held in [
        "",
        "GET /ready HTTP/1.1\r\nhost: loc",
        "POST /ready HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n",
        probe,
    ] {
        let hold = || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let _ = stream.write_all(held.as_bytes()); // the daemon may have closed already
            stream
        };
        let holding: Vec<_> = (0..200).map(|_| hold()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        std::thread::scope(|scope| {
            let going_on = scope.spawn(|| {
                let mut more = VecDeque::from(holding);
                while !stop.load(Ordering::SeqCst) {
                    more.push_back(hold());
                    drop((more.len() > 200).then(|| more.pop_front()));
                }
            });
            let probes: Vec<_> = (0..20).map(|_| probed(port, probe).unwrap_or_default()).collect();
            stop.store(true, Ordering::SeqCst);
            going_on.join().unwrap();
            let served = probes.iter().filter(|answer| answer.starts_with("HTTP/1.1 200")).count();
            assert_eq!(served, 20, "while {held:?} is held: {probes:?}");
        });
    }
    let rebound = probed(port, "GET /ready HTTP/1.1\r\nhost: rebound.example\r\n\r\n").unwrap();
    assert!(rebound.starts_with("HTTP/1.1 421 "), "{rebound}");
    assert!(daemon.ask(&["status"]).status.success());
}

/// Defence: `Places::take`. Whoever holds most leaves for root, whether or not the request is whole.
#[test]
fn attack_160_members_of_the_admin_group_do_not_keep_root_out() {
    let name = "attack_160_members_of_the_admin_group_do_not_keep_root_out";
    let Some((mut daemon, group)) = daemon_with_operators(name, &[], &me()) else { return };
    daemon.restart();
    for held in ["", "POST /v1/reload HTTP/1.1\\r\\nhost: b\\r\\n\\r\\n"] {
        let hold = format!(
            "held = []\ndef hold():\n s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n \
             try: s.send(b'{held}')\n except OSError: pass\n held.append(s)\n\
             for _ in range(200): hold()\nprint('held', flush=True)\nwhile True: hold(); held.pop(0)"
        );
        let mut member = as_member(&daemon, group, &[], &hold).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 4];
        member.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        let answers: Vec<_> = (0..10).map(|_| daemon.ask(&["status"])).collect();
        let is_going_on = member.try_wait().unwrap().is_none();
        member.kill().unwrap();
        member.wait().unwrap();
        assert!(is_going_on, "the attack has ended");
        for answer in answers {
            assert!(answer.status.success(), "while {held:?} is held: {}", printed(&answer));
        }
    }
}
