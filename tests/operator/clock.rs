//! The shipped daemon on a machine whose clock has not been set yet.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crate::daemon::Daemon;
use crate::daemon::SERVING;
use crate::running::code;
use crate::running::entry_for_us;
use crate::running::free_port;
use crate::running::get;
use crate::running::text;

const BEFORE_RELEASE: &str = "a time before this release was made";
const OVER: &str = "the authority's life has been over since ";

/// A file, and a launcher for a daemon whose clock shows 1970 while the file exists.
fn wrong_clock(folder: &Path) -> (PathBuf, [String; 3]) {
    let library = folder.join("wrong_clock.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/wrong_clock.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status().unwrap();
    assert!(built.success());
    let file = folder.join("wrong");
    fs::write(&file, "").unwrap();
    let preload = format!("LD_PRELOAD={}", library.display());
    let launcher = ["env".to_owned(), preload, format!("WRONG_CLOCK={}", file.display())];
    (file, launcher)
}

/// Sets the daemon's clock ahead by these minutes.
fn set_ahead(wrong: &Path, minutes: u64) {
    let next = wrong.with_extension("next");
    fs::write(&next, (minutes * 60).to_string()).unwrap();
    fs::rename(next, wrong).unwrap();
}

/// Asserts that status, health, readiness and the Workload API report a daemon that issues nothing for this reason.
fn issues_nothing_and_says_why(daemon: &Daemon, health: u16, why: &str) {
    let status = daemon.ask(&["status"]);
    let screen = text(&status.stdout);
    assert_eq!(code(&status), 1, "{status:?}");
    assert!(screen.starts_with("not ready - ") && screen.replace("\n            ", " ").contains(why), "{screen}");
    assert_eq!(code(&daemon.ask(&["healthcheck"])), 1);
    assert_eq!(get(health, "/live").0, 200);
    let (code_of_ready, reasons) = get(health, "/ready");
    assert!(code_of_ready == 503 && reasons.contains(why), "{reasons}");
    for fetch in [&["fetch", "x509"][..], &["fetch", "jwt", "--audience", "a"]] {
        let refused = daemon.ask(fetch);
        assert!(code(&refused) == 1 && text(&refused.stderr).contains("no identity issued (d-"), "{refused:?}");
    }
}

#[test]
fn a_daemon_with_a_wrong_clock_serves_once_the_clock_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let (wrong, launcher) = wrong_clock(folder.path());
    let health = free_port();
    let tables = format!("{}[health]\nlisten = \"127.0.0.1:{health}\"\n", entry_for_us());
    let mut daemon = Daemon::begin_behind(&launcher.each_ref().map(String::as_str), &tables);
    let state = daemon.folder().join("data/authority.state");
    let ready_and_waits = |first: &str| {
        assert!(first.starts_with("READY=1\nSTATUS=not ready: nothing is issued: the clock "), "{first}");
        assert!(first.contains(BEFORE_RELEASE), "{first}");
    };

    ready_and_waits(&daemon.next_message());
    issues_nothing_and_says_why(&daemon, health, BEFORE_RELEASE);
    assert_eq!(code(&daemon.ask(&["fetch", "bundle"])), 1, "an empty bundle was served");
    assert!(!state.exists(), "the daemon made an authority by a wrong clock");
    fs::remove_file(&wrong).unwrap();
    assert_eq!(daemon.next_message(), SERVING);
    assert_eq!((code(&daemon.ask(&["status"])), code(&daemon.ask(&["fetch", "x509"]))), (0, 0));

    let kept = fs::read(&state).unwrap();
    daemon.stop();
    fs::write(&wrong, "").unwrap();
    daemon.begin_restart();
    ready_and_waits(&daemon.next_message());
    issues_nothing_and_says_why(&daemon, health, BEFORE_RELEASE);
    fs::remove_file(&wrong).unwrap();
    assert_eq!(daemon.next_message(), SERVING);
    assert_eq!(code(&daemon.ask(&["fetch", "x509"])), 0);
    assert_eq!(fs::read(&state).unwrap(), kept, "the wrong clock changed the state");
}

#[test]
fn the_command_in_the_status_replaces_an_expired_authority() {
    let folder = tempfile::tempdir().unwrap();
    let (wrong, launcher) = wrong_clock(folder.path());
    set_ahead(&wrong, 0);
    let health = free_port();
    let tables = format!("{}[health]\nlisten = \"127.0.0.1:{health}\"\n", entry_for_us());
    let mut daemon = Daemon::begin_behind(&launcher.each_ref().map(String::as_str), &tables);
    daemon.wait_for_notification(SERVING);
    set_ahead(&wrong, 61);
    daemon.wait_for_notification(&format!("STATUS=not ready: nothing is issued: {OVER}"));
    issues_nothing_and_says_why(&daemon, health, OVER);
    daemon.stop();
    daemon.begin_restart();
    let first = daemon.next_message();
    assert!(first.starts_with(&format!("READY=1\nSTATUS=not ready: nothing is issued: {OVER}")), "{first}");
    issues_nothing_and_says_why(&daemon, health, OVER);

    let (_, command) = first.split_once("Make new keys now: bonafide ").unwrap();
    let words: Vec<_> = command.split_once(". ").unwrap().0.split(' ').collect();
    let rotated = daemon.ask(&words);
    assert_eq!(code(&rotated), 0, "{words:?}: {rotated:?}");
    assert_eq!(daemon.wait_for_notification(SERVING), SERVING);
    assert_eq!(
        [&["status"][..], &["healthcheck"], &["fetch", "x509"]].map(|asked| code(&daemon.ask(asked))),
        [0, 0, 0]
    );
    assert_eq!(code(&daemon.ask(&["fetch", "jwt", "--audience", "a"])), 0);
}
