//! Attacks on what every door has beside its protocol: the log, and the places of the operator's doors.

use std::fs;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::process::Output;

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
    assert!(log_of(&daemon)["suppressed_lines"].as_u64().unwrap() >= 480, "{}", log_of(&daemon));
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
