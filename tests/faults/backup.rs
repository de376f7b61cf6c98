//! The authority's state of the shipped daemon, copied, moved, restored and lost, as the README says it.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::daemon::Daemon;
use crate::data_dir::data;
use crate::data_dir::entry;
use crate::data_dir::fetch;
use crate::data_dir::state_file;
use crate::data_dir::verifies;

/// Runs a command that must succeed, and returns its JSON.
fn ask(daemon: &Daemon, words: &[&str]) -> Value {
    let output = daemon.ask(&[words, &["-o", "json"]].concat());
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn show(daemon: &Daemon) -> Value {
    ask(daemon, &["authority", "show"])
}

fn sequence(daemon: &Daemon) -> u64 {
    show(daemon)["sequence"].as_u64().unwrap()
}

/// The ids of the keys at a stage, those of X.509 first.
fn keys(report: &Value, stage: &str) -> Vec<String> {
    let keys = report["keys"].as_array().unwrap().iter();
    keys.filter(|key| key["stage"] == stage).map(|key| key["id"].as_str().unwrap().to_owned()).collect()
}

/// Rotates, and waits until the new keys sign. Returns what is shown then.
fn rotate(daemon: &Daemon) -> Value {
    let before = keys(&show(daemon), "active");
    ask(daemon, &["authority", "rotate"]);
    shows(daemon, |report| keys(report, "active").iter().all(|key| !before.contains(key)))
}

/// Polls for at most half a minute.
fn shows(daemon: &Daemon, so: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let report = show(daemon);
        if so(&report) {
            return report;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "not in time: {report}");
    }
}

fn token(daemon: &Daemon) -> String {
    let fetched = ask(daemon, &["fetch", "jwt", "--audience", "a", "--show-token"]);
    fetched["svids"][0]["token"].as_str().unwrap().to_owned()
}

fn accepts(daemon: &Daemon, token: &str) -> bool {
    daemon.ask(&["validate", "--audience", "a", token]).status.success()
}

/// A copy, made while the daemon runs.
fn copy(daemon: &Daemon) -> PathBuf {
    let copy = daemon.folder().join("copy.state");
    fs::copy(state_file(daemon), &copy).unwrap();
    copy
}

#[tokio::test]
async fn a_state_that_was_copied_while_the_daemon_ran_serves_the_same_trust_domain_on_another_machine() {
    let long = "[svid]\nx509_ttl = \"5m\"\njwt_ttl = \"5m\"\n";
    let mut old = Daemon::start(&(long.to_owned() + &entry()));
    let (leaf, old_roots) = fetch(&old).await;
    let (old_token, old_sequence) = (token(&old), sequence(&old));
    let copy = copy(&old);
    old.stop();

    let mut new = Daemon::start(&(long.to_owned() + &entry()));
    new.kill();
    fs::remove_dir_all(data(&new)).unwrap();
    fs::DirBuilder::new().mode(0o700).create(data(&new)).unwrap();
    fs::copy(copy, state_file(&new)).unwrap();
    new.restart();
    let (new_leaf, new_roots) = fetch(&new).await;
    assert_eq!((&new_roots, sequence(&new)), (&old_roots, old_sequence));
    assert!(verifies(&leaf, &new_roots) && verifies(&new_leaf, &old_roots));
    assert!(accepts(&new, &old_token));
}

#[tokio::test]
async fn an_older_copy_brings_the_old_key_back_and_a_rotation_makes_its_bundle_newer_than_all_before() {
    let mut daemon = Daemon::start(&entry());
    let copied_keys = keys(&show(&daemon), "active");
    let copy = copy(&daemon);
    rotate(&daemon);
    // Nobody has an SVID of the copied keys, so that they leave the bundle at once.
    shows(&daemon, |report| keys(report, "retired").is_empty());
    let (leaf, kept_elsewhere) = fetch(&daemon).await;
    let (lost_token, kept_sequence) = (token(&daemon), sequence(&daemon));
    daemon.kill();

    fs::copy(copy, state_file(&daemon)).unwrap();
    daemon.restart();
    let (old_leaf, roots) = fetch(&daemon).await;
    assert_eq!(keys(&show(&daemon), "active"), copied_keys);
    assert!(sequence(&daemon) < kept_sequence, "whoever has kept the newer bundle would take the older one");
    assert!(!verifies(&leaf, &roots) && !accepts(&daemon, &lost_token));
    assert!(!verifies(&old_leaf, &kept_elsewhere));

    // The copy was not restored within the second of the latest change.
    shows(&daemon, |report| report["sampled_at"].as_f64().unwrap() >= kept_sequence as f64 + 1.0);
    let rotated = rotate(&daemon);
    assert!(rotated["sequence"].as_u64().unwrap() > kept_sequence, "{kept_sequence}: {rotated}");
    let (new_leaf, roots) = fetch(&daemon).await;
    assert!(verifies(&new_leaf, &roots) && verifies(&old_leaf, &roots));
}

#[tokio::test]
async fn a_lost_authority_is_replaced_by_one_that_verifies_nothing_from_before_and_is_no_older() {
    let mut daemon = Daemon::start(&entry());
    let (leaf, _) = fetch(&daemon).await;
    let (lost_token, lost_sequence) = (token(&daemon), sequence(&daemon));
    daemon.kill();
    fs::remove_file(state_file(&daemon)).unwrap();
    daemon.restart();
    let (new_leaf, roots) = fetch(&daemon).await;
    assert!(verifies(&new_leaf, &roots));
    assert!(!verifies(&leaf, &roots) && !accepts(&daemon, &lost_token));
    assert!(sequence(&daemon) >= lost_sequence);
}
