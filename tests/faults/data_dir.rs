//! The data directory of the shipped daemon: killed at random moments, full, read-only, damaged, of another owner, with
//! a wide mode, and already in use.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::chown;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use aws_lc_rs::rand::SecureRandom;
use aws_lc_rs::rand::SystemRandom;
use rustix::process::geteuid;
use spiffe::WorkloadApiClient;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::daemon::Daemon;
use crate::daemon::SERVING;
use crate::small_disk::SmallDisk;

const KILLS: u32 = 200;
/// Kills per data directory before it is replaced.
const KILLS_PER_AUTHORITY: u32 = 8;
/// A kill falls into this time after the start of a daemon: before, during or after the first write of its state.
const MOMENTS: Duration = Duration::from_millis(120);

/// A user that every Debian has, in the place of the service's.
const SERVICE: (u32, &str) = (1, "daemon");

pub(crate) fn entry() -> String {
    format!("[[workload]]\nid = \"/test\"\nselectors = [\"unix:uid:{}\"]\n", geteuid().as_raw())
}

pub(crate) fn data(daemon: &Daemon) -> PathBuf {
    daemon.folder().join("data")
}

pub(crate) fn state_file(daemon: &Daemon) -> PathBuf {
    data(daemon).join("authority.state")
}

/// The stored state between its two header lines and its checksum; `None` before the first write.
fn state(daemon: &Daemon) -> Option<serde_json::Value> {
    let text = fs::read_to_string(state_file(daemon)).ok()?;
    let payload = text.splitn(3, '\n').nth(2).unwrap();
    let (payload, _checksum) = payload.rsplit_once("\nsha256 ").unwrap();
    Some(serde_json::from_str(payload).unwrap())
}

fn active_keys(state: &serde_json::Value, kind: &str) -> usize {
    state[kind].as_array().unwrap().iter().filter(|key| key["stage"] == "active").count()
}

/// An SVID's leaf, and the roots of the bundle beside it.
pub(crate) async fn fetch(daemon: &Daemon) -> (Vec<u8>, Vec<Vec<u8>>) {
    let client = WorkloadApiClient::connect_to(daemon.address()).await.unwrap();
    let context = client.fetch_x509_context().await.unwrap();
    let leaf = context.default_svid().unwrap().cert_chain()[0].as_bytes().to_vec();
    let (_, bundle) = context.bundle_set().iter().next().unwrap();
    (leaf, bundle.authorities().iter().map(|root| root.as_bytes().to_vec()).collect())
}

pub(crate) fn verifies(leaf: &[u8], roots: &[Vec<u8>]) -> bool {
    let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
    roots.iter().any(|root| {
        let (_, root) = X509Certificate::from_der(root).unwrap();
        leaf.verify_signature(Some(root.public_key())).is_ok()
    })
}

fn random_moment() -> Duration {
    let mut byte = [0];
    SystemRandom::new().fill(&mut byte).unwrap();
    MOMENTS.mul_f64(f64::from(byte[0]) / 255.0)
}

/// Runs a daemon that must end before it serves. Returns its exit code and its output.
fn refusal(daemon: &Daemon, configuration: &Path) -> (Option<i32>, String) {
    let limit_in_seconds = "5";
    let output = Command::new("timeout")
        .args([limit_in_seconds, env!("CARGO_BIN_EXE_bonafide"), "run", "--config"])
        .arg(configuration)
        .current_dir(daemon.folder())
        .output()
        .unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(printed).unwrap())
}

/// The moments are random, so each run tries others; the unit tests of the file layer try every step.
#[tokio::test]
async fn two_hundred_kills_at_random_moments_lose_no_authority_and_no_identity() {
    let mut daemon = Daemon::start(&entry());
    let mut kept: Option<serde_json::Value> = None;
    let mut handed_out = Vec::new();
    daemon.kill();
    for kill in 0..KILLS {
        if kill % KILLS_PER_AUTHORITY == 0 {
            fs::remove_dir_all(data(&daemon)).unwrap_or_default();
            (kept, handed_out) = (None, Vec::new());
        }
        daemon.begin_restart();
        // A random delay before the kill; the test does not wait for an event here.
        std::thread::sleep(random_moment());
        daemon.kill();
        if let Some(state) = state(&daemon) {
            assert_eq!((active_keys(&state, "x509"), active_keys(&state, "jwt")), (1, 1));
            let before = kept.replace(state.clone()).unwrap_or(state.clone());
            assert_eq!(before["x509"], state["x509"], "kill {kill}");
            assert!(before["sequence"].as_u64() <= state["sequence"].as_u64());
        }
        if kill % KILLS_PER_AUTHORITY >= KILLS_PER_AUTHORITY - 2 {
            daemon.restart();
            let (leaf, roots) = fetch(&daemon).await;
            daemon.kill();
            handed_out.push(leaf);
            assert!(handed_out.iter().all(|leaf| verifies(leaf, &roots)), "kill {kill}");
        }
    }
}

