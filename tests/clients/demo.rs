//! `bonafide demo` tells the truth: it succeeds only when every step really happened.

use std::fs;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

/// Runs the demo, which must leave no file behind, however it ends.
fn demo(flags: &[&str]) -> Output {
    let folder = tempfile::TempDir::with_prefix("bonafide-").unwrap();
    // Under root the services run as other users, who must be able to pass.
    fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bonafide"));
    command.arg("demo").args(flags).env("TMPDIR", folder.path()).stdin(Stdio::null());
    let output = command.output().unwrap();
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(left.is_empty(), "the demo left {left:?}");
    output
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn the_demo_succeeds_and_shows_what_the_daemon_says_of_the_impostor() {
    let output = demo(&[]);
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    let story = text(&output.stdout);
    for told in
        ["had its SVID", "they talk mTLS", "sees a new serial of the", "no identity issued (d-", "no entry matches"]
    {
        assert!(story.contains(told), "{told:?} is not in:\n{story}");
    }
    assert_eq!(text(&output.stderr), "");
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
