//! The shipped daemon through its commands, its log, its metrics and its health endpoint.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::daemon::Daemon;

fn own_uid() -> u32 {
    nix::unistd::getuid().as_raw()
}

pub(crate) fn entry(id: &str, selector: &str) -> String {
    format!("[[workload]]\nid = {id:?}\nselectors = [{selector:?}]\n")
}

/// An entry for the user who runs these tests.
pub(crate) fn entry_for_us() -> String {
    entry("/us", &format!("unix:uid:{}", own_uid()))
}

pub(crate) fn entry_for_others() -> String {
    entry("/nobody", "unix:uid:41999")
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn records(daemon: &Daemon) -> Vec<Value> {
    daemon.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

const JSON_LOG: &str = "[log]\nformat = \"json\"\nlevel = \"trace\"\n";

#[test]
fn an_entry_by_path_alone_is_warned_of_when_the_daemon_starts() {
    let weak = "[[workload]]\nid = \"/weak\"\nselectors = [\"unix:path:/usr/bin/web\"]\naccept_weak = true\n";
    let daemon = Daemon::start(weak);
    assert!(daemon.log().contains("any user of this machine"), "{}", daemon.log());
    assert!(text(&daemon.ask(&["status"]).stdout).contains("any user of this machine"));
}

#[test]
fn status_and_healthcheck_report_a_healthy_daemon() {
    let daemon = Daemon::start(&entry_for_us());
    let status = daemon.ask(&["status", "-o", "json"]);
    assert_eq!((code(&status), &json(&status)["state"]), (0, &"healthy".into()), "{status:?}");
    assert_eq!(json(&status)["trust_domain"], "example.org");
    let screen = text(&daemon.ask(&["status"]).stdout);
    assert!(screen.starts_with("healthy - bonafide ") && !screen.contains("\u{1b}"), "{screen}");
    assert_eq!(code(&daemon.ask(&["healthcheck"])), 0);
}

#[test]
fn a_denial_id_leads_to_the_decision_that_the_caller_does_not_see() {
    let daemon = Daemon::start(&(entry_for_others() + JSON_LOG));
    let refused = daemon.ask(&["fetch", "x509"]);
    let error = text(&refused.stderr);
    assert_eq!(code(&refused), 4, "{error}");
    assert!(!error.contains("41999") && !error.contains("/nobody"), "{error}");
    let id = error.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').find(|word| word.starts_with("d-")).unwrap();

    let explained = daemon.ask(&["explain", "--denial", id, "-o", "json"]);
    assert_eq!(code(&explained), 0, "{explained:?}");
    let report = json(&explained);
    assert_eq!((&report["decision"], &report["result"]["why"]), (&id.into(), &"no_entry".into()));
    assert_eq!(report["peer"]["uid"], own_uid());

    let denied = records(&daemon).into_iter().find(|record| record["decision"] == id).unwrap();
    assert_eq!(
        (&denied["event"], &denied["reason"], &denied["uid"]),
        (&"denied".into(), &"no_entry".into(), &own_uid().into())
    );
    assert_eq!(code(&daemon.ask(&["explain", "--denial", "d-000000000000"])), 1);
}

#[test]
fn explain_suggests_an_entry_that_permits_a_denied_process() {
    let daemon = Daemon::start(&entry_for_others());
    let own_pid = std::process::id().to_string();
    let denied = daemon.ask(&["explain", &own_pid, "-o", "json"]);
    assert_eq!(code(&denied), 4, "{denied:?}");
    let suggestion = json(&denied)["suggestion"].as_str().unwrap().to_owned();

    let with_suggestion = fs::read_to_string(daemon.configuration()).unwrap() + &suggestion;
    fs::write(daemon.configuration(), with_suggestion).unwrap();
    let reloaded = daemon.ask(&["reload", "-o", "json"]);
    assert_eq!((code(&reloaded), json(&reloaded)["swapped"].as_bool()), (0, Some(true)), "{reloaded:?}");
    let permitted = daemon.ask(&["explain", &own_pid]);
    assert_eq!(code(&permitted), 0);
    let screen = text(&permitted.stdout);
    let name = fs::read_to_string("/proc/self/comm").unwrap();
    assert!(screen.lines().nth(1).unwrap().starts_with(&format!("{}, ", name.trim_end())), "{screen}");
    assert_eq!(code(&daemon.ask(&["explain", "4194304"])), 1);
}

#[test]
fn explain_shows_path_hash_and_names_although_no_entry_asks() {
    let daemon = Daemon::start(&entry_for_others());
    let explained = daemon.ask(&["explain", &std::process::id().to_string(), "-o", "json"]);
    let evidence = json(&explained)["evidence"].clone();
    let found = evidence["facts"].to_string() + &evidence["withheld"].to_string();
    assert!(found.contains("unix:path:/") || found.contains("UnixPath"), "{evidence}");
    assert!(found.contains("unix:sha256:") || found.contains("UnixSha256"), "{evidence}");
    let place = |root: &str| fs::metadata(root).map(|root| (root.dev(), root.ino())).ok();
    if place("/proc/1/root/") == place("/") {
        let own = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name;
        assert!(found.contains(&format!("\"unix:user:{own}\"")), "{evidence}");
    } else {
        let answers = evidence["answers"].to_string();
        let undecided = answers.contains("[\"names\",{\"undecided\":\"not_permitted\"}]");
        assert!(undecided || found.contains("UnixUser"), "the names of PID 1's root are others: {evidence}");
    }
}

#[test]
fn a_bad_file_keeps_the_old_entries_and_degrades_the_status() {
    let daemon = Daemon::start(&entry_for_us());
    let good = fs::read_to_string(daemon.configuration()).unwrap();
    fs::write(daemon.configuration(), good.replace("selectors", "selektors")).unwrap();
    let reload = daemon.ask(&["reload"]);
    let printed = text(&reload.stdout);
    assert_eq!(code(&reload), 2, "{printed}");
    assert!(printed.contains("bonafide.toml:") && printed.contains("selektors"), "{printed}");
    assert_eq!(code(&daemon.ask(&["fetch", "x509"])), 0);
    let status = daemon.ask(&["status"]);
    assert_eq!(code(&status), 5, "{}", text(&status.stdout));
    assert!(text(&status.stdout).contains("selektors"), "{}", text(&status.stdout));
    assert_eq!(code(&daemon.ask(&["healthcheck"])), 0);

    fs::write(daemon.configuration(), good).unwrap();
    assert_eq!(code(&daemon.ask(&["reload"])), 0);
    assert_eq!(code(&daemon.ask(&["status"])), 0);
}

#[test]
fn no_issued_secret_is_logged_and_each_issuance_has_a_record() {
    let daemon = Daemon::start(&(entry_for_us() + JSON_LOG));
    let x509 = json(&daemon.ask(&["fetch", "x509", "--show-key", "-o", "json"]));
    let jwt = json(&daemon.ask(&["fetch", "jwt", "--audience", "ledger", "--show-token", "-o", "json"]));
    let key = x509["svids"][0]["private_key"].as_str().unwrap();
    let token = jwt["svids"][0]["token"].as_str().unwrap();
    assert_eq!(code(&daemon.ask(&["validate", "--audience", "ledger", token])), 0);
    assert_eq!(code(&daemon.ask(&["validate", "--audience", "other", token])), 1);

    let log = daemon.log();
    let signature = token.rsplit('.').next().unwrap();
    for secret in key.lines().filter(|line| !line.starts_with('-')).chain([token, signature]) {
        assert!(!log.contains(secret), "a secret is in the log");
    }
    let serial = x509["svids"][0]["serial"].as_str().unwrap();
    for (kind, holder) in [("x509", Some(serial)), ("jwt", None)] {
        let issued = records(&daemon).into_iter().find(|record| {
            record["event"] == "issued"
                && record["kind"] == kind
                && holder.is_none_or(|serial| record["serial"] == serial)
        });
        assert_eq!(issued.unwrap_or_else(|| panic!("{kind}: {log}"))["spiffe_id"], "spiffe://example.org/us");
    }
}

#[test]
fn keys_and_tokens_are_printed_only_on_request() {
    let daemon = Daemon::start(&entry_for_us());
    for arguments in [&["fetch", "x509"][..], &["fetch", "x509", "-o", "json"]] {
        assert!(!text(&daemon.ask(arguments).stdout).contains("PRIVATE KEY"));
    }
    for arguments in [&["fetch", "jwt", "--audience", "a"][..], &["fetch", "jwt", "--audience", "a", "-o", "json"]] {
        assert!(!text(&daemon.ask(arguments).stdout).contains("eyJ"));
    }
}

#[test]
fn fetch_writes_every_svid_key_and_bundle_with_the_right_mode() {
    let us = format!("unix:uid:{}", own_uid());
    let partner = "[[federation]]\ntrust_domain = \"partner.example\"\nbundle_file = \"partner.pem\"\n";
    let federated = format!("{partner}{}federates_with = [\"partner.example\"]\n", entry("/us", &us));
    let daemon = Daemon::start(&(federated + &entry("/us/too", &us)));
    let folder = daemon.folder().join("svid");
    fs::create_dir(&folder).unwrap();
    let write = |what: &[&str]| {
        let fetched = daemon.ask(&[what, &["--write", folder.to_str().unwrap()]].concat());
        assert_eq!(code(&fetched), 0, "{fetched:?}");
    };
    write(&["fetch", "bundle"]);
    fs::copy(folder.join("example.org.pem"), daemon.folder().join("partner.pem")).unwrap();
    eventually("the partner's bundle is taken up", || {
        write(&["fetch", "x509"]);
        folder.join("federated_bundle.1.0.pem").exists()
    });
    write(&["fetch", "jwt", "--audience", "a"]);
    for (name, beginning, mode) in [
        ("svid.0.pem", "-----BEGIN CERTIFICATE-----\n", 0o644),
        ("svid.0.key", "-----BEGIN PRIVATE KEY-----\n", 0o600),
        ("bundle.0.pem", "-----BEGIN CERTIFICATE-----\n", 0o644),
        ("svid.1.pem", "-----BEGIN CERTIFICATE-----\n", 0o644),
        ("svid.1.key", "-----BEGIN PRIVATE KEY-----\n", 0o600),
        ("bundle.1.pem", "-----BEGIN CERTIFICATE-----\n", 0o644),
        ("federated_bundle.1.0.pem", "-----BEGIN CERTIFICATE-----\n", 0o644),
        ("jwt_svid.1.token", "eyJ", 0o600),
        ("example.org.pem", "-----BEGIN CERTIFICATE-----\n", 0o644),
        ("example.org.jwks.json", "{", 0o644),
    ] {
        assert!(fs::read_to_string(folder.join(name)).unwrap().starts_with(beginning), "{name}");
        assert_eq!(fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o7777, mode, "{name}");
    }
}

#[test]
fn a_command_at_the_wrong_socket_fails_with_cause_and_advice() {
    let daemon = Daemon::start(&entry_for_us());
    let (workload, admin) = (daemon.socket(), daemon.admin_socket());
    for question in [
        ["healthcheck", "--socket", admin.to_str().unwrap()],
        ["status", "--admin-socket", workload.to_str().unwrap()],
        ["reload", "--admin-socket", workload.to_str().unwrap()],
    ] {
        let output = daemon.ask(&question);
        let printed = text(&output.stderr);
        let expected = if question[0] == "healthcheck" || own_uid() == 0 { 3 } else { 4 };
        assert_eq!(code(&output), expected, "{question:?}: {printed}");
        assert!(
            printed.contains("\n  why:  ") && printed.contains("\n  next: ") && output.stdout.is_empty(),
            "{printed}"
        );
    }
}

#[test]
fn every_screen_fits_80_columns() {
    let daemon = Daemon::start(&(entry_for_us() + &entry_for_others()));
    let own_pid = std::process::id().to_string();
    for question in [
        &["status"][..],
        &["explain", &own_pid],
        &["authority", "show"],
        &["authority", "rotate"],
        &["authority", "rotate", "--taint"],
        &["reload"],
        &["healthcheck"],
        &["fetch", "x509"],
        &["fetch", "jwt", "--audience", "a"],
        &["fetch", "bundle"],
        &["version"],
    ] {
        let screen = text(&daemon.ask(question).stdout);
        let is_whole = |line: &str| ["cgroup:/", "unix:path:/", "next: "].iter().any(|word| line.contains(word));
        let fits = |line: &str| line.chars().count() <= 80 || is_whole(line);
        assert!(!screen.is_empty() && screen.lines().all(fits), "{question:?}:\n{screen}");
    }
}

#[test]
fn fetch_and_validate_print_the_expiry_of_the_token_as_a_number() {
    let daemon = Daemon::start(&entry_for_us());
    let fetched = json(&daemon.ask(&["fetch", "jwt", "--audience", "a", "--show-token", "-o", "json"]));
    let svid = &fetched["svids"][0];
    let token = svid["token"].as_str().unwrap();
    let judged = json(&daemon.ask(&["validate", "--audience", "a", token, "-o", "json"]));
    assert_eq!(judged["claims"]["exp"], svid["not_after"]);
    assert!(svid["not_after"].is_i64() && judged["claims"]["exp"].is_i64(), "{judged}");
}

/// Polls a condition for at most ten seconds.
pub(crate) fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < Duration::from_secs(10), "not in time: {what}");
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn get(port: u16, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

#[test]
fn a_metrics_port_that_is_taken_degrades_and_costs_no_identity() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let daemon = Daemon::start(&format!("{}[metrics]\nlisten = \"{address}\"\n", entry_for_us()));
    assert_eq!(code(&daemon.ask(&["fetch", "x509"])), 0);
    let status = daemon.ask(&["status", "-o", "json"]);
    let printed = json(&status)["reasons"][0]["detail"].to_string();
    assert_eq!(code(&status), 5, "{printed}");
    let process = format!("process {} (", std::process::id());
    let user = format!("uid {}", own_uid());
    for named in [&address.to_string(), &process, &user] {
        assert!(printed.contains(named), "{named} in {printed}");
    }
    drop(taken);
    eventually("the metrics are served", || code(&daemon.ask(&["status"])) == 0);
    assert_eq!(get(address.port(), "/metrics").0, 200);
}

#[test]
fn health_and_metrics_are_served_where_they_are_configured() {
    let (health, metrics) = (free_port(), free_port());
    let doors = format!("[health]\nlisten = \"127.0.0.1:{health}\"\n[metrics]\nlisten = \"127.0.0.1:{metrics}\"\n");
    let daemon = Daemon::start(&(doors + &entry_for_others()));
    assert_eq!(get(health, "/live").0, 200);
    assert_eq!(get(health, "/ready").0, 200);
    for _ in 0..3 {
        assert_eq!(code(&daemon.ask(&["fetch", "x509"])), 4);
    }
    let (status, text) = get(metrics, "/metrics");
    assert_eq!(status, 200);
    let names = [
        "bonafide_denied_total{rule=\"no_entry\"} 3",
        "bonafide_ready 1",
        "bonafide_identities_live 0",
        "bonafide_entries 1",
        "bonafide_configuration{is=\"current\"} 1",
        "bonafide_dropped_log_lines_total 0",
        "bonafide_authority_not_after_timestamp_seconds{kind=\"x509\"} ",
        "bonafide_kernel_level{is=",
    ];
    for name in names {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} in\n{text}");
    }
}

