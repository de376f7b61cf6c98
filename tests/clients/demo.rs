//! `bonafide demo` succeeds only if every step really happened.

use std::fs;
use std::fs::Permissions;
use std::io::BufRead;
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use nix::unistd::Uid;
use tempfile::TempDir;
use tokio::time::Instant;

/// A directory for temporary files.
fn place() -> TempDir {
    let place = TempDir::with_prefix("bonafide-").unwrap();
    // Under root the services run as other users, who must be able to enter the directory.
    fs::set_permissions(place.path(), Permissions::from_mode(0o711)).unwrap();
    place
}

fn demo_in(place: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bonafide"));
    command.arg("demo").env("TMPDIR", place).stdin(Stdio::null());
    command
}

fn left_in(place: &TempDir) -> Vec<PathBuf> {
    fs::read_dir(place.path()).unwrap().map(|file| file.unwrap().path()).collect()
}

/// Runs the demo, and asserts that it leaves no file.
fn demo(flags: &[&str]) -> Output {
    let place = place();
    let output = demo_in(place.path()).args(flags).output().unwrap();
    assert_eq!(left_in(&place), <[PathBuf; 0]>::default(), "the demo left something");
    output
}

/// A demo whose services have connected: its process and its output.
fn begun_in(place: &TempDir) -> (Child, BufReader<ChildStdout>) {
    let mut demo = demo_in(place.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut story = BufReader::new(demo.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("they talk mTLS") {
        line.clear();
        assert_ne!(story.read_line(&mut line).unwrap(), 0, "the demo ended");
    }
    (demo, story)
}

/// The processes whose command line contains this directory.
fn processes_of(place: &TempDir) -> Vec<i32> {
    let named = |pid: &i32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(&*place.path().to_string_lossy())
    };
    let numbers = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    numbers.filter(named).collect()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn the_demo_succeeds_and_shows_why_the_impostor_is_denied() {
    let output = demo(&[]);
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    let story = text(&output.stdout);
    for expected in
        ["had its SVID", "they talk mTLS", "sees a new serial of the", "no identity issued (d-", "no entry matches"]
    {
        assert!(story.contains(expected), "{expected:?} is not in:\n{story}");
    }
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn the_demo_without_root_says_what_its_paths_are_worth() {
    let place = place();
    let program = place.path().join("bonafide");
    fs::copy(env!("CARGO_BIN_EXE_bonafide"), &program).unwrap();
    let folder = place.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let mut demo = Command::new(program);
    demo.arg("demo").env("TMPDIR", &folder).stdin(Stdio::null());
    if Uid::effective().is_root() {
        chown(&folder, Some(41_000), Some(41_000)).unwrap();
        demo.uid(41_000).gid(41_000);
    }
    let output = demo.output().unwrap();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    let story = text(&output.stdout);
    for expected in ["apart, against mistakes; they do not stop", "hostile code of that same user.", "no entry matches"]
    {
        assert!(story.contains(expected), "{expected:?} is not in:\n{story}");
    }
}

#[test]
fn the_demo_fails_when_the_impostor_gets_an_identity() {
    let output = demo(&["--impostor-has-entry"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("the impostor got an identity"), "{}", text(&output.stderr));
}

#[test]
fn the_demo_fails_when_nothing_rotates() {
    let output = demo(&["--no-rotation"]);
    assert_eq!(output.status.code(), Some(1));
    let why = text(&output.stderr);
    assert!(why.contains("this did not happen: the server sees a new serial of the client"), "{why}");
}

#[test]
fn a_killed_demo_leaves_neither_processes_nor_files() {
    let place = place();
    let (mut demo, _story) = begun_in(&place);
    assert!(processes_of(&place).len() >= 3, "the daemon and two services");
    demo.kill().unwrap();
    demo.wait().unwrap();
    let killed = Instant::now();
    while !processes_of(&place).is_empty() || !left_in(&place).is_empty() {
        assert!(killed.elapsed() < Duration::from_secs(10), "{:?} {:?}", processes_of(&place), left_in(&place));
    }
}

#[test]
fn the_next_demo_removes_the_files_of_one_killed_with_its_daemon() {
    let place = place();
    let (mut demo, _story) = begun_in(&place);
    // Stops the demo, so that it does not clean up after its processes.
    kill(Pid::from_raw(i32::try_from(demo.id()).unwrap()), Signal::SIGSTOP).unwrap();
    for pid in processes_of(&place) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    demo.kill().unwrap();
    demo.wait().unwrap();
    let left = left_in(&place);
    assert_eq!(left.len(), 1, "{left:?}");
    let strange = place.path().join("bonafide-demo-notone");
    fs::write(&strange, "a file of somebody else").unwrap();
    let output = demo_in(place.path()).arg("--impostor-has-entry").output().unwrap();
    let story = text(&output.stdout);
    assert!(story.contains(&format!("An earlier demo was killed; {} is removed now", left[0].display())), "{story}");
    assert_eq!(left_in(&place), [strange]);
}

#[test]
fn a_demo_without_a_usable_tmpdir_names_the_cause_and_leaves_no_file() {
    let place = place();
    let long = place.path().join("x".repeat(90));
    fs::create_dir(&long).unwrap();
    let open = place.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    for (folder, why) in [
        (long, "at most 107 bytes"),
        (open, "can be written by everybody"),
        (place.path().join("nowhere"), "No such file or directory"),
    ] {
        let output = demo_in(&folder).output().unwrap();
        let printed = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{printed}");
        assert!(printed.contains(why) && printed.contains("\n  next: TMPDIR="), "{printed}");
        assert!(fs::read_dir(&folder).into_iter().flatten().next().is_none(), "the demo left something");
    }
}
