//! Bad input to the shipped daemon: the error has the place, the cause and the remedy, and no identity is lost.

use std::fs;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::lchown;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;

use rustix::process::geteuid;
use tempfile::TempDir;

use crate::daemon::Daemon;

const ENTRY: &str = "[[workload]]\nid = \"/us\"\nselectors = [\"unix:uid:UID\", \"host:true\"]\n";

fn entry() -> String {
    ENTRY.replace("UID", &geteuid().as_raw().to_string())
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// Its output on one line.
fn printed(output: &Output) -> String {
    let printed = String::from_utf8([output.stdout.clone(), output.stderr.clone()].concat()).unwrap();
    printed.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs a daemon that must end before it serves.
fn run(configuration: &Path) -> Output {
    let words = ["20", env!("CARGO_BIN_EXE_bonafide"), "run", "--config"];
    Command::new("timeout").args(words).arg(configuration).output().unwrap()
}

/// A copy of the configuration of a daemon that serves, for a first start with other paths.
fn copied(daemon: &Daemon, from: &str, to: &str) -> PathBuf {
    let text = fs::read_to_string(daemon.configuration()).unwrap();
    assert!(text.contains(from));
    let copy = daemon.folder().join("copy.toml");
    fs::write(&copy, text.replace("/data\"", "/fresh\"").replace(from, to)).unwrap();
    copy
}

/// Bad replacements for a good configuration, each with its expected error: place, cause and remedy.
fn bad_texts(good: &str) -> Vec<(String, &'static str)> {
    let with = |from: &str, to: &str| good.replace(from, to);
    let more = |text: &str| format!("{good}{text}");
    let until = |end: &str| good.split(end).next().unwrap().to_owned();
    vec![
        (until("ors ="), ":15:7: this is not TOML: key with no value, expected `=`"),
        (more(&"# padding\n".repeat(900_000)), ": the configuration has more than 8 MiB in all; make it shorter"),
        (more(&format!("a = {}", "[".repeat(10_000))), ":16:37: brackets nest deeper than 32; write it flat"),
        (with("ca_ttl", "data_dir = \"/x\"\nca_ttl"), ":9:1: this is not TOML: duplicate key; keep one of them"),
        (with("ca_ttl", "ca_tll"), ":9:1: unknown key \"ca_tll\" in [authority]; did you mean \"ca_ttl\"?"),
        (
            with("/us", "/u s"),
            ":14:9: id is \"/u s\": the path has ' ' at byte 2; only a-z A-Z 0-9 . - _ and / are allowed",
        ),
        (with("host:true", "unix:uid:x"), "selector \"unix:uid:x\" needs a number from 0 to 4294967294"),
        (with("host:true", "unix:pid:1"), "has the unknown type \"unix:pid\"; did you mean \"unix:gid\"?"),
        (until("selectors"), ":13:1: an entry without selectors would match every process; add selectors = "),
        (
            with("unix:uid:", "unix:path:/x"),
            ":15:1: entry \"/us\" has no selector that tells it from other processes of this node; add",
        ),
        (
            with("ttl = \"10s\"\nj", "ttl = \"2h\"\nj"),
            "and ca_ttl is \"1h\"; write at most \"30m\", or a longer ca_ttl",
        ),
        (with("ttl = \"10s\"\nj", "ttl = \"9s\"\nj"), ":11:12: x509_ttl is \"9s\"; must be at least 10s"),
        (with("\"embedded\"", "\"spire\""), ":7:8: kind is \"spire\", which this version does not have yet; write"),
        (more("[node.aws]\n"), ":16:2: cloud evidence, [node.*], is not in this version yet; remove it"),
    ]
}

/// Asserts that `config check`, `reload` and `run` refuse the file with this error, and that the running daemon still
/// serves.
fn is_refused_everywhere(daemon: &Daemon, expected: &str) {
    let file = daemon.configuration();
    let checked = daemon.ask(&["config", "check", file.to_str().unwrap()]);
    let reloaded = daemon.ask(&["reload"]);
    let started = fs::read_to_string(&file).map(|text| {
        let copy = daemon.folder().join("copy.toml");
        fs::write(&copy, text.replace("/data\"", "/fresh\"")).unwrap();
        fs::set_permissions(&copy, fs::metadata(&file).unwrap().permissions()).unwrap();
        run(&copy)
    });
    for output in [checked, reloaded, started.unwrap_or_else(|_| run(&file))] {
        let printed = printed(&output);
        assert_eq!(code(&output), 2, "{expected}: {printed}");
        assert!(printed.contains(expected), "{expected:?} is not in {printed}");
    }
    assert!(!daemon.folder().join("fresh").exists(), "the refused start made a data directory");
    assert_eq!(code(&daemon.ask(&["fetch", "x509"])), 0, "{expected}: an identity was lost");
}

#[test]
fn check_reload_and_run_refuse_every_bad_configuration() {
    let daemon = Daemon::start(&entry());
    let file = daemon.configuration();
    let good = fs::read_to_string(&file).unwrap();
    for (text, expected) in bad_texts(&good) {
        assert_ne!(text, good, "{expected}");
        fs::write(&file, text).unwrap();
        is_refused_everywhere(&daemon, expected);
    }
    fs::write(&file, &good).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
    is_refused_everywhere(&daemon, "can be written by everybody (mode 0666); run: chmod o-w");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    is_refused_everywhere(&daemon, "is not a regular file; put one in its place");
    fs::remove_dir(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let run_with_a_fifo = run(&file);
    assert_eq!(code(&run_with_a_fifo), 2, "{run_with_a_fifo:?}");
    fs::remove_file(&file).unwrap();
    is_refused_everywhere(&daemon, "cannot be read: No such file or directory (os error 2); write it, or give");
    fs::write(&file, good).unwrap();
    assert_eq!((code(&daemon.ask(&["reload"])), code(&daemon.ask(&["status"]))), (0, 0));
}

#[test]
fn an_unreadable_configuration_is_refused_with_the_cause() {
    if !geteuid().is_root() {
        eprintln!("skipped: an_unreadable_configuration_is_refused_with_the_cause: only root can become other users");
        return;
    }
    let folder = TempDir::with_prefix("bonafide-").unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let (program, file) = (folder.path().join("bonafide"), folder.path().join("bonafide.toml"));
    fs::copy(env!("CARGO_BIN_EXE_bonafide"), &program).unwrap();
    fs::write(&file, "trust_domain = \"example.org\"\n").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    for command in [&["config", "check"][..], &["run", "--config"]] {
        let stranger = ["--reuid=41000", "--regid=41000", "--clear-groups"];
        let output = Command::new("setpriv").args(stranger).arg(&program).args(command).arg(&file).output().unwrap();
        let printed = printed(&output);
        assert_eq!(code(&output), 2, "{printed}");
        assert!(printed.contains("Permission denied (os error 13); let the user who runs this read it"), "{printed}");
    }
}

#[test]
fn config_check_refuses_the_data_directory_that_run_refuses() {
    let mut daemon = Daemon::start(&entry());
    daemon.kill();
    let (file, data) = (daemon.configuration(), daemon.folder().join("data"));
    let check = |expected| {
        let checked = daemon.ask(&["config", "check", file.to_str().unwrap()]);
        assert_eq!(code(&checked), expected, "{}", printed(&checked));
        String::from_utf8_lossy(&checked.stdout).into_owned()
    };
    check(0);
    fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
    let expected = "has mode 0755, so that others can reach the authority's keys";
    assert!(printed(&run(&file)).contains(expected) && check(2).contains(expected));
    fs::remove_dir_all(&data).unwrap();
    check(0);
    fs::write(&data, "no directory").unwrap();
    let expected = "is not a directory; set data_dir to a directory";
    assert!(printed(&run(&file)).contains(expected) && check(2).contains(expected));
}

/// `run` needs a data directory of its own user's, so its owner is the user that root asks for.
#[test]
fn config_check_of_root_asks_for_the_user_that_the_daemon_runs_as() {
    const TEST: &str = "config_check_of_root_asks_for_the_user_that_the_daemon_runs_as";
    let mut daemon = Daemon::start(&entry());
    daemon.kill();
    let (file, data) = (daemon.configuration(), daemon.folder().join("data"));
    let sockets = daemon.socket().parent().unwrap().to_owned();
    if lchown(&data, Some(41000), Some(41000)).is_err() {
        return eprintln!("skipped: {TEST}: only root can give a directory away");
    }
    [daemon.socket(), daemon.admin_socket()].into_iter().for_each(|socket| fs::remove_file(socket).unwrap());
    for (owner, expected) in [(0, 0), (41000, 0), (41001, 2)] {
        lchown(&sockets, Some(owner), None).unwrap();
        let checked = daemon.ask(&["config", "check", file.to_str().unwrap()]);
        assert_eq!(code(&checked), expected, "{owner}: {}", String::from_utf8_lossy(&checked.stdout));
    }
}

#[test]
fn a_socket_in_an_unsafe_or_occupied_place_is_refused() {
    let daemon = Daemon::start(&entry());
    let at = |name: &str| daemon.folder().join(name);
    fs::create_dir(at("wide")).unwrap();
    symlink(at("wide"), at("link")).unwrap();
    fs::set_permissions(at("wide"), Permissions::from_mode(0o777)).unwrap();
    fs::create_dir(at("taken")).unwrap();
    fs::write(at("taken/workload.sock"), "a file of somebody else").unwrap();
    for (place, exit, expected) in [
        ("link", 2, "wide can be written by everybody (mode 0777); run: chmod o-w"),
        ("wide", 2, "could be replaced by others: "),
        ("taken", 2, "taken/workload.sock\" is there and is not the daemon's own socket; remove it if nobody needs it"),
        ("run/agent", 1, "run/agent/workload.sock\"; stop it, or give this one another socket"),
    ] {
        let file = copied(&daemon, "run/agent/", &format!("{place}/"));
        let text = fs::read_to_string(&file).unwrap().replace("run/admin/", &format!("{place}/"));
        fs::write(&file, text).unwrap();
        let output = run(&file);
        let printed = printed(&output);
        assert_eq!(code(&output), exit, "{place}: {printed}");
        assert!(printed.contains(expected), "{expected:?} is not in {printed}");
        let checked = daemon.ask(&["config", "check", file.to_str().unwrap()]);
        let found = exit == 2 && String::from_utf8_lossy(&checked.stdout).contains(expected);
        assert_eq!((code(&checked), found), if exit == 2 { (2, true) } else { (0, false) }, "{place}: {checked:?}");
        assert!(!at(place).join("admin.sock").exists(), "{place}: a socket was left");
    }
    assert_eq!(fs::read_to_string(at("taken/workload.sock")).unwrap(), "a file of somebody else");
    assert_eq!((code(&daemon.ask(&["status"])), code(&daemon.ask(&["fetch", "x509"]))), (0, 0));
}
