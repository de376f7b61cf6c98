//! `authority show` and `authority rotate` of the shipped daemon: what they print, and what they do to workloads.

use std::fs;
use std::process::Command;
use std::process::Output;
use std::time::Duration;

use futures_util::Stream;
use futures_util::StreamExt as _;
use serde_json::Value;
use spiffe::WorkloadApiClient;
use spiffe::X509Context;
use tokio::time::Instant;

use crate::daemon::Daemon;
use crate::running::code;
use crate::running::entry_for_us;
use crate::running::eventually;
use crate::running::json;
use crate::running::text;

/// SVIDs that outlive every test here: what ends them is never their own end.
const LONG: &str = "[svid]\nx509_ttl = \"30m\"\njwt_ttl = \"30m\"\n";

fn daemon() -> Daemon {
    Daemon::start(&format!("{LONG}{}", entry_for_us()))
}

fn show(daemon: &Daemon) -> Value {
    let shown = daemon.ask(&["authority", "show", "-o", "json"]);
    assert_eq!(code(&shown), 0, "{shown:?}");
    json(&shown)
}

/// The keys of a kind at a stage.
fn keys(report: &Value, kind: &str, stage: &str) -> Vec<Value> {
    let all = report["keys"].as_array().unwrap().iter();
    all.filter(|key| key["kind"] == kind && key["stage"] == stage).cloned().collect()
}

fn active(report: &Value, kind: &str) -> Value {
    let active = keys(report, kind, "active");
    assert_eq!(active.len(), 1, "{report}");
    active[0].clone()
}

/// Polls `show` for at most half a minute.
fn shows(daemon: &Daemon, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let report = show(daemon);
        if so(&report) {
            return report;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "not in time: {what}: {report}");
    }
}

fn token(daemon: &Daemon) -> String {
    let fetched = daemon.ask(&["fetch", "jwt", "--audience", "a", "--show-token", "-o", "json"]);
    json(&fetched)["svids"][0]["token"].as_str().unwrap().to_owned()
}

fn validates(daemon: &Daemon, token: &str) -> bool {
    code(&daemon.ask(&["validate", "--audience", "a", token])) == 0
}

type Contexts = std::pin::Pin<Box<dyn Stream<Item = X509Context>>>;

/// A stream of this process, and the leaf that it serves first.
async fn stream(daemon: &Daemon) -> (Contexts, Vec<u8>) {
    let client = WorkloadApiClient::connect_to(daemon.address()).await.unwrap();
    let stream = client.stream_x509_contexts().await.unwrap();
    let mut stream: Contexts = Box::pin(stream.filter_map(|context| async { context.ok() }));
    let first = stream.next().await.unwrap();
    (stream, leaf(&first))
}

fn leaf(context: &X509Context) -> Vec<u8> {
    context.default_svid().unwrap().cert_chain()[0].as_bytes().to_vec()
}

#[tokio::test]
async fn show_counts_what_rests_on_each_key() {
    let daemon = daemon();
    let (_one, first) = stream(&daemon).await;
    let (_another, second) = stream(&daemon).await;
    assert_eq!(first, second, "one process image has one SVID");
    let _token = token(&daemon);
    let report = show(&daemon);
    assert_eq!((&report["kind"], &report["rotations"]), (&"embedded".into(), &true.into()), "{report}");
    assert_eq!((report["reasons"].as_array().unwrap().len(), &report["orphaned_svids"]), (0, &0.into()), "{report}");
    let (x509, jwt) = (active(&report, "x509"), active(&report, "jwt"));
    assert_eq!((&x509["svids"], &x509["tokens"]), (&1.into(), &0.into()), "{report}");
    assert_eq!((&jwt["svids"], &jwt["tokens"]), (&0.into(), &1.into()), "{report}");
    let life = x509["not_after"].as_f64().unwrap() - x509["made"].as_f64().unwrap();
    assert_eq!(life, 3600.0, "{report}");
    let status = json(&daemon.ask(&["status", "-o", "json"]));
    assert_eq!(status["authority"]["next_rotation_at"], x509["next_stage_at"], "{status}");

    let screen = text(&daemon.ask(&["authority", "show"]).stdout);
    for said in [x509["id"].as_str().unwrap(), "1 live SVID", "1 live token", "is replaced", "spiffe_sequence"] {
        assert!(screen.replace("\n            ", " ").contains(said), "{said} in\n{screen}");
    }
}

