//! The files that are shipped beside the binary: the reference configuration and the unit.

use std::path::Path;
use std::process::Command;

const MOST_EXPOSED: f64 = 1.5;

/// Settings under which the daemon sees only its own users and processes.
const BLINDING: [&str; 3] = ["DynamicUser", "PrivateUsers", "PrivatePIDs"];

#[test]
fn the_reference_configuration_is_accepted_without_a_warning() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/bonafide.toml");
    let (config, _) = bonafide::agent::config::load(&file).unwrap_or_else(|findings| panic!("{findings:?}"));
    assert_eq!(config.warnings, [], "the reference configuration warns");
    assert_eq!(config.entries.len(), 2);
}

#[test]
fn the_reference_configuration_names_every_key() {
    let text = include_str!("../../examples/bonafide.toml");
    for key in [
        "trust_domain",
        "include",
        "socket",
        "mode",
        "group",
        "kind",
        "data_dir",
        "ca_ttl",
        "x509_ttl",
        "jwt_ttl",
        "key_type",
        "jwt_alg",
        "minimum",
        "wait",
        "connections",
        "connections_per_caller",
        "streams_per_connection",
        "first_request",
        "idle",
        "listen",
        "format",
        "level",
        "bundle_file",
        "id",
        "selectors",
        "dns",
        "audiences",
        "federates_with",
        "hint",
        "priority",
    ] {
        let named = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
        assert!(text.lines().any(named), "{key}");
    }
}

/// Writes the unit under its own name, with the path of the tests' binary.
fn unit_in(folder: &Path) -> std::path::PathBuf {
    let unit = include_str!("../../systemd/bonafide.service");
    let path = folder.join("bonafide.service");
    std::fs::write(&path, unit.replace("/usr/bin/bonafide", env!("CARGO_BIN_EXE_bonafide"))).unwrap();
    path
}

fn systemd_analyze(test: &str, arguments: &[&str]) -> Option<String> {
    match Command::new("systemd-analyze").args(arguments).env("SYSTEMD_COLORS", "0").output() {
        Ok(output) => {
            let printed = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success(), "{printed}");
            Some(printed)
        }
        Err(error) => {
            eprintln!("skipped: {test}: systemd-analyze: {error}");
            None
        }
    }
}

#[test]
fn systemd_analyze_verifies_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let unit = unit_in(folder.path());
    let arguments = ["verify", "--man=no", unit.to_str().unwrap()];
    if let Some(printed) = systemd_analyze("systemd_analyze_verifies_the_unit", &arguments) {
        let about_it: Vec<_> = printed.lines().filter(|line| line.contains("bonafide")).collect();
        assert!(about_it.is_empty(), "{about_it:?}");
    }
}

#[test]
fn the_unit_makes_and_keeps_the_directories_of_the_default_sockets() {
    let unit = include_str!("../../systemd/bonafide.service");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "trust_domain = \"example.org\"\n").unwrap();
    let (config, _) = bonafide::agent::config::load(file.path()).unwrap();
    let setting = |name: &str| unit.lines().find_map(|line| line.strip_prefix(&format!("{name}="))).unwrap();
    let made: Vec<_> = setting("RuntimeDirectory").split(' ').map(|name| Path::new("/run").join(name)).collect();
    let sockets = [config.workload_api.socket, config.admin.socket];
    assert_eq!(made, sockets.map(|socket| socket.parent().unwrap().to_owned()));
    assert_eq!((setting("RuntimeDirectoryMode"), setting("RuntimeDirectoryPreserve")), ("0755", "yes"));
}

#[test]
fn the_unit_leaves_users_and_processes_visible() {
    let unit = include_str!("../../systemd/bonafide.service");
    let settings: Vec<_> = unit.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    assert!(settings.contains(&"ProtectSystem"), "the unit was not parsed");
    for setting in BLINDING {
        assert!(!settings.contains(&setting), "{setting}");
    }
}

#[test]
fn the_unit_stays_below_the_promised_exposure_level() {
    let folder = tempfile::tempdir().unwrap();
    let unit = unit_in(folder.path());
    let arguments = ["security", "--offline=true", "--no-pager", unit.to_str().unwrap()];
    if let Some(printed) = systemd_analyze("the_unit_stays_below_the_promised_exposure_level", &arguments) {
        let overall = printed.lines().find(|line| line.contains("Overall exposure level")).unwrap();
        let exposure: f64 = overall.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
        assert!(exposure <= MOST_EXPOSED, "{printed}");
    }
}
