//! Reload of the shipped daemon: which changes are applied, refused or held back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use futures_util::StreamExt as _;
use nix::sys::signal::Signal;
use spiffe::WorkloadApiClient;

use crate::daemon::Daemon;
use crate::running::code;
use crate::running::entry_for_others;
use crate::running::entry_for_us;
use crate::running::eventually;
use crate::running::json;
use crate::running::text;

/// Polls `status` until the configuration is in this state, with this number of entries.
fn comes_to(daemon: &Daemon, state: &str, entries: usize) {
    eventually(&format!("{state} with {entries} entries"), || {
        let status = json(&daemon.ask(&["status", "-o", "json"]));
        status["configuration"]["state"] == state && status["identities"]["entries"] == entries
    });
}

/// A daemon whose main file includes `entries.d/*.toml`, a directory that does not exist yet.
fn with_drop_ins() -> Daemon {
    let daemon = Daemon::start(&entry_for_us());
    let text = fs::read_to_string(daemon.configuration()).unwrap();
    fs::write(daemon.configuration(), format!("include = [\"entries.d/*.toml\"]\n{text}")).unwrap();
    comes_to(&daemon, "current", 1);
    assert_eq!(code(&daemon.ask(&["reload"])), 0);
    daemon
}

fn drop_in(daemon: &Daemon, name: &str, text: &str) {
    let folder = daemon.folder().join("entries.d");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), text).unwrap();
}

#[test]
fn a_file_added_to_or_removed_from_an_included_folder_takes_effect() {
    let daemon = with_drop_ins();
    drop_in(&daemon, "a.toml", &entry_for_others());
    comes_to(&daemon, "current", 2);
    fs::remove_file(daemon.folder().join("entries.d/a.toml")).unwrap();
    comes_to(&daemon, "current", 1);
}

#[test]
fn a_bad_file_in_a_newly_included_folder_applies_once_corrected() {
    let daemon = Daemon::start(&entry_for_us());
    drop_in(&daemon, "a.toml", "[[workload]]\nid = \"no-slash\"\nselectors = [\"unix:uid:41999\"]\n");
    let text = fs::read_to_string(daemon.configuration()).unwrap();
    fs::write(daemon.configuration(), format!("include = [\"entries.d/*.toml\"]\n{text}")).unwrap();
    comes_to(&daemon, "last_good", 1);
    drop_in(&daemon, "a.toml", &entry_for_others());
    comes_to(&daemon, "current", 2);
    assert_eq!(code(&daemon.ask(&["status"])), 0);
}

#[test]
fn files_in_a_writable_directory_apply_once_its_mode_is_corrected() {
    let daemon = Daemon::start(&entry_for_us());
    let mode = |bits| fs::set_permissions(daemon.folder(), fs::Permissions::from_mode(bits)).unwrap();
    let text = fs::read_to_string(daemon.configuration()).unwrap();
    mode(0o777);
    fs::write(daemon.configuration(), text + &entry_for_others()).unwrap();
    comes_to(&daemon, "last_good", 1);
    mode(0o700);
    comes_to(&daemon, "current", 2);
}

#[test]
fn a_change_that_needs_a_restart_is_refused_whole_with_its_key() {
    let daemon = Daemon::start(&entry_for_us());
    let good = fs::read_to_string(daemon.configuration()).unwrap();
    for (from, to, key) in [
        ("\"example.org\"", "\"other.test\"", "trust_domain"),
        ("admin.sock", "a.sock", "admin"),
        ("workload.sock", "w.sock", "workload_api"),
        ("/data\"", "/other\"", "authority"),
    ] {
        fs::write(daemon.configuration(), good.replace(from, to) + &entry_for_others()).unwrap();
        let reload = daemon.ask(&["reload", "-o", "json"]);
        let printed = json(&reload)["problems"].to_string();
        assert_eq!(code(&reload), 2, "{printed}");
        assert!(printed.contains(&format!("a change of {key} needs a restart")), "{printed}");
        comes_to(&daemon, "awaits_restart", 1);
    }
    fs::write(daemon.configuration(), good).unwrap();
    comes_to(&daemon, "current", 1);
}

/// A newcomer edits the first line of the example after the first start.
#[test]
fn a_new_trust_domain_on_an_old_data_dir_is_not_followed_by_a_restart_that_fails() {
    let mut daemon = Daemon::start(&entry_for_us());
    let good = fs::read_to_string(daemon.configuration()).unwrap();
    fs::write(daemon.configuration(), good.replace("\"example.org\"", "\"other.test\"")).unwrap();
    let problem = json(&daemon.ask(&["reload", "-o", "json"]))["problems"][0].as_str().unwrap().to_owned();
    assert!(problem.contains("with this file a restart fails, and the node serves nobody"), "{problem}");
    assert!(problem.ends_with("Then type: bonafide reload") && !problem.contains("systemctl"), "{problem}");
    let moved = good.replace("\"example.org\"", "\"other.test\"").replace("/data\"", "/other\"");
    fs::write(daemon.configuration(), moved).unwrap();
    let problem = json(&daemon.ask(&["reload", "-o", "json"]))["problems"][0].as_str().unwrap().to_owned();
    assert!(problem.ends_with("Then type: systemctl restart bonafide"), "{problem}");
    daemon.kill_and_restart();
    assert_eq!(code(&daemon.ask(&["status"])), 0);
    assert_eq!(json(&daemon.ask(&["status", "-o", "json"]))["trust_domain"], "other.test");
}

