//! The files that are shipped beside the binary hold what they promise.

use std::path::Path;
use std::process::Command;

const MOST_EXPOSED: f64 = 1.5;

/// Settings under which the daemon sees no users and processes but its own.
const UNBEARABLE: [&str; 3] = ["DynamicUser", "PrivateUsers", "PrivatePIDs"];

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

/// The unit with the binary's path put where the tests have it, and the file's name as the unit's.
fn unit_in(folder: &Path) -> std::path::PathBuf {
    let unit = include_str!("../../systemd/bonafide.service");
    let path = folder.join("bonafide.service");
    std::fs::write(&path, unit.replace("/usr/bin/bonafide", env!("CARGO_BIN_EXE_bonafide"))).unwrap();
    path
}

fn systemd_analyze(test: &str, arguments: &[&str]) -> Option<String> {
    match Command::new("systemd-analyze").args(arguments).env("SYSTEMD_COLORS", "0").output() {
        Ok(output) => {
            let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success(), "{said}");
            Some(said)
        }
        Err(error) => {
            eprintln!("skipped: {test}: systemd-analyze: {error}");
            None
        }
    }
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    let folder = tempfile::tempdir().unwrap();
    let unit = unit_in(folder.path());
    let arguments = ["verify", "--man=no", unit.to_str().unwrap()];
    if let Some(said) = systemd_analyze("the_unit_is_one_that_systemd_takes", &arguments) {
        let about_it: Vec<_> = said.lines().filter(|line| line.contains("bonafide")).collect();
        assert!(about_it.is_empty(), "{about_it:?}");
    }
}

#[test]
fn the_unit_does_not_blind_the_daemon() {
    let unit = include_str!("../../systemd/bonafide.service");
    let settings: Vec<_> = unit.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    assert!(settings.contains(&"ProtectSystem"), "it is read");
    for setting in UNBEARABLE {
        assert!(!settings.contains(&setting), "{setting}");
    }
}

#[test]
fn the_unit_exposes_no_more_than_promised() {
    let folder = tempfile::tempdir().unwrap();
    let unit = unit_in(folder.path());
    let arguments = ["security", "--offline=true", "--no-pager", unit.to_str().unwrap()];
    if let Some(said) = systemd_analyze("the_unit_exposes_no_more_than_promised", &arguments) {
        let overall = said.lines().find(|line| line.contains("Overall exposure level")).unwrap();
        let exposure: f64 = overall.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
        assert!(exposure <= MOST_EXPOSED, "{said}");
    }
}
