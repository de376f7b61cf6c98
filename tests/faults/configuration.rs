//! Bad configurations: each is refused with every problem in it, and none makes the reader panic.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;

use bonafide::agent::config::Accepted;
use bonafide::agent::config::Config;
use bonafide::agent::config::MAX_ENTRIES;
use bonafide::agent::config::files::SourceFile;
use bonafide::agent::config::files::Sources;
use bonafide::agent::config::load;
use bonafide::agent::config::problem::Findings;
use proptest::prelude::*;
use tempfile::TempDir;

/// The corpus: for each case `== name`, a configuration, `--`, and the exact messages for the operator.
const CORPUS: &str = include_str!("configurations.txt");

/// Every key of the contract that this version has.
const WHOLE: &str = r#"
trust_domain = "example.org"
include = ["entries.d/*.toml"]
[workload_api]
socket = "/run/bonafide/workload.sock"
mode = "0660"
[admin]
socket = "/run/bonafide-admin/admin.sock"
group = "root"
[authority]
kind = "embedded"
data_dir = "/var/lib/bonafide"
ca_ttl = "168h"
[svid]
x509_ttl = "1h"
jwt_ttl = "5m"
key_type = "ec-p256"
jwt_alg = "ES256"
subject = "O=Example,C=DE"
[attest]
minimum = "pinned"
wait = "7s"
[limits]
connections = 8000
connections_per_caller = 1024
streams_per_connection = 100
first_request = "5s"
idle = "2m"
[health]
listen = "127.0.0.1:8090"
[metrics]
listen = "unix:/run/bonafide/metrics.sock"
[log]
format = "json"
level = "debug"
[[federation]]
trust_domain = "partner.example"
bundle_file = "partner.json"
[[workload]]
id = "/payments/api"
selectors = ["systemd:id:payments.service", "unix:user:root"]
x509_ttl = "30m"
jwt_ttl = "6m"
key_type = "ec-p256"
jwt_alg = "ES256"
dns = ["payments.internal", "*.payments.internal"]
audiences = ["ledger"]
federates_with = ["partner.example"]
hint = "internal"
priority = 10
accept_weak = false
"#;

fn read(texts: &[(&str, &str)]) -> Result<Config, Findings> {
    let files = texts.iter().map(|(file, text)| SourceFile { file: file.into(), text: (*text).to_owned() }).collect();
    Config::from_sources(&Sources { files, folders: Vec::new() })
}

fn in_words(result: &Result<Config, Findings>) -> String {
    match result {
        Ok(config) => {
            config.warnings.iter().fold("accepted".to_owned(), |words, warning| format!("{words}\n{warning}"))
        }
        Err(findings) => findings.to_string(),
    }
}

#[test]
fn every_bad_configuration_gets_exactly_the_messages_of_the_corpus() {
    let mut actual = String::new();
    for case in CORPUS.split("== ").skip(1) {
        let (name, rest) = case.split_once('\n').unwrap();
        let (text, _) = rest.split_once("--\n").unwrap();
        let words = in_words(&read(&[("bonafide.toml", text)]));
        actual.push_str(&format!("== {name}\n{text}--\n{words}\n"));
    }
    if actual != CORPUS {
        let differs = std::env::temp_dir().join("configurations.txt");
        fs::write(&differs, &actual).unwrap();
        panic!("diff tests/faults/configurations.txt {}", differs.display());
    }
}