#[test]
fn damaged_state_is_refused_with_exit_code_2_and_a_repair_command() {
    let mut daemon = Daemon::start(&entry());
    daemon.kill();
    let file = state_file(&daemon);
    let good = fs::read(&file).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for bad in [&flipped, &good[..good.len() / 2], &[]] {
        fs::write(&file, bad).unwrap();
        let (code, printed) = refusal(&daemon, &daemon.configuration());
        assert_eq!(code, Some(2), "{printed}");
        assert!(printed.contains(&format!("mv {0} {0}.damaged", file.display())), "{printed}");
        assert_eq!(fs::read(&file).unwrap(), bad, "the damaged state was changed");
    }
    fs::write(&file, good).unwrap();
    daemon.restart();
}

#[test]
fn data_that_others_can_read_is_refused_with_exit_code_2_and_a_chmod() {
    let mut daemon = Daemon::start(&entry());
    daemon.kill();
    for (path, wide, right) in [(data(&daemon), 0o755, 0o700), (state_file(&daemon), 0o640, 0o600)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(wide)).unwrap();
        let (code, printed) = refusal(&daemon, &daemon.configuration());
        assert_eq!(code, Some(2), "{printed}");
        assert!(printed.contains(&format!("chmod 0{right:o} {}", path.display())), "{printed}");
        fs::set_permissions(&path, fs::Permissions::from_mode(right)).unwrap();
    }
    daemon.restart();
}

#[test]
fn a_directory_of_another_user_is_refused_with_exit_code_2() {
    if !geteuid().is_root() {
        eprintln!("skipped: a_directory_of_another_user_is_refused_with_exit_code_2: needs root to give it away");
        return;
    }
    let mut daemon = Daemon::start(&entry());
    daemon.kill();
    chown(data(&daemon), Some(41_000), None).unwrap();
    let (code, printed) = refusal(&daemon, &daemon.configuration());
    assert_eq!(code, Some(2), "{printed}");
    assert!(printed.contains("belongs to uid 41000"), "{printed}");
}

/// Root types `bonafide run` on an installed node. Whoever obeys an advice to take the directory stops the service.
#[test]
fn root_who_runs_a_service_users_daemon_by_hand_is_told_to_start_the_unit() {
    const TEST: &str = "root_who_runs_a_service_users_daemon_by_hand_is_told_to_start_the_unit";
    if !geteuid().is_root() {
        return eprintln!("skipped: {TEST}: needs root");
    }
    let mut daemon = Daemon::start(&entry());
    daemon.kill();
    for path in [data(&daemon), state_file(&daemon)] {
        chown(&path, Some(SERVICE.0), None).unwrap();
    }
    let (code, printed) = refusal(&daemon, &daemon.configuration());
    assert_eq!(code, Some(2), "{printed}");
    assert!(printed.contains("systemctl start bonafide") && !printed.contains("chown"), "{printed}");
    assert!(printed.contains(&format!("runuser -u {} -- bonafide run", SERVICE.1)), "{printed}");

    chown(data(&daemon), Some(0), None).unwrap();
    let (code, printed) = refusal(&daemon, &daemon.configuration());
    assert_eq!(code, Some(2), "{printed}");
    assert!(printed.contains("systemctl show -P User bonafide; if that prints a user USER"), "{printed}");
    assert!(!printed.contains("chown -R 0") && !printed.contains("chown -R root"), "{printed}");
}

