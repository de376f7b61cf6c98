//! One function per parser of external input. Each has an oracle: a property of the result that holds for every input.
//! The fuzzers and the replay of their corpus share them.

use std::collections::BTreeSet;
use std::time::Duration;
use std::time::SystemTime;

use bonafide::agent::config::Config;
use bonafide::agent::config::files::SourceFile;
use bonafide::agent::config::files::Sources;
use bonafide::attestation::host::cgroup::CgroupKind;
use bonafide::attestation::host::cgroup::Cgroups;
use bonafide::attestation::host::stat::Stat;
use bonafide::attestation::host::status::Status;
use bonafide::endpoints::transport::http2::authority_filter::AuthorityFilter;
use bonafide::endpoints::transport::http2::authority_filter::Violation;
use bonafide::evidence::AccountName;
use bonafide::evidence::Selector;
use bonafide::identity::Bundle;
use bonafide::identity::SpiffeId;
use bonafide::identity::SubjectPrefix;
use bonafide::identity::jose::jws;
use bonafide::identity::x509_names::subject::is_subject_of;
use bonafide::names::databases::Databases;

type Target = fn(&[u8]);

/// Every target by its name, which is also the name of its corpus.
pub(crate) const TARGETS: &[(&str, Target)] = &[
    ("account_database", account_database),
    ("authority_filter", authority_filter),
    ("bundle", bundle),
    ("cgroup", cgroup),
    ("configuration", configuration),
    ("jwt", jwt),
    ("proc_stat", proc_stat),
    ("proc_status", proc_status),
    ("selector", selector),
    ("spiffe_id", spiffe_id),
    ("subject", subject),
];

/// Runs the target called `name` on `input`.
pub(crate) fn run(name: &str, input: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of this name");
    target(input);
}

/// A user has the id of the first whole line with that name, as a naive reading has it, and is no group.
fn account_database(input: &[u8]) {
    let databases = Databases::parse(input, b"", Some(input));
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut seen = BTreeSet::new();
    for line in text.split('\n') {
        let fields: Vec<_> = line.split(':').collect();
        let [name, _, id, _, ..] = fields[..] else { continue };
        let is_number = !id.is_empty() && id.chars().all(|digit| digit.is_ascii_digit());
        let id = id.parse::<u32>().ok().filter(|_| is_number && !name.is_empty() && !name.starts_with(['+', '-', '#']));
        if id.is_some() && seen.insert(name) {
            assert_eq!(databases.id_of(&AccountName::User(name.into())), id, "{line:?}");
        }
        assert_eq!(databases.id_of(&AccountName::Group(name.into())), None);
    }
}

/// The output does not depend on the chunks, filtered output passes again unchanged, and it grows by at most the ratio
/// of Huffman coding.
fn authority_filter(input: &[u8]) {
    let Some((cut, bytes)) = input.split_first() else { return };
    let whole = filtered(&[bytes]);
    let pieces: Vec<_> = bytes.chunks(usize::from(*cut).max(1)).collect();
    assert_eq!(whole, filtered(&pieces), "cut every {cut} bytes");
    let Ok(output) = whole else { return };
    assert!(output.len() <= bytes.len() * 8 / 5 + 16, "{} bytes became {}", bytes.len(), output.len());
    assert_eq!(filtered(&[&output]).as_ref(), Ok(&output));
}

fn filtered(pieces: &[&[u8]]) -> Result<Vec<u8>, Violation> {
    let (mut filter, mut output) = (AuthorityFilter::default(), Vec::new());
    pieces.iter().try_for_each(|piece| filter.feed(piece, &mut output).map(drop))?;
    Ok(output)
}

/// The parser accepts exactly the SPIFFE IDs of a naive reading of the standard, and changes none.
fn spiffe_id(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let parsed = text.parse::<SpiffeId>();
    assert_eq!(parsed.is_ok(), is_spiffe_id(text), "{text:?} gave {parsed:?}");
    if let Ok(id) = parsed {
        assert_eq!(id.as_str(), text);
        assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
    }
}

