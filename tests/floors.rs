//! The house stands: no module reaches up, no two files use each other, doors stay codecs, deciding stays pure, and one
//! type has one name.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "floors/circles.rs"]
mod circles;
#[path = "floors/source.rs"]
mod source;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::circles::circles;
use crate::circles::uses;
use crate::source::Source;

/// From the ground up; the order of `lib.rs` from the top down. A room is built when something lives in it.
const FLOORS: &[&[&str]] = &[
    &["sys", "time", "randomness"],
    &["identity"],
    &["durable", "egress", "evidence", "file_watch", "readiness", "trusted_path"],
    &["fairness"],
    &["audit", "names", "platform", "registration"],
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
    "agent/config/reader",
    "agent/config/sections/",
    "agent/config/warnings/overlap",
    "agent/config/warnings/selectors",
    "agent/config/workload",
    "attestation/host/",
    "endpoints/transport/http2/authority_filter",
    "endpoints/transport/http2/frames",
    "entitlement/machine",
    "entitlement/published",
    "entitlement/steps",
    "evidence/",
    "federation/foreign_bundles",
    "file_watch/debounce",
    "file_watch/watched",
    "identity/",
    "issuance/renewal",
    "names/book",
    "names/databases",
    "names/subordinate",
    "policy/",
    "registration/entry.",
    "registration/entry_index",
];
const IMPURE: &[&str] =
    &["tokio", "std::fs", "std::net", "std::os::unix::net", "SystemTime::now", "Instant::now", "rustix", "nix"];

fn floor(room: &str) -> usize {
    FLOORS.iter().position(|floor| floor.contains(&room)).unwrap_or_else(|| panic!("{room:?} is on no floor"))
}

fn text_of(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file)).unwrap()
}

fn assert_empty(faults: &[String]) {
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_room_uses_only_the_floors_below_it() {
    let mut reaching_up = Vec::new();
    for source in Source::all() {
        let room = source.room();
        for used in source.rooms_named().filter(|used| *used != room && floor(used) >= floor(room)) {
            reaching_up.push(format!("{}: {room} may not use {used}", source.file));
        }
    }
    assert_empty(&reaching_up);
}

#[test]
fn lib_lists_the_rooms_from_the_top_floor_down() {
    let lib = text_of("lib.rs");
    let module = |line: &str| Some(line.split_once("mod ")?.1.split_once(';')?.0.to_owned());
    let listed: Vec<_> = lib.lines().filter_map(module).collect();
    assert!(listed.is_sorted_by_key(|room| std::cmp::Reverse(floor(room))), "{listed:?}");
    let rooms: BTreeSet<_> = Source::all().iter().map(|source| source.room().to_owned()).collect();
    assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), rooms);
}

#[test]
fn no_files_use_each_other() {
    let sources = Source::all();
    let uses = uses(&sources);
    let edges = |circle: &Vec<&str>| -> Vec<String> {
        let within = |file: &&str| uses[file].iter().filter(|used| circle.contains(used)).copied().collect::<Vec<_>>();
        circle.iter().map(|file| format!("  {file} uses {}", within(file).join(", "))).collect()
    };
    let found: Vec<_> =
        circles(&sources).iter().map(|circle| format!("a circle:\n{}", edges(circle).join("\n"))).collect();
    assert_empty(&found);
}

#[test]
fn no_two_public_types_have_one_name() {
    let sources = Source::all();
    let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for source in &sources {
        source.types.iter().for_each(|name| files.entry(name).or_default().push(&source.file));
    }
    let homonyms = files.iter().filter(|(_, files)| files.len() > 1);
    assert_empty(&homonyms.map(|(name, files)| format!("{name} is in {}", files.join(", "))).collect::<Vec<_>>());
}

#[test]
fn an_import_names_one_thing_by_its_path_from_the_crate() {
    let files = Source::all().into_iter().map(|source| source.file);
    let is_grouped = |text: &str| text.contains("crate::{") || text.contains("super::super");
    assert_empty(&files.filter(|file| is_grouped(&text_of(file))).collect::<Vec<_>>());
}

