//! The house stands: no module reaches up, doors stay codecs, deciding stays pure.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

/// From the ground up; the order of `lib.rs` from the top down.
const FLOORS: &[&[&str]] = &[
    &["sys", "time", "randomness"],
    &["identity"],
    &["durable", "egress", "evidence", "readiness"],
    &["fairness"],
    &["audit", "platform", "registration"],
    &["attestation", "authority", "federation"],
    &["policy"],
    &["issuance"],
    &["entitlement"],
    &["exchange"],
    &["endpoints"],
    &["agent"],
    &["cli"],
];

/// Endpoints that are codecs, and all that a codec may name of the house.
const CODECS: &[&str] = &["endpoints/workload_api", "endpoints/sds", "endpoints/broker"];
const CODEC_WORDS: &[&str] = &["endpoints", "entitlement", "identity", "readiness", "time"];

/// Files that decide. They see no clock, no file, no socket and no runtime.
const PURE: &[&str] = &[
    "agent/config/overlap",
    "agent/config/reader",
    "agent/config/sections/",
    "agent/config/workload",
    "attestation/host/",
    "endpoints/transport/authority_filter",
    "endpoints/transport/frames",
    "entitlement/machine",
    "entitlement/published",
    "evidence/",
    "federation/foreign_bundles",
    "identity/",
    "issuance/renewal",
    "policy/",
    "registration/entry",
];
const IMPURE_WORDS: &[&str] =
    &["tokio::", "std::fs", "std::net", "std::os::unix::net", "SystemTime::now", "Instant::now", "rustix::", "nix::"];

struct Source {
    file: String,
    text: String,
}

impl Source {
    /// The module of the house that this file belongs to: its first folder, or its own name at the top.
    fn module(&self) -> &str {
        self.file.split(['/', '.']).next().unwrap_or_default()
    }

    /// The code before its tests.
    fn code(&self) -> &str {
        self.text.split("#[cfg(test)]").next().unwrap_or_default()
    }

    fn modules_named(&self) -> impl Iterator<Item = &str> {
        self.code()
            .split("crate::")
            .skip(1)
            .map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default())
    }
}

fn sources() -> Vec<Source> {
    fn walk(folder: &Path, root: &Path, found: &mut Vec<Source>) {
        let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                walk(&path, root, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.push(Source { file, text: fs::read_to_string(&path).unwrap() });
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    found.retain(|source| source.file != "lib.rs" && source.file != "main.rs");
    assert!(found.len() > 10, "the walk found only {} files", found.len());
    found
}

fn floor(module: &str) -> usize {
    FLOORS.iter().position(|floor| floor.contains(&module)).unwrap_or_else(|| panic!("{module:?} is on no floor"))
}

#[test]
fn every_module_uses_only_the_floors_below_it() {
    let mut reaching_up = Vec::new();
    for source in sources() {
        let module = source.module();
        for used in source.modules_named() {
            if used != module && floor(used) >= floor(module) {
                reaching_up.push(format!("{}: {module} may not use {used}", source.file));
            }
        }
    }
    assert!(reaching_up.is_empty(), "{}", reaching_up.join("\n"));
}

#[test]
fn imports_are_written_so_that_floors_can_be_read() {
    let grouped: Vec<_> = sources()
        .into_iter()
        .filter(|source| source.text.contains("crate::{") || source.text.contains("super::super"))
        .map(|source| source.file)
        .collect();
    assert!(grouped.is_empty(), "one `use crate::a::B;` per line, and never super::super: {grouped:?}");
}

#[test]
fn a_codec_names_only_what_a_door_may_know() {
    let mut knowing_too_much = Vec::new();
    for source in sources().iter().filter(|source| CODECS.iter().any(|codec| source.file.starts_with(codec))) {
        for used in source.modules_named().filter(|used| !CODEC_WORDS.contains(used)) {
            knowing_too_much.push(format!("{} may not name {used}", source.file));
        }
    }
    assert!(knowing_too_much.is_empty(), "{}", knowing_too_much.join("\n"));
}

#[test]
fn what_decides_is_pure() {
    let sources = sources();
    let nothing: Vec<_> =
        PURE.iter().filter(|pure| !sources.iter().any(|source| source.file.starts_with(**pure))).collect();
    assert!(nothing.is_empty(), "no file has these names any more: {nothing:?}");
    let mut impure = Vec::new();
    for source in sources.iter().filter(|source| PURE.iter().any(|pure| source.file.starts_with(pure))) {
        for word in IMPURE_WORDS.iter().filter(|word| source.code().contains(**word)) {
            impure.push(format!("{} names {word}", source.file));
        }
    }
    assert!(impure.is_empty(), "{}", impure.join("\n"));
}