#[test]
fn the_format_and_level_of_the_log_change_with_a_reload() {
    let daemon = Daemon::start(&entry_for_us());
    assert_eq!(code(&daemon.ask(&["fetch", "x509"])), 0);
    let before = daemon.log();
    assert!(!before.contains("{\"") && !before.contains("admin request"), "{before}");
    let text = fs::read_to_string(daemon.configuration()).unwrap();
    fs::write(daemon.configuration(), text + "[log]\nformat = \"json\"\nlevel = \"debug\"\n").unwrap();
    assert_eq!(code(&daemon.ask(&["reload"])), 0);
    assert_eq!(code(&daemon.ask(&["status"])), 0);
    assert_eq!(code(&daemon.ask(&["fetch", "x509"])), 0);
    let lines: Vec<serde_json::Value> =
        daemon.log()[before.len()..].lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(lines.iter().any(|line| line["event"] == "issued"), "{lines:?}");
    assert!(lines.iter().any(|line| line["level"] == "debug"), "{lines:?}");
}

#[test]
fn a_start_with_a_bad_file_serves_the_last_accepted_configuration() {
    let mut daemon = Daemon::start(&entry_for_us());
    let good = fs::read_to_string(daemon.configuration()).unwrap();
    daemon.kill();
    fs::write(daemon.configuration(), good.replace("selectors", "selektors")).unwrap();
    let run = ["run", "--strict", "--config"];
    let strict = Command::new(env!("CARGO_BIN_EXE_bonafide")).args(run).arg(daemon.configuration()).output().unwrap();
    let line = format!("{}:", daemon.configuration().display());
    assert_eq!(code(&strict), 2, "{strict:?}");
    assert!(text(&strict.stderr).contains(&line), "{strict:?}");

    daemon.restart();
    comes_to(&daemon, "last_good", 1);
    assert_eq!(code(&daemon.ask(&["fetch", "x509"])), 0);
    let status = daemon.ask(&["status"]);
    assert!(code(&status) == 5 && text(&status.stdout).contains("selektors"), "{status:?}");
    fs::write(daemon.configuration(), good).unwrap();
    comes_to(&daemon, "current", 1);
    assert_eq!(code(&daemon.ask(&["status"])), 0);
}

#[test]
fn a_bad_file_is_named_when_the_data_directory_is_unusable_too() {
    let mut daemon = Daemon::start(&entry_for_us());
    daemon.kill();
    let good = fs::read_to_string(daemon.configuration()).unwrap();
    fs::write(daemon.configuration(), good.replace("selectors", "selektors")).unwrap();
    let data = daemon.folder().join("data");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    let run = ["run", "--config"];
    let ended = Command::new(env!("CARGO_BIN_EXE_bonafide")).args(run).arg(daemon.configuration()).output().unwrap();
    let printed = text(&ended.stderr);
    assert_eq!(code(&ended), 2, "{printed}");
    assert!(printed.contains("selektors") && printed.contains(&format!("chmod 0700 {}", data.display())), "{printed}");
}

/// A file that is truncated between two tables is still valid TOML.
#[tokio::test]
async fn an_edit_that_ends_live_identities_waits_for_reload_or_sighup() {
    let ask: fn(&Daemon) = |daemon| assert_eq!(code(&daemon.ask(&["reload"])), 0);
    for apply in [ask, |daemon| daemon.signal(Signal::SIGHUP)] {
        let daemon = Daemon::start(&entry_for_us());
        let client = WorkloadApiClient::connect_to(daemon.address()).await.unwrap();
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut stream = client.stream_x509_contexts().await.unwrap();
            assert!(stream.next().await.unwrap().is_ok());
            held.push(stream);
        }
        let whole = fs::read_to_string(daemon.configuration()).unwrap();
        fs::write(daemon.configuration(), whole.split("[[workload]]").next().unwrap()).unwrap();
        comes_to(&daemon, "held_back", 1);
        let status = daemon.ask(&["status"]);
        let screen = text(&status.stdout);
        assert_eq!(code(&status), 5, "{screen}");
        assert!(screen.contains("spiffe://example.org/us") && screen.contains("held back"), "{screen}");
        assert_eq!(code(&daemon.ask(&["fetch", "x509"])), 0, "the held-back change was applied");
        apply(&daemon);
        comes_to(&daemon, "current", 0);
        assert_eq!(code(&daemon.ask(&["fetch", "x509"])), 4);
    }
}