#[tokio::test]
async fn a_rotation_of_one_kind_signs_with_a_new_key_and_ends_nothing() {
    let daemon = daemon();
    let (_stream, _) = stream(&daemon).await;
    let old_token = token(&daemon);
    let before = show(&daemon);
    let rotated = daemon.ask(&["authority", "rotate", "--kind", "jwt", "-o", "json"]);
    assert_eq!(code(&rotated), 0, "{rotated:?}");
    let report = json(&rotated);
    let published = &report["published"][0];
    assert_eq!((&published["kind"], &published["stage"]), (&"jwt".into(), &"published".into()), "{report}");
    let lead = published["next_stage_at"].as_f64().unwrap() - report["sampled_at"].as_f64().unwrap();
    assert!((9.9..10.1).contains(&lead), "{report}");
    assert_eq!(report["replaced"][0]["id"], active(&before, "jwt")["id"], "{report}");
    assert_eq!((&report["tainted"], &report["tokens_to_end"]), (&Value::Array(vec![]), &0.into()), "{report}");

    let new = published["id"].clone();
    let after = shows(&daemon, "the new key is active", |report| active(report, "jwt")["id"] == new);
    assert_eq!(active(&after, "x509"), active(&before, "x509"), "the other kind was rotated");
    assert_eq!(keys(&after, "jwt", "retired")[0]["tokens"], 1, "{after}");
    assert!(validates(&daemon, &old_token) && validates(&daemon, &token(&daemon)));
}

/// Runs a command as somebody who types it.
fn typed(daemon: &Daemon, command: &str) -> Output {
    let folder = daemon.folder().join("bin");
    fs::create_dir_all(&folder).unwrap();
    let _there_already = std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_bonafide"), folder.join("bonafide"));
    let path = format!("{}:/usr/bin:/bin", folder.display());
    Command::new("sh").args(["-c", command]).env_clear().env("PATH", path).output().unwrap()
}

#[tokio::test]
async fn the_command_that_a_taint_prints_renews_svids_ends_tokens_and_empties_the_bundle() {
    let daemon = daemon();
    let (mut stream, old_leaf) = stream(&daemon).await;
    let old_token = token(&daemon);
    let before = show(&daemon);

    let plan = daemon.ask(&["authority", "rotate", "--taint"]);
    let screen = text(&plan.stdout);
    assert_eq!(code(&plan), 2, "{plan:?}");
    for said in ["nothing was changed", "1 live SVID", "1 live token", "within 1m 0s", "a copy of this node's bundle"] {
        assert!(screen.contains(said), "{said} in\n{screen}");
    }
    let ids = |report: &Value| ["x509", "jwt"].map(|kind| active(report, kind)["id"].clone());
    assert_eq!(ids(&show(&daemon)), ids(&before), "a plan changed the keys");
    assert!(validates(&daemon, &old_token));

    let command = screen.lines().find_map(|line| line.strip_prefix("next: ")).unwrap();
    let followed = tokio::spawn({
        let (command, daemon_folder) = (command.to_owned(), daemon.folder().to_owned());
        let path = format!("{}:/usr/bin:/bin", daemon_folder.join("bin").display());
        assert_eq!(code(&typed(&daemon, "bonafide version")), 0);
        async move { tokio::process::Command::new("sh").args(["-c", &command]).env_clear().env("PATH", path).output().await }
    });
    let renewed = loop {
        let context = tokio::time::timeout(Duration::from_secs(30), stream.next()).await.expect("renewed").unwrap();
        if leaf(&context) != old_leaf {
            break context;
        }
    };
    let done = followed.await.unwrap().unwrap();
    let screen = text(&done.stdout);
    assert_eq!(code(&done), 0, "{done:?}");
    for said in
        ["no tainted key is in it any more", "1 live SVID of tainted keys before, 0 now", "1 live token of tainted"]
    {
        assert!(screen.contains(said), "{said} in\n{screen}");
    }
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");

    let after = show(&daemon);
    let left = after["keys"].as_array().unwrap().iter().filter(|key| ids(&before).contains(&key["id"])).count();
    assert_eq!(
        (left, &after["orphaned_svids"], &active(&after, "x509")["svids"]),
        (0, &0.into(), &1.into()),
        "{after}"
    );
    assert!(!validates(&daemon, &old_token), "a token of a tainted key still validates");
    assert!(validates(&daemon, &token(&daemon)));
    assert!(renewed.default_svid().is_some());
}

#[test]
fn a_changed_ca_ttl_is_taken_by_a_reload_and_counts_for_the_next_rotation() {
    let daemon = daemon();
    let before = active(&show(&daemon), "x509");
    let good = fs::read_to_string(daemon.configuration()).unwrap();
    fs::write(daemon.configuration(), good.replace("ca_ttl = \"1h\"", "ca_ttl = \"2h\"")).unwrap();
    let reload = daemon.ask(&["reload", "-o", "json"]);
    assert_eq!(code(&reload), 0, "{reload:?}");
    let note = json(&reload)["notes"][0].to_string();
    // A change that was seen on disk has been taken by then, and is in the log.
    let is_told = || (note.clone() + &daemon.log()).contains("from the next rotation on: X.509 at 20");
    eventually("the next rotation is told", is_told);
    assert_eq!(active(&show(&daemon), "x509")["not_after"], before["not_after"]);
    let rotated = json(&daemon.ask(&["authority", "rotate", "--kind", "x509", "-o", "json"]));
    let life = |key: &Value| key["not_after"].as_f64().unwrap() - key["made"].as_f64().unwrap();
    assert_eq!((life(&before), life(&rotated["published"][0])), (3600.0, 7200.0), "{rotated}");
}