/// Root has started the daemon once by hand, or has restored its state.
#[test]
fn a_service_user_that_finds_roots_state_is_given_it_by_the_advice() {
    const TEST: &str = "a_service_user_that_finds_roots_state_is_given_it_by_the_advice";
    if !geteuid().is_root() {
        return eprintln!("skipped: {TEST}: only root can become another user");
    }
    let mut daemon = Daemon::start(&entry());
    daemon.kill();
    fs::set_permissions(daemon.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = daemon.folder().join("bonafide");
    fs::copy(env!("CARGO_BIN_EXE_bonafide"), &program).unwrap();
    let run = || {
        let output = Command::new("setpriv")
            .args([&format!("--reuid={}", SERVICE.0), &format!("--regid={}", SERVICE.0), "--clear-groups"])
            .args(["timeout", "5"])
            .arg(&program)
            .args(["run", "--config"])
            .arg(daemon.configuration())
            .output()
            .unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    let advice = format!("chown -R {}: {}", SERVICE.1, data(&daemon).display());
    let obey = || assert!(Command::new("sh").args(["-c", &advice]).status().unwrap().success());
    let whole = run();
    assert!(whole.contains("belongs to root and the daemon runs as") && whole.contains(&advice), "{whole}");
    obey();
    chown(state_file(&daemon), Some(0), None).unwrap();
    let file = run();
    assert!(file.contains("authority.state belongs to root") && file.contains(&advice), "{file}");
    obey();
    let after = run();
    assert!(!after.contains("belongs to root") && !after.contains("data_dir"), "{after}");
}

#[test]
fn state_of_another_trust_domain_is_refused_with_exit_code_2() {
    let mut daemon = Daemon::start(&entry());
    daemon.kill();
    let text = fs::read_to_string(daemon.configuration()).unwrap();
    fs::write(daemon.configuration(), text.replace("\"example.org\"", "\"other.test\"")).unwrap();
    let (code, printed) = refusal(&daemon, &daemon.configuration());
    assert_eq!(code, Some(2), "{printed}");
    let file = state_file(&daemon);
    for way in [
        "keep example.org: set trust_domain = \"example.org\", and type: systemctl restart bonafide",
        "have both: set [authority] data_dir to another directory, which gets a new authority of other.test",
        &format!("Type: mv {0} {0}.example.org && systemctl restart bonafide", file.display()),
    ] {
        assert!(printed.contains(way), "{way} in {printed}");
    }
    assert!(file.exists());
    fs::write(daemon.configuration(), &text).unwrap();
    daemon.restart();
}

/// The other daemon has its own sockets, so only the data directory is shared.
#[tokio::test]
async fn a_second_daemon_on_the_same_data_is_refused_with_exit_code_1() {
    let daemon = Daemon::start(&entry());
    let text = fs::read_to_string(daemon.configuration()).unwrap();
    let second = daemon.folder().join("second.toml");
    fs::write(&second, text.replace("/run/", "/second/")).unwrap();
    let (code, printed) = refusal(&daemon, &second);
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains(&format!("process {}", daemon.pid())), "{printed}");
    let (leaf, roots) = fetch(&daemon).await;
    assert!(verifies(&leaf, &roots));
}

fn mount(options: &[&str], at: &Path) -> bool {
    Command::new("mount").args(options).arg(at).output().is_ok_and(|output| output.status.success())
}

/// A data directory that takes no writes prevents a rotation and nothing else, until it takes them again.
#[tokio::test]
async fn a_daemon_whose_data_directory_takes_no_writes_serves_degraded() {
    let mut daemon = Daemon::start(&entry());
    let (before, _) = fetch(&daemon).await;
    daemon.kill();
    let Some(disk) = SmallDisk::over(&data(&daemon)) else {
        eprintln!(
            "skipped: a_daemon_whose_data_directory_takes_no_writes_serves_degraded: \
             needs root and mount(8)"
        );
        return;
    };
    disk.fill();
    daemon.restart();
    let (_, roots) = fetch(&daemon).await;
    assert!(verifies(&before, &roots));
    assert!(daemon.log().contains("takes no writes"), "{}", daemon.log());
    daemon.kill();

    disk.empty();
    disk.make_read_only();
    let log_before = daemon.log().len();
    daemon.restart();
    let (_, roots) = fetch(&daemon).await;
    assert!(verifies(&before, &roots));
    assert!(daemon.log()[log_before..].contains("takes no writes"), "{}", daemon.log());
    assert!(mount(&["-o", "remount,rw"], &data(&daemon)));
    daemon.wait_for_notification(SERVING);
    daemon.kill();
}

#[test]
fn a_rotation_on_a_full_disk_is_not_begun_and_says_what_to_type() {
    let mut daemon = Daemon::start(&entry());
    daemon.kill();
    let Some(disk) = SmallDisk::over(&data(&daemon)) else {
        eprintln!("skipped: a_rotation_on_a_full_disk_is_not_begun_and_says_what_to_type: needs root and mount(8)");
        return;
    };
    daemon.restart();
    disk.fill();
    let before = state(&daemon);
    for words in [&["authority", "rotate"][..], &["authority", "rotate", "--taint", "--yes"]] {
        let refused = daemon.ask(words);
        let printed = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(1), "{printed}");
        assert!(
            printed.starts_with("bonafide: nothing was rotated\n") && printed.contains("No space left"),
            "{printed}"
        );
        assert!(printed.contains("when there is room: bonafide authority rotate "), "{printed}");
        assert_eq!(printed.ends_with("--taint --yes\n"), words.len() > 2, "{printed}");
    }
    assert_eq!(state(&daemon), before);
    disk.empty();
    assert_eq!(daemon.ask(&["authority", "rotate"]).status.code(), Some(0));
    assert_ne!(state(&daemon), before);
    daemon.kill();
}

/// Without keys the daemon cannot serve, and keys that are not stored would be lost at the next start.
#[test]
fn a_first_start_on_a_full_or_read_only_directory_is_refused() {
    let mut daemon = Daemon::start(&entry());
    daemon.kill();
    fs::remove_file(state_file(&daemon)).unwrap();
    let Some(disk) = SmallDisk::over(&data(&daemon)) else {
        eprintln!(
            "skipped: a_first_start_on_a_full_or_read_only_directory_is_refused: \
             needs root and mount(8)"
        );
        return;
    };
    disk.fill();
    for why in ["No space left on device", "Read-only file system"] {
        let (code, printed) = refusal(&daemon, &daemon.configuration());
        assert_eq!(code, Some(2), "{printed}");
        let expected = format!("{} cannot be written: {why}", state_file(&daemon).display());
        assert!(
            printed.contains(&expected) && printed.contains("make room, or make the directory writable"),
            "{printed}"
        );
        disk.make_read_only();
    }
}
