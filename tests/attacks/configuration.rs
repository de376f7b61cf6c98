//! Attacks by files: configurations that match too much, are too large, foreign or truncated, and keys that others can
//! read.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::lchown;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bonafide::endpoints::workload_api::proto::X509svidRequest;
use tokio::time::Instant;

use crate::asking::asking;
use crate::daemon::Daemon;
use crate::requests::client;
use crate::requests::x509;
use crate::transport::TIMEOUT;
use crate::transport::is_served;
use crate::transport::me;
use crate::transport::one_more;
use crate::transport::refuses;

/// Defences: `read_selectors` requires a selector; `check_strength` requires one that distinguishes the workload.
/// If the first returns early, the second refuses. If the second does, the daemon serves every process.
#[test]
fn attack_87_an_entry_that_matches_every_process_refuses_the_start() {
    for selectors in ["", "\"host:true\"", "\"unix:path:/bin/sh\"", "\"cgroup:/\"", "\"systemd:slice:system.slice\""] {
        let ended = Daemon::end_behind(&[], &format!("[[workload]]\nid = \"/all\"\nselectors = [{selectors}]\n"));
        refuses(&ended, "bonafide.toml:");
    }
    refuses(&Daemon::end_behind(&[], "[[workload]]\nid = \"/all\"\n"), "would match every process");
    is_served(&Daemon::start(&me()));
}

