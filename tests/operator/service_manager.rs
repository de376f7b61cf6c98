//! The notifications of the shipped daemon to its service manager (SPEC: sd_notify(3)).

use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::daemon::Daemon;
use crate::daemon::READY;
use crate::daemon::SERVING;
use crate::running::code;
use crate::running::entry_for_others;
use crate::running::entry_for_us;
use crate::running::eventually;

#[test]
fn a_degraded_daemon_notifies_the_cause_until_it_is_gone() {
    let mut daemon = Daemon::start(&entry_for_us());
    let good = fs::read_to_string(daemon.configuration()).unwrap();
    fs::write(daemon.configuration(), good.replace("selectors", "selektors")).unwrap();
    let status = daemon.wait_for_notification("STATUS=degraded: ");
    assert!(status.contains("unknown key \"selektors\"") && status.lines().count() == 1, "{status}");
    fs::write(daemon.configuration(), &good).unwrap();
    assert_eq!(daemon.wait_for_notification(SERVING), SERVING);
}

#[test]
fn a_daemon_started_with_a_bad_file_is_ready_and_degraded() {
    let mut daemon = Daemon::start(&entry_for_us());
    daemon.stop();
    let bad = fs::read_to_string(daemon.configuration()).unwrap() + "selektors = []\n";
    fs::write(daemon.configuration(), bad).unwrap();
    daemon.begin_restart();
    let first = daemon.next_message();
    assert!(first.starts_with("READY=1\nSTATUS=degraded: serving the last accepted configuration"), "{first}");
}

#[test]
fn an_abstract_notify_socket_receives_the_messages_too() {
    let name = format!("bonafide-test-{}", std::process::id());
    let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _daemon = Daemon::begin_behind(&["env", &format!("NOTIFY_SOCKET=@{name}")], &entry_for_others());
    let mut message = [0; 4096];
    let length = manager.recv(&mut message).unwrap();
    assert_eq!(str::from_utf8(&message[..length]).unwrap(), format!("{READY}\n{SERVING}"));
}

#[test]
fn an_unreachable_notify_socket_is_one_warning_in_the_log() {
    let nowhere = "NOTIFY_SOCKET=/nowhere/notify.sock";
    let mut daemon = Daemon::begin_behind(&["env", nowhere], &entry_for_us());
    let warnings = |daemon: &Daemon| daemon.log().matches("systemd could not be notified").count();
    eventually("the daemon serves", || code(&daemon.ask(&["healthcheck"])) == 0);
    eventually("the daemon warns", || warnings(&daemon) == 1);
    fs::write(daemon.configuration(), "a change of the state").unwrap();
    eventually("the daemon is degraded", || code(&daemon.ask(&["status"])) == 5);
    daemon.stop();
    assert_eq!(warnings(&daemon), 1);
}

#[test]
fn the_journal_gets_lines_with_a_priority_and_without_a_time() {
    let named = "JOURNAL_STREAM=$(stat -L -c %d:%i /proc/$$/fd/1) exec \"$@\"";
    let daemon = Daemon::start_behind(&["/bin/sh", "-c", named, "sh"], &entry_for_us());
    assert_eq!(code(&daemon.ask(&["fetch", "x509"])), 0);
    let log = daemon.log();
    assert!(log.contains("\n<6>issued issuance=") && log.contains("<6>info message=started"), "{log}");
    assert!(log.lines().all(|line| line.starts_with('<')), "{log}");
}