#[test]
fn a_codec_names_only_what_a_door_may_know() {
    let mut knowing_too_much = Vec::new();
    for source in Source::all().iter().filter(|source| CODECS.iter().any(|codec| source.file.starts_with(codec))) {
        for used in source.rooms_named().filter(|used| !CODEC_WORDS.contains(used)) {
            knowing_too_much.push(format!("{} may not name {used}", source.file));
        }
    }
    assert_empty(&knowing_too_much);
}

#[test]
fn a_file_that_decides_is_pure() {
    let sources = Source::all();
    let mut faults = Vec::new();
    for pure in PURE {
        let files: Vec<_> = sources.iter().filter(|source| source.file.starts_with(pure)).collect();
        if files.is_empty() {
            faults.push(format!("no file begins with {pure} any more"));
        }
        for source in files {
            let names = |path: &Vec<String>, word: &str| {
                let word: Vec<_> = word.split("::").collect();
                path.windows(word.len()).any(|part| *part == *word) && (word[0] != "tokio" || path[0] == "tokio")
            };
            let named = |word: &&str| source.external.iter().any(|path| names(path, word));
            faults.extend(IMPURE.iter().copied().filter(named).map(|word| format!("{} names {word}", source.file)));
        }
    }
    assert_empty(&faults);
}

#[test]
fn a_file_is_read_to_its_end_and_its_tests_are_not() {
    let source = Source::read(
        "agent/node.rs",
        r##"
        //! As [`crate::time::Clock`].
        pub use child::Shown;
        mod child;
        #[cfg(test)]
        /// Not `crate::cli`, of which the brace in "}" is no end.
        fn first() -> &'static str { crate::cli::run(); "}" }
        #[cfg(test)] mod tests;
        pub(crate) enum Public { One }
        use crate::policy as rules;
        #[cfg(test)]
        mod tests { use crate::sys::pidfd; pub struct Hidden; }
        struct Private<'a>(&'a rules::decide::Decision);
        fn last() { tracing::info!(x = %super::start::begin(child::Shown), "crate::{}", '}'); }
        "##,
    );
    let paths = |paths: &[&str]| -> Vec<Vec<String>> {
        paths.iter().map(|path| path.split("::").map(str::to_owned).collect()).collect()
    };
    let uses = ["policy::decide::Decision", "agent::start::begin", "agent::node::child::Shown", "policy"];
    assert_eq!(source.uses, paths(&uses));
    assert_eq!(source.external, paths(&["tracing::info"]));
    assert_eq!(source.types, ["Public"]);
    assert_eq!(source.documented.first(), paths(&["time::Clock"]).first());
    let re_export = (&paths(&["agent::node::Shown"])[0], &paths(&["agent::node::child::Shown"])[0]);
    assert_eq!(source.re_exports.first_key_value(), Some(re_export));
}

#[test]
fn a_circle_is_found_through_re_exports_children_and_other_files() {
    let read = |file: &str, text: &str| Source::read(file, text);
    let found = |sources: &[Source]| circles(sources).into_iter().map(|circle| circle.join(" ")).collect::<Vec<_>>();
    let facade = [
        read("room/mod.rs", "mod a; mod b; pub use a::A; pub use b::B;"),
        read("room/a.rs", "use crate::room::B; pub struct A(B);"),
        read("room/b.rs", "pub struct B;"),
    ];
    assert!(found(&facade).is_empty(), "a list of re-exports uses nothing");
    let [facade, a, _] = facade;
    let b = read("room/b.rs", "use crate::room::c; pub struct B(c::C);");
    let c = read("room/c.rs", "use crate::room::A; pub struct C(A);");
    assert_eq!(found(&[facade, a, b, c]), ["room/a.rs room/b.rs room/c.rs"]);
    let parent = read("room/mod.rs", "mod a; pub struct Words; fn run() { a::run() }");
    let child = read("room/a.rs", "use crate::room::Words; pub fn run() {}");
    assert_eq!(found(&[parent, child]), ["room/a.rs room/mod.rs"]);
}