/// Defence: `Selector::from_str` accepts one spelling of each selector. If it accepted unknown text, the daemon would
/// start.
#[test]
fn attack_88_an_ambiguous_selector_refuses_the_start() {
    for selector in [
        "",
        "unix",
        "unix:",
        "unix:uid",
        "unix:uid:",
        "unix:uid:1:2",
        "unix:uid: 1",
        "unix:uid:01",
        "unix::uid:1",
        "Unix:uid:1",
    ] {
        let ended = Daemon::end_behind(
            &[],
            &format!("{}[[workload]]\nid = \"/x\"\nselectors = [\"unix:uid:1\", {selector:?}]\n", me()),
        );
        refuses(&ended, "bonafide.toml:");
    }
    is_served(&Daemon::start(&me()));
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The files in the data directory.
fn kept(daemon: &Daemon) -> Vec<PathBuf> {
    fs::read_dir(daemon.folder().join("data")).unwrap().map(|file| file.unwrap().path()).collect()
}

/// Defences: `Disk::create` and `make_directory` set the mode and ignore the umask; `Disk::open` and `Disk::read`
/// refuse a wider mode. If the first two follow the umask, the daemon refuses its own directory. If the last two return
/// early, it serves from keys that others can read.
#[test]
fn attack_126_key_files_that_others_can_read_refuse_the_start() {
    const TEST: &str = "attack_126_key_files_that_others_can_read_refuse_the_start";
    let mut daemon = Daemon::start_behind(&["/bin/sh", "-c", "umask 000; exec \"$@\"", "sh"], &me());
    is_served(&daemon);
    let data = daemon.folder().join("data");
    assert_eq!(mode(&data), 0o700);
    for file in kept(&daemon) {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    daemon.kill();
    for (path, narrow) in kept(&daemon).into_iter().map(|file| (file, 0o600)).chain([(data.clone(), 0o700)]) {
        let Some(name) = path.file_name().filter(|name| *name != "configuration.accepted") else { continue };
        set_mode(&path, narrow | 0o044);
        refuses(&daemon.start_refused(), &name.to_string_lossy());
        set_mode(&path, narrow);
    }
    daemon.restart();
    is_served(&daemon);
    set_mode(daemon.folder(), 0o755);
    let backup = |uid: &str| {
        Command::new("setpriv")
            .args(["--reuid", uid, "--regid", uid, "--clear-groups", "tar", "-cf", "/dev/null"])
            .arg(&data)
            .output()
    };
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: {TEST}: a backup by another user: only root can become one");
    }
    assert!(!backup("41000").unwrap().status.success());
    assert!(backup("0").unwrap().status.success());
}

/// Defences: the depth limit of `syntax::parse`, `files::read_at_most`, and `Reader`, which checks each key's name,
/// type and range. An included file cannot include another, so there is no loop. Without the size limit the 8 MiB are
/// accepted; without the depth limit the TOML parser's own applies; without the entry limit there are 100,001 problems.
#[test]
fn attack_138_an_exhausting_configuration_is_refused_within_ten_seconds() {
    let daemon = Daemon::start(&me());
    let whole = fs::read_to_string(daemon.configuration()).unwrap();
    let nested = |open: &str, close: &str| format!("x = {}{}\n", open.repeat(100_000), close.repeat(100_000));
    let bombs = [
        ("more than 8 MiB", format!("# {}\n", "x".repeat(8 << 20))),
        ("nest deeper than 32", nested("[", "]")),
        ("nest deeper than 32", nested("{x=", "}")),
        ("this is not TOML", format!("{} = 1\n", ["x"; 100_000].join("."))),
        ("this is not TOML", "[admin]\nsocket = \"/run/other.sock\"\n".to_owned()),
        ("this is not TOML", "id = \"/other\"\n".to_owned()),
        ("connections", format!("[limits]\nconnections = 1{}\n", "0".repeat(1000))),
        ("connections", format!("[limits]\nconnections = {}\n", i64::MAX)),
        ("unknown", "[limits]\nconections = 1\n".to_owned()),
        ("100001 entries", "[[workload]]\n".repeat(100_000)),
    ];
    let text = |(because, bomb): &(&'static str, String)| (*because, format!("{whole}{bomb}"));
    let includes_itself = ("include", format!("include = [\"*.toml\"]\n{whole}"));
    for (because, bomb) in bombs.iter().map(text).chain([includes_itself]) {
        fs::write(daemon.configuration(), &bomb).unwrap();
        let begun = Instant::now();
        let reloaded = daemon.ask(&["reload"]);
        let printed = String::from_utf8_lossy(&reloaded.stderr) + String::from_utf8_lossy(&reloaded.stdout);
        assert_eq!(reloaded.status.code(), Some(2), "{because}: {printed}");
        assert!(printed.contains(because), "{because}: {printed}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{because}: {:?}", begun.elapsed());
        is_served(&daemon);
    }
    fs::write(daemon.configuration(), &whole).unwrap();
    assert!(daemon.ask(&["reload"]).status.success());
    is_served(&daemon);
}

/// Defence: `trusted_path::open_file` judges the open file, and every directory and link on the way. If `Walk::judge` returns
/// early, the file of mode 0666 is accepted.
#[tokio::test(flavor = "multi_thread")]
async fn attack_139_a_configuration_that_others_can_write_is_not_loaded() {
    const TEST: &str = "attack_139_a_configuration_that_others_can_write_is_not_loaded";
    let daemon = Daemon::start(&me());
    let (file, whole) = (daemon.configuration(), fs::read_to_string(daemon.configuration()).unwrap());
    let evil = format!("{whole}{}", me().replace("/me", "/evil"));
    let theirs = daemon.folder().join("theirs.toml");
    let fresh = || {
        let _ = fs::remove_file(&file).or_else(|_| fs::remove_dir(&file));
        fs::write(&file, &evil).unwrap();
        set_mode(&file, 0o644);
    };
    let refused = async |because: &str| {
        let reloaded = daemon.ask(&["reload"]);
        let printed = String::from_utf8_lossy(&reloaded.stderr) + String::from_utf8_lossy(&reloaded.stdout);
        let unwrapped = printed.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(reloaded.status.code() == Some(2) && unwrapped.contains(because), "{because}: {printed}");
        let given = x509(&daemon, asking(X509svidRequest {})).await.unwrap().svids;
        assert!(given.iter().all(|svid| !svid.spiffe_id.ends_with("/evil")), "{because}");
        fresh();
    };
    fresh();
    set_mode(&file, 0o666);
    refused("can be written by everybody").await;
    set_mode(daemon.folder(), 0o777);
    refused("can be written by everybody").await;
    set_mode(daemon.folder(), 0o700);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    refused("is not a regular file").await;
    fs::remove_file(&file).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::RUSR).unwrap();
    refused("is not a regular file").await;
    if lchown(&file, Some(41000), None).is_ok() {
        refused("belongs to uid 41000").await;
        lchown(&file, None, Some(41000)).unwrap();
        set_mode(&file, 0o664);
        refused("can be written by its group").await;
        fs::rename(&file, &theirs).unwrap();
        lchown(&theirs, Some(41000), None).unwrap();
        symlink(&theirs, &file).unwrap();
        refused("belongs to uid 41000").await;
    } else {
        eprintln!("skipped: {TEST}: files of others: only root can give a file away");
    }
    assert!(daemon.ask(&["reload"]).status.success());
    let given = x509(&daemon, asking(X509svidRequest {})).await.unwrap().svids;
    assert_eq!(given.len(), 2, "the same text in a file that only its owner can write is not applied");
}

/// Defences: `syntax::parse` for a file that ends inside a table; `Reloader::hold_back` for one that ends between two.
/// If the first accepts a partial file, the reader still refuses it for its missing keys. If the second returns early,
/// the truncated file is applied at once.
#[tokio::test(flavor = "multi_thread")]
async fn attack_140_a_half_written_configuration_is_never_applied() {
    let daemon = Daemon::start(&["/a", "/b", "/c"].map(|id| me().replace("/me", id)).concat());
    let whole = fs::read_to_string(daemon.configuration()).unwrap();
    let mut stream = client(&daemon).await.fetch_x509svid(asking(X509svidRequest {})).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().svids.len(), 3);
    let last = whole.rfind("[[workload]]").unwrap();
    for end in (last + 3..whole.len() - 3).step_by(7) {
        fs::write(daemon.configuration(), &whole[..end]).unwrap();
        let reloaded = daemon.ask(&["reload"]);
        assert!(!reloaded.status.success(), "{:?} was accepted", &whole[last..end]);
    }
    let first_only = &whole[..whole.find("[[workload]]\nid = \"/b\"").unwrap()];
    fs::write(daemon.configuration(), first_only).unwrap();
    let begun = Instant::now();
    while !String::from_utf8_lossy(&daemon.ask(&["status"]).stdout).contains("held back") {
        assert!(begun.elapsed() < TIMEOUT, "status does not report the change");
    }
    assert_eq!(x509(&daemon, asking(X509svidRequest {})).await.unwrap().svids.len(), 3);
    assert!(daemon.ask(&["reload"]).status.success());
    assert_eq!(x509(&daemon, asking(X509svidRequest {})).await.unwrap().svids.len(), 1, "the reload did not apply it");
}