#[test]
fn a_flood_of_denials_is_counted_exactly_and_logged_rarely() {
    let mut daemon = Daemon::start(&(entry_for_others() + JSON_LOG));
    let refusals = 120;
    for _ in 0..refusals {
        assert_eq!(code(&daemon.ask(&["fetch", "jwt", "--audience", "a"])), 4);
    }
    daemon.stop();
    let denied: Vec<Value> = records(&daemon).into_iter().filter(|record| record["event"] == "denied").collect();
    let counted: u64 = denied.iter().map(|record| 1 + record["suppressed"].as_u64().unwrap_or_default()).sum();
    assert_eq!(counted, refusals);
    assert!((denied.len() as u64) < refusals, "nothing was suppressed");
}

#[test]
fn a_full_notify_socket_does_not_delay_the_stop() {
    let mut daemon = Daemon::start(&entry_for_others());
    let full = std::os::unix::net::UnixDatagram::unbound().unwrap();
    full.connect(daemon.folder().join("notify.sock")).unwrap();
    full.set_nonblocking(true).unwrap();
    while full.send(b"STATUS=noise").is_ok() {}
    let pid = rustix::process::Pid::from_raw(daemon.pid().cast_signed()).unwrap();
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    let deadline = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
    let mut exit = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut exit, Some(&deadline)), Ok(1), "the daemon still runs");
    assert!(daemon.stop().success());
}
