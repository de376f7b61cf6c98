//! Commands as processes, without a daemon.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

fn bonafide(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bonafide"));
    command
        .args(arguments)
        .env_remove("SPIFFE_ENDPOINT_SOCKET")
        .env_remove("BONAFIDE_ADMIN_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str]) -> Output {
    bonafide(arguments).output().unwrap()
}

fn printed(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn wrong_usage_ends_with_2() {
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["status", "--frobnicate"],
        &["status", "-o", "yaml"],
        &["explain"],
        &["explain", "1", "--denial", "d-1"],
        &["explain", "-1"],
        &["explain", "--denial", "7f31c2"],
        &["status", "--admin-socket", "tcp://127.0.0.1:1"],
        &["healthcheck", "--socket", "relative.sock"],
        &["status", "--config", "/nonexistent/bonafide.toml"],
        &["authority"],
        &["authority", "rotate", "--kind", "rsa"],
        &["authority", "rotate", "--yes"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", printed(&output.stderr));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn output_that_cannot_be_written_ends_with_1_and_the_cause() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/bonafide.toml");
    let check = ["config", "check", file.to_str().unwrap()];
    for arguments in [&["version"][..], &["version", "-o", "json"], &check] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = bonafide(arguments).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(printed(&output.stderr).contains("No space left on device"), "{}", printed(&output.stderr));
    }
    let full = File::options().write(true).open("/dev/full").unwrap();
    assert_eq!(bonafide(&["--help"]).stdout(full).status().unwrap().code(), Some(1));
}

#[test]
fn a_command_without_a_daemon_ends_with_3_cause_and_advice() {
    let folder = tempfile::tempdir().unwrap();
    let unserved = folder.path().join("unserved.sock");
    drop(std::os::unix::net::UnixListener::bind(&unserved).unwrap());
    for socket in [folder.path().join("none.sock"), unserved] {
        let socket = socket.to_str().unwrap();
        for arguments in [
            &["status", "--admin-socket", socket][..],
            &["explain", "1", "--admin-socket", socket],
            &["reload", "--admin-socket", socket],
            &["authority", "show", "--admin-socket", socket],
            &["authority", "rotate", "--admin-socket", socket],
            &["authority", "rotate", "--taint", "--admin-socket", socket],
            &["healthcheck", "--socket", socket],
        ] {
            let output = run(arguments);
            let error = printed(&output.stderr);
            assert_eq!(output.status.code(), Some(3), "{arguments:?}: {error}");
            assert!(error.contains(socket) && error.contains("\n  why:  ") && error.contains("\n  next: "), "{error}");
        }
    }
}

#[test]
fn a_flag_precedes_the_environment_and_that_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("bonafide.toml");
    std::fs::write(&config, "[admin]\nsocket = \"/nonexistent/of-config.sock\"\n").unwrap();
    let named_in = |arguments: &[&str], environment: Option<&str>| {
        let mut command = bonafide(&["status", "--config", config.to_str().unwrap()]);
        command.args(arguments).envs(environment.map(|socket| ("BONAFIDE_ADMIN_SOCKET", socket)));
        printed(&command.output().unwrap().stderr).lines().next().unwrap().rsplit(' ').next().unwrap().to_owned()
    };
    let environment = Some("unix:///nonexistent/of-environment.sock");
    let flag = ["--admin-socket", "/nonexistent/of-flag.sock"];
    assert_eq!(named_in(&flag, environment), "/nonexistent/of-flag.sock");
    assert_eq!(named_in(&[], environment), "/nonexistent/of-environment.sock");
    assert_eq!(named_in(&[], None), "/nonexistent/of-config.sock");
}

#[test]
fn a_closed_pipe_on_standard_output_is_no_failure() {
    for arguments in [&["version"][..], &["version", "-o", "json"], &["--help"]] {
        let mut child = bonafide(arguments).stdout(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut error = String::new();
        child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{arguments:?}: {error}");
        assert_eq!(error, "");
    }
}

#[test]
fn help_fits_80_columns_and_lists_every_command() {
    let commands = [
        "run",
        "demo",
        "config",
        "explain",
        "status",
        "authority",
        "fetch",
        "validate",
        "healthcheck",
        "reload",
        "version",
    ];
    let help = printed(&run(&["--help"]).stdout).to_owned();
    for command in commands {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command} in\n{help}");
        let help = run(&[command, "--help"]);
        assert_eq!(help.status.code(), Some(0), "{command}");
        assert!(printed(&help.stdout).lines().all(|line| line.chars().count() <= 80), "{}", printed(&help.stdout));
    }
    assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
}

#[test]
fn the_help_of_a_command_on_the_authority_has_an_example_and_its_exit_codes() {
    for command in [&["authority"][..], &["authority", "show"], &["authority", "rotate"]] {
        let output = run(&[command, &["--help"]].concat());
        let help = printed(&output.stdout);
        assert!(help.contains("Example") && help.contains(&format!(" bonafide {}", command.join(" "))), "{help}");
        assert!(help.contains("Exit codes: "), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
    }
}

#[test]
fn version_names_the_standards() {
    let version: serde_json::Value = serde_json::from_slice(&run(&["version", "-o", "json"]).stdout).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert!(version["standards"].as_array().unwrap().len() >= 5);
}