/// Defence: `Name`, the closed list of file names in `DataDir`. No input becomes a name, so there is no check to skip.
#[test]
fn attack_141_no_configured_name_becomes_a_file_name() {
    let entry = "[[workload]]\nid = \"/..hidden/x\"\nselectors = [\"unix:uid:4242\"]\nhint = \"../../hidden\"\n";
    let daemon = Daemon::start(&(me() + entry + "audiences = [\"../hidden\"]\n"));
    is_served(&daemon);
    let tokens = daemon.ask(&["fetch", "jwt", "--audience", "../../hidden"]);
    assert!(tokens.status.success(), "{}", String::from_utf8_lossy(&tokens.stderr));
    for name in ["../hidden", "/hidden", "a/../hidden", ""] {
        let named =
            fs::read_to_string(daemon.configuration()).unwrap().replace("\"example.org\"", &format!("{name:?}"));
        refuses(&one_more(&daemon, &named), "one_more.toml:1:");
    }
    let names: Vec<_> = kept(&daemon).iter().map(|file| file.file_name().unwrap().to_owned()).collect();
    assert!(!names.is_empty() && names.iter().all(|name| !name.to_string_lossy().contains("hidden")), "{names:?}");
}

/// Defence: `read_bundle_file` opens the file by `trusted_path`. If `Walk::judge` returns early, the daemon believes the
/// other user's bundle within two seconds, and is healthy.
#[test]
fn attack_161_a_bundle_file_that_others_can_write_is_not_believed() {
    const TEST: &str = "attack_161_a_bundle_file_that_others_can_write_is_not_believed";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("partner.json");
    let replace = |sequence: u32, mode: u32, owner: Option<u32>| {
        let new = folder.path().join("new");
        fs::write(&new, format!("{{\"keys\":[],\"spiffe_sequence\":{sequence}}}")).unwrap();
        set_mode(&new, mode);
        let given = owner.is_none_or(|owner| lchown(&new, Some(owner), None).is_ok());
        fs::rename(&new, &file).unwrap();
        given
    };
    let table = format!("[[federation]]\ntrust_domain = \"partner.test\"\nbundle_file = {:?}\n", file.display());
    replace(1, 0o644, None);
    let mut daemon = Daemon::start(&(me() + &table));
    let status = |daemon: &Daemon| -> serde_json::Value {
        serde_json::from_slice(&daemon.ask(&["status", "-o", "json"]).stdout).unwrap()
    };
    let sequence = |daemon: &Daemon| {
        let bundles = status(daemon)["bundles"].as_array().unwrap().clone();
        bundles.iter().find(|bundle| bundle["trust_domain"] == "partner.test").map(|found| found["sequence"].clone())
    };
    let reports = |daemon: &Daemon, expected: &str| {
        let begun = Instant::now();
        while !status(daemon)["reasons"].to_string().contains(expected) {
            assert!(begun.elapsed() < TIMEOUT, "status does not say {expected:?}: {}", status(daemon));
        }
        assert_eq!(status(daemon)["state"], "degraded");
    };
    assert_eq!(sequence(&daemon), Some(1.into()));
    replace(2, 0o666, None);
    reports(&daemon, "it can be written by everybody (mode 0666)");
    assert_eq!(sequence(&daemon), Some(1.into()), "the last good one stays");
    if replace(3, 0o644, Some(41000)) {
        reports(&daemon, "it belongs to uid 41000");
        assert_eq!(sequence(&daemon), Some(1.into()));
    } else {
        eprintln!("skipped: {TEST}: a file of another user: only root can give a file away");
    }
    daemon.kill_and_restart();
    assert_eq!(sequence(&daemon), None, "a start without a good one runs without it");
    reports(&daemon, "no SVID of that trust domain is trusted");
    let checked = daemon.ask(&["config", "check", daemon.configuration().to_str().unwrap()]);
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.contains("gives no bundle of partner.test"), "{checked}");
    is_served(&daemon);
    replace(4, 0o644, None);
    let begun = Instant::now();
    while sequence(&daemon) != Some(4.into()) {
        assert!(begun.elapsed() < TIMEOUT, "the file of root is not believed");
    }
}
