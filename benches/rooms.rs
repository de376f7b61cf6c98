//! What single rooms take, each beside the machine's own limit taken in turns with it: `cargo bench --bench rooms`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a measurement fails by panicking")]

#[allow(dead_code, reason = "the other program uses the rest")]
mod measure;

use std::hint::black_box;
use std::time::Duration;

use bonafide::evidence::EvidenceSet;
use bonafide::evidence::Grade;
use bonafide::evidence::Source;
use bonafide::registration::Entry;
use bonafide::registration::EntryIndex;
use bonafide::registration::entry::EntryOrder;
use bonafide::registration::entry::Origin;
use bonafide::registration::entry::Terms;

use crate::measure::raw;
use crate::measure::report;
use crate::measure::report::Figure;
use crate::measure::report::Promise;
use crate::measure::report::median;
use crate::measure::report::micros;

const ROUNDS: usize = 5;
const PER_ROUND: u32 = 2_000;
/// Entries that share a uid: the rarest selector that they have.
const OF_ONE_USER: u32 = 100;

fn main() {
    report::print_heading();
    for entries in [10, 1_000, 100_000] {
        matching(entries).print(false);
    }
}

/// What each of the two takes on average: medians of rounds in which they take turns, after one to warm up.
fn in_turns(mut ours: impl FnMut(), mut limit: impl FnMut()) -> (f64, f64) {
    let (mut our_rounds, mut limit_rounds) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (ours, limit) = (raw::time_each(PER_ROUND, &mut ours), raw::time_each(PER_ROUND, &mut limit));
        if round > 0 {
            our_rounds.push(micros(ours));
            limit_rounds.push(micros(limit));
        }
    }
    (median(&mut our_rounds), median(&mut limit_rounds))
}

fn matching(entries: u32) -> Figure {
    let index = EntryIndex::new((0..entries).map(entry).collect(), 1);
    let mut caller = EvidenceSet::default();
    for fact in ["unix:uid:1000", "unix:gid:1000", "unix:supplementary_gid:100", "host:true"] {
        caller.prove(fact.parse().unwrap(), Grade::Kernel, Source::Credentials);
    }
    let (ours, _) = in_turns(|| drop(black_box(index.candidates(black_box(&caller)))), || ());
    Figure::new(format!("matching one process, {entries} entries"), "us", ours, Promise::AtMost(20.0))
}

fn entry(n: u32) -> Entry {
    let uid = 1_000 + n / OF_ONE_USER;
    Entry {
        id: format!("spiffe://load.test/{n}").parse().unwrap(),
        selectors: vec!["unix:gid:1000".parse().unwrap(), format!("unix:uid:{uid}").parse().unwrap()],
        terms: terms(),
        federates_with: Vec::new(),
        hint: None,
        priority: 0,
        accept_weak: false,
        order: EntryOrder(n),
        origin: Origin { file: "load.toml".into(), line: n },
    }
}

fn terms() -> Terms {
    Terms { x509_ttl: Duration::from_secs(3600), jwt_ttl: Duration::from_secs(300), dns: Vec::new(), audiences: None }
}