#[test]
fn every_key_that_this_version_has_is_read() {
    let config = read(&[("/etc/bonafide/bonafide.toml", WHOLE)]).unwrap();
    assert_eq!(config.workload_api.mode, 0o660);
    assert_eq!(config.limits.idle.as_secs(), 120);
    assert_eq!(config.rules().wait.as_secs(), 7);
    assert_eq!(config.federation[0].bundle_file, Path::new("/etc/bonafide/partner.json"));
    let entry = &config.entries[0];
    assert_eq!(entry.id.as_str(), "spiffe://example.org/payments/api");
    assert_eq!(entry.terms.subject.to_string(), "O=Example,C=DE");
    assert_eq!(entry.terms.dns, ["payments.internal", "*.payments.internal"]);
    assert_eq!((entry.terms.x509_ttl.as_secs(), entry.terms.jwt_ttl.as_secs()), (1800, 360));
    assert_eq!(entry.origin.to_string(), "/etc/bonafide/bonafide.toml:39");
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn an_admin_socket_beside_the_workload_socket_is_a_warning() {
    let text = WHOLE.replace("/run/bonafide-admin/", "/run/bonafide/");
    let [warning] = &read(&[("b.toml", &text)]).unwrap().warnings[..] else { panic!() };
    assert!(warning.to_string().contains("give it a directory of its own"), "{warning}");
}

#[test]
fn a_configuration_of_one_line_has_the_defaults() {
    let config = read(&[("b.toml", "trust_domain = \"example.org\"\n")]).unwrap();
    assert_eq!(config.admin.socket, Path::new("/run/bonafide-admin/admin.sock"));
    assert_eq!(config.workload_api.mode, 0o666);
    assert_eq!(config.authority.ca_ttl.as_secs(), 168 * 3600);
    assert_eq!(config.rules().wait.as_secs(), 5);
    assert_eq!((config.health, config.metrics), (None, None));
}

#[test]
fn a_truncated_configuration_is_refused_or_means_less() {
    for end in 0..WHOLE.len() {
        let Ok(cut) = read(&[("b.toml", &WHOLE[..end])]) else { continue };
        assert!(cut.entries.len() <= 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_configuration_with_changed_bytes_never_panics(
        changes in prop::collection::vec((0..WHOLE.len(), any::<u8>()), 1..8),
    ) {
        let mut bytes = WHOLE.as_bytes().to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Err(findings) = read(&[("b.toml", &text)]) {
            prop_assert!(!findings.problems.is_empty());
        }
    }
}

#[test]
fn a_hundred_thousand_entries_are_read_and_one_more_is_refused() {
    let entry = |n| format!("[[workload]]\nid = \"/e{n}\"\nselectors = [\"unix:uid:{n}\"]\n");
    let entries = |count| format!("trust_domain = \"a\"\n{}", (0..count).map(entry).collect::<String>());
    assert_eq!(read(&[("b.toml", &entries(MAX_ENTRIES))]).unwrap().entries.len(), MAX_ENTRIES);
    let words = in_words(&read(&[("b.toml", &entries(MAX_ENTRIES + 1))]));
    assert!(words.ends_with("100001 entries; at most 100000 are allowed"), "{words}");
}

#[test]
fn problems_beyond_those_listed_are_counted() {
    let text = "[[workload]]\nid = \"web\"\nselectors = [\"unix:uid:1\"]\n".repeat(300);
    let words = in_words(&read(&[("b.toml", &format!("trust_domain = \"a\"\n{text}"))]));
    assert!(words.ends_with("\n… and 100 more"), "{words}");
}

#[test]
fn an_included_file_adds_entries_and_federation_and_nothing_else() {
    let main = "trust_domain = \"example.org\"\n";
    let entry = "[[workload]]\nid = \"/web\"\nselectors = [\"unix:uid:1\"]\nfederates_with = [\"b.example\"]\n";
    let foreign = "[[federation]]\ntrust_domain = \"b.example\"\nbundle_file = \"b.json\"\n";
    let config = read(&[("b.toml", main), ("d/1.toml", entry), ("d/2.toml", foreign)]).unwrap();
    assert_eq!((config.entries.len(), config.federation.len()), (1, 1));
    assert_eq!(config.federation[0].bundle_file, Path::new("d/b.json"));
    let more = "include = [\"*.toml\"]\n[svid]\nx509_ttl = \"1h\"\n";
    assert_eq!(
        in_words(&read(&[("b.toml", main), ("d/1.toml", more)])),
        "d/1.toml:1:1: include belongs in the main file; move it there\n\
         d/1.toml:2:2: svid belongs in the main file; move it there"
    );
}

#[test]
fn only_settings_that_are_fixed_at_the_start_need_a_restart() {
    let old = read(&[("b.toml", WHOLE)]).unwrap();
    let with = |from: &str, to: &str| read(&[("b.toml", &WHOLE.replace(from, to))]).unwrap();
    assert_eq!(old.restart_needed(&with("example.org", "example.net")), ["trust_domain"]);
    assert_eq!(old.restart_needed(&with("lib/bonafide", "lib/other")), ["authority"]);
    assert!(old.restart_needed(&with("168h", "100h")).is_empty());
    assert_eq!(old.restart_needed(&with("workload.sock", "w.sock")), ["workload_api"]);
    assert_eq!(old.restart_needed(&with("admin.sock", "a.sock")), ["admin"]);
    assert_eq!(old.restart_needed(&with("8090", "8091")), ["health"]);
    assert_eq!(old.restart_needed(&with("metrics.sock", "m.sock")), ["metrics"]);
    assert!(old.restart_needed(&with("x509_ttl = \"30m\"", "x509_ttl = \"20m\"")).is_empty());
    assert!(old.restart_needed(&with("minimum = \"pinned\"", "minimum = \"full\"")).is_empty());
    assert!(old.restart_needed(&with("idle = \"2m\"", "idle = \"3m\"")).is_empty());
    assert!(old.restart_needed(&with("level = \"debug\"", "level = \"info\"")).is_empty());
    assert!(old.restart_needed(&with("wait = \"7s\"", "wait = \"0s\"")).is_empty());
}

/// A directory that only its owner can write, with a main file of this text.
fn folder(text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let main = folder.path().join("bonafide.toml");
    write(&main, text, 0o644);
    (folder, main)
}

fn write(file: &Path, text: &str, mode: u32) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
}

/// The messages of `load`, without the directory's name.
fn loaded(folder: &TempDir, main: &Path) -> String {
    let words = load(main).map_or_else(|findings| findings.to_string(), |_| "accepted".to_owned());
    words.replace(&format!("{}/", folder.path().display()), "")
}

const MAIN: &str = "include = [\"entries.d/*.toml\"]\ntrust_domain = \"example.org\"\n";

fn entry(id: &str) -> String {
    format!("[[workload]]\nid = \"{id}\"\nselectors = [\"unix:uid:1\", \"unix:user:root\"]\n")
}

#[test]
fn included_files_are_read_in_name_order_without_editor_files() {
    let (folder, main) = folder(MAIN);
    let entries = folder.path().join("entries.d");
    fs::create_dir(&entries).unwrap();
    for name in ["20-b.toml", "10-a.toml", ".hidden.toml", "10-a.toml~", "30-c.txt"] {
        write(&entries.join(name), &entry(&format!("/{}", name.trim_end_matches('~'))), 0o644);
    }
    let (config, accepted) = load(&main).unwrap();
    let ids: Vec<_> = config.entries.iter().map(|entry| entry.id.path()).collect();
    assert_eq!(ids, ["/10-a.toml", "/20-b.toml"]);
    assert_eq!(accepted.sources.folders, [folder.path(), &entries]);
}

#[test]
fn an_include_pattern_may_match_nothing_and_a_named_file_must_exist() {
    let (folder, main) = folder(MAIN);
    assert_eq!(loaded(&folder, &main), "accepted");
    fs::write(&main, "include = [\"more.toml\"]\ntrust_domain = \"example.org\"\n").unwrap();
    assert_eq!(
        loaded(&folder, &main),
        "more.toml: cannot be read: No such file or directory (os error 2); write it, or give the name of one that is there"
    );
}

#[test]
fn a_missing_configuration_is_refused_with_its_name() {
    let (folder, main) = folder(MAIN);
    fs::remove_file(&main).unwrap();
    assert_eq!(
        loaded(&folder, &main),
        "bonafide.toml: cannot be read: No such file or directory (os error 2); write it, or give the name of one that is there"
    );
}

#[test]
fn a_file_that_others_can_write_is_refused_wherever_it_is() {
    let (folder, main) = folder(MAIN);
    fs::create_dir(folder.path().join("entries.d")).unwrap();
    write(&folder.path().join("entries.d/a.toml"), &entry("/a"), 0o646);
    assert_eq!(
        loaded(&folder, &main),
        "entries.d/a.toml: it can be written by everybody (mode 0646); run: chmod o-w entries.d/a.toml"
    );
    write(&main, MAIN, 0o666);
    assert_eq!(
        loaded(&folder, &main),
        "bonafide.toml: it can be written by everybody (mode 0666); run: chmod o-w bonafide.toml"
    );
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    let (folder, main) = folder(MAIN);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let printed = loaded(&folder, &main);
    assert!(printed.starts_with("bonafide.toml: ") && printed.contains("can be written by everybody"), "{printed}");
    assert!(printed.ends_with(&format!("chmod o-w {}", folder.path().display())), "{printed}");
}

#[test]
fn a_directory_above_that_others_can_write_is_refused() {
    let (folder, _) = folder(MAIN);
    fs::create_dir(folder.path().join("below")).unwrap();
    let main = folder.path().join("below/bonafide.toml");
    write(&main, MAIN, 0o644);
    assert_eq!(loaded(&folder, &main), "accepted");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let printed = loaded(&folder, &main);
    assert!(printed.contains("can be written by everybody (mode 0777); run: chmod o-w"), "{printed}");
    assert!(printed.ends_with(&folder.path().display().to_string()), "{printed}");
}

#[test]
fn a_symlink_is_judged_by_its_target_and_every_directory_on_the_way() {
    let (folder, main) = folder(MAIN);
    let target = folder.path().join("real.toml");
    fs::rename(&main, &target).unwrap();
    symlink(&target, &main).unwrap();
    assert_eq!(loaded(&folder, &main), "accepted");
    fs::set_permissions(&target, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(
        loaded(&folder, &main),
        "bonafide.toml: real.toml can be written by everybody (mode 0666); run: chmod o-w real.toml"
    );
    let elsewhere = tempfile::tempdir().unwrap();
    write(&elsewhere.path().join("real.toml"), MAIN, 0o644);
    fs::remove_file(&main).unwrap();
    symlink(elsewhere.path().join("real.toml"), &main).unwrap();
    assert_eq!(loaded(&folder, &main), "accepted");
    fs::set_permissions(elsewhere.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let printed = loaded(&folder, &main);
    assert!(printed.ends_with(&format!("chmod o-w {}", elsewhere.path().display())), "{printed}");
}

#[test]
fn an_included_folder_behind_a_link_is_judged_where_it_is() {
    let (folder, main) = folder(MAIN);
    let elsewhere = tempfile::tempdir().unwrap();
    write(&elsewhere.path().join("a.toml"), &entry("/a"), 0o644);
    symlink(elsewhere.path(), folder.path().join("entries.d")).unwrap();
    assert_eq!(loaded(&folder, &main), "accepted");
    fs::set_permissions(elsewhere.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let printed = loaded(&folder, &main);
    assert!(printed.starts_with("entries.d/a.toml: "), "{printed}");
    assert!(printed.ends_with(&format!("chmod o-w {}", elsewhere.path().display())), "{printed}");
}

#[test]
fn a_file_of_another_user_is_refused() {
    let (folder, main) = folder(MAIN);
    if std::os::unix::fs::chown(&main, Some(12345), None).is_err() {
        eprintln!("skipped: a_file_of_another_user_is_refused: needs root");
        return;
    }
    let words = loaded(&folder, &main);
    assert!(
        words.starts_with("bonafide.toml: it belongs to uid 12345, and has to belong to root or to uid 0"),
        "{words}"
    );
}

#[test]
fn a_fifo_or_directory_as_configuration_is_refused_at_once() {
    let (folder, main) = folder(MAIN);
    fs::remove_file(&main).unwrap();
    nix::unistd::mkfifo(&main, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(loaded(&folder, &main), "bonafide.toml: it is not a regular file; put one in its place");
    fs::remove_file(&main).unwrap();
    fs::create_dir(&main).unwrap();
    assert_eq!(loaded(&folder, &main), "bonafide.toml: it is not a regular file; put one in its place");
}

#[test]
fn files_of_more_than_eight_mebibytes_together_are_refused() {
    let (folder, main) = folder(MAIN);
    fs::create_dir(folder.path().join("entries.d")).unwrap();
    let half = "# padding\n".repeat((4 << 20) / 10);
    write(&folder.path().join("entries.d/a.toml"), &half, 0o644);
    assert_eq!(loaded(&folder, &main), "accepted");
    write(&folder.path().join("entries.d/b.toml"), &half.repeat(2), 0o644);
    assert_eq!(
        loaded(&folder, &main),
        "entries.d/b.toml: the configuration has more than 8 MiB in all; make it shorter"
    );
}

#[test]
fn text_that_is_not_utf8_is_refused_with_its_line() {
    let (folder, main) = folder(MAIN);
    fs::write(&main, b"trust_domain = \"example.org\"\n# \xff\n").unwrap();
    assert_eq!(loaded(&folder, &main), "bonafide.toml: is not UTF-8 in line 2; TOML is");
}

#[test]
fn config_check_passes_on_a_machine_without_the_users_and_warns_of_each_at_its_place() {
    let (folder, main) = folder(
        "trust_domain = \"example.org\"\n[admin]\ngroup = \"no-such-group-here\"\n[[workload]]\nid = \"/web\"\n\
         selectors = [\"unix:user:no-such-user-here\", \"unix:user:root\"]\n",
    );
    assert_eq!(loaded(&folder, &main), "accepted");
    let output = config_check(&[main.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap().replace(&format!("{}/", folder.path().display()), "");
    let missing = "on this machine; this matches nobody until there is; create it, or write another";
    assert_eq!(
        text,
        format!(
            "bonafide.toml:3:9: warning: there is no group \"no-such-group-here\" {missing}\n\
             bonafide.toml:6:14: warning: there is no user \"no-such-user-here\" {missing}\n\
             bonafide.toml: fine, 1 entry\n"
        )
    );
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_stored_configuration_means_the_same_when_it_is_read_again() {
    let (_folder, main) = folder(&WHOLE.replace("example.org", "kept.example"));
    let (config, accepted) = load(&main).unwrap();
    fs::remove_file(&main).unwrap();
    let kept: Accepted = serde_json::from_slice(&serde_json::to_vec(&accepted).unwrap()).unwrap();
    assert_eq!(kept, accepted);
    assert_eq!(kept.config().unwrap(), config);
}

#[test]
fn the_reference_configuration_is_accepted_without_a_warning() {
    let config = read(&[("examples/bonafide.toml", include_str!("../../examples/bonafide.toml"))]).unwrap();
    assert!(!config.entries.is_empty());
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

fn config_check(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bonafide")).args(["config", "check"]).args(arguments).output().unwrap()
}

#[test]
fn config_check_prints_every_problem_and_exits_2() {
    let (folder, main) = folder("trust_domain = \"Acme\"\n[svid]\nx509_ttl = \"5s\"\njwt_ttl = \"1m\"\n");
    let output = config_check(&[main.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap().replace(&format!("{}/", folder.path().display()), "");
    assert_eq!(
        text,
        "bonafide.toml:4:11: warning: jwt_ttl is \"1m\": under 5m a short outage of the signer ends identities\n\
         bonafide.toml:1:16: trust_domain is \"Acme\": the trust domain has a capital letter 'A' at byte 0; write it in \
         lower case\n\
         bonafide.toml:3:12: x509_ttl is \"5s\"; must be at least 10s\n\
         bonafide.toml: 2 problems; the daemon would not take it\n"
    );
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn config_check_answers_programs_in_json() {
    let (_folder, main) = folder("trust_domain = \"example.org\"\n[svid]\nx509_tll = \"1h\"\n");
    let output = config_check(&[main.to_str().unwrap(), "-o", "json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["accepted"], false);
    assert_eq!(answer["problems"][0]["line"], 3);
    assert_eq!(answer["problems"][0]["column"], 1);
    assert_eq!(answer["problems"][0]["text"], "unknown key \"x509_tll\" in [svid]; did you mean \"x509_ttl\"?");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn config_check_of_a_good_file_exits_0() {
    let (_folder, main) = folder(MAIN);
    let output = config_check(&[main.to_str().unwrap()]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{}: fine, 0 entries\n", main.display()));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn config_check_warns_of_a_bundle_file_that_cannot_be_read() {
    let federation = "[[federation]]\ntrust_domain = \"b.example\"\nbundle_file = \"b.json\"\n";
    let (folder, main) = folder(&format!("{MAIN}{federation}"));
    let output = config_check(&[main.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap().replace(&format!("{}/", folder.path().display()), "");
    assert_eq!(
        text,
        "b.json: warning: gives no bundle of b.example, so no SVID of it verifies here: it cannot be read: No such file or \
         directory (os error 2)\nbonafide.toml: fine, 0 entries\n"
    );
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn config_check_warns_of_a_program_behind_a_link_and_exits_0() {
    let (folder, main) = folder("");
    let root = fs::canonicalize(folder.path()).unwrap();
    fs::write(root.join("payd-2.0"), "").unwrap();
    symlink("payd-2.0", root.join("payd")).unwrap();
    let selectors = format!("[\"unix:uid:1\", \"unix:path:{}/payd\"]", root.display());
    fs::write(&main, format!("{MAIN}[[workload]]\nid = \"/pay\"\nselectors = {selectors}\n")).unwrap();
    let output = config_check(&[main.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    let text = text.replace(root.to_str().unwrap(), "").replace(folder.path().to_str().unwrap(), "");
    assert_eq!(
        text,
        "/bonafide.toml:5:28: warning: selector \"unix:path:/payd\" matches nothing: its path leads through a link, and the \
         kernel shows the real one; write \"unix:path:/payd-2.0\"\n/bonafide.toml: fine, 1 entry\n"
    );
    assert_eq!(output.status.code(), Some(0));
}