fn is_spiffe_id(text: &str) -> bool {
    let mut parts = text.split('/');
    let scheme = parts.next() == Some("spiffe:") && parts.next() == Some("");
    let name = parts.next().unwrap_or_default();
    let name = (1..=255).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b));
    let path: Vec<_> = parts.collect();
    let path = !path.is_empty()
        && path.iter().all(|segment| {
            !["", ".", ".."].contains(segment)
                && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
        });
    scheme && name && path && text.len() <= 2048
}

/// An accepted selector has one spelling, and no character that could forge a log line.
fn selector(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(selector) = text.parse::<Selector>() else { return };
    assert_eq!(selector.to_string(), text);
    assert!(text.starts_with(selector.kind().as_str()));
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

/// As a text: an accepted subject is printed as itself, and the linter takes its encoding. As an encoding: the linter
/// takes none without the common name.
fn subject(input: &[u8]) {
    if let Some(prefix) = std::str::from_utf8(input).ok().and_then(|text| text.parse::<SubjectPrefix>().ok()) {
        assert_eq!(prefix.to_string().parse(), Ok(prefix.clone()));
        assert!(!prefix.to_string().contains(char::is_control), "{prefix}");
        for dns in [&[][..], &["*.web.internal"], &["web", "db"]] {
            assert!(is_subject_of(&prefix.subject(dns), dns), "{prefix}");
        }
        assert!(!is_subject_of(&prefix.subject(&["db"]), &["web"]), "{prefix}");
    }
    if is_subject_of(input, &["web.internal"]) {
        assert!(input.ends_with(b"\x0c\x0cweb.internal"), "{input:?}");
    }
}

const STATUS: &str =
    "Name:\tNAME\nState:\tS (sleeping)\nTgid:\t4711\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \n";
const STAT: &str = " S 1 4711 4711 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 2 3 4 5 6 140721111 0 0 0 0 0 0 0 0 0 17 1 0 0 \
                    0 0 0 8 9 10 11 12 13 14 0\n";

/// As a whole file: the uids come from a line of their own. As a process name: it changes no field.
fn proc_status(input: &[u8]) {
    if let Ok(status) = Status::parse(input) {
        let uids = status.uids;
        let line = format!("Uid:\t{}\t{}\t{}\t{}", uids.real, uids.effective, uids.saved, uids.fs);
        let as_the_kernel_spells = |text: &[u8]| {
            let numbers = text.strip_prefix(b"Uid:\t").map(|ids| ids.split(|byte| *byte == b'\t'));
            numbers.map(|ids| ids.map(without_zeros).collect::<Vec<_>>().join(&b'\t'))
        };
        let lines: Vec<_> = input.split(|byte| *byte == b'\n').filter_map(as_the_kernel_spells).collect();
        assert_eq!(lines, [&line.as_bytes()[5..]]);
    }
    // The kernel writes line feeds and backslashes in a name as escapes.
    let name = String::from_utf8_lossy(input).replace('\\', "\\\\").replace('\n', "\\n");
    if name.len() < 1024 {
        assert_eq!(Status::parse(STATUS.replace("NAME", &name).as_bytes()), Status::parse(STATUS.as_bytes()));
    }
}

fn without_zeros(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    &digits[zeros.min(digits.len().saturating_sub(1))..]
}

/// As a whole file: it is read or refused. As a process name, which `stat` does not escape: it changes no field.
fn proc_stat(input: &[u8]) {
    let _any_bytes = Stat::parse(input);
    if input.len() < 1024 {
        let named = |name: &[u8]| Stat::parse(&[b"4711 (", name, b")", STAT.as_bytes()].concat());
        assert_eq!(named(input), named(b"sh"));
        assert!(named(input).is_ok());
    }
}

/// As a whole file: the deciding path is that of a line. As a cgroup below a service: it is never another service.
fn cgroup(input: &[u8]) {
    if let Ok(lines) = Cgroups::parse(input)
        && let Some((path, _)) = lines.deciding()
    {
        let text = String::from_utf8_lossy(input);
        assert!(text.split('\n').any(|line| line.splitn(3, ':').nth(2) == Some(path)) || path == "/", "{path:?}");
        let _any_verdict = lines.group(path, "");
    }
    let below = String::from_utf8_lossy(input);
    match CgroupKind::of(&format!("/system.slice/web.service/{below}"), "") {
        CgroupKind::Unit { id, slice } => assert_eq!((&*id, &*slice), ("web.service", "system.slice")),
        CgroupKind::Container { .. } => {}
        CgroupKind::Plain => panic!("a service left its unit by {below:?}"),
    }
}

/// A bundle equals itself after it is written and read again, and then no key in it is ignored.
fn bundle(input: &[u8]) {
    let trust_domain = || "example.org".parse().expect("a trust domain");
    let Ok((bundle, _)) = Bundle::from_document(trust_domain(), input) else { return };
    let (again, ignored) =
        Bundle::from_spiffe_json(trust_domain(), &bundle.to_spiffe_json()).expect("what we write, we read");
    assert_eq!(again, bundle);
    assert!(ignored.is_empty(), "{ignored:?}");
}

/// An accepted configuration has valid entries; a refused one has problems whose positions exist.
fn configuration(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let source = SourceFile { file: "bonafide.toml".into(), text: text.to_owned() };
    match Config::from_sources(&Sources { files: vec![source], folders: Vec::new() }) {
        Ok(config) => {
            for entry in &config.entries {
                assert!(entry.id.is_member_of(&config.trust_domain), "{entry:?}");
                assert!(entry.accept_weak || entry.selectors.iter().any(Selector::is_strong), "{entry:?}");
                assert!(!entry.selectors.is_empty() && entry.selectors.is_sorted(), "{entry:?}");
                assert!(entry.terms.x509_ttl.min(entry.terms.jwt_ttl) >= Duration::from_secs(10), "{entry:?}");
            }
        }
        Err(findings) => {
            assert!(!findings.problems.is_empty());
            for problem in &findings.problems {
                assert!(!problem.to_string().contains(char::is_control), "{problem:?}");
                let Some(place) = problem.position else { continue };
                let line = text.split('\n').nth(place.line as usize - 1);
                assert!(line.is_some_and(|line| place.column as usize <= line.chars().count() + 1), "{problem:?}");
            }
        }
    }
}

const KEY: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"k","use":"jwt-svid",
    "x":"-evkZBR8wQLZIyTQmdknwaUOQtV6CKEW_-wKKYGdjGU","y":"cLr30SiIkCpqDB1nrdEDEjyFmrab-OlDHJOEkw1Lfu4"}]}"#;
/// The only header and claims that were signed with the key: `sub` spiffe://example.org/web, `aud` ledger.
const SIGNED: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImsiLCJ0eXAiOiJKV1QifQ.eyJzdWIiOiJzcGlmZmU6Ly9leGFtcGxlLm9yZy93ZWIiLC\
                      JhdWQiOlsibGVkZ2VyIl0sImV4cCI6NDEwMjQ0NDgwMCwiaWF0IjoxNzAwMDAwMDAwLCJqdGkiOiJqIn0.";

/// Only the signed token is valid.
fn jwt(input: &[u8]) {
    let Ok(token) = std::str::from_utf8(input) else { return };
    let (bundle, _) =
        Bundle::from_spiffe_json("example.org".parse().expect("a trust domain"), KEY.as_bytes()).expect("a bundle");
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    if jws::verify(token, "ledger", |_| Some(&bundle), now).is_ok() {
        assert!(token.starts_with(SIGNED), "{token}");
    }
}
