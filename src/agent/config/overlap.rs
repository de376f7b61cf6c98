//! Warns of entries that one process matches together.

use std::cmp::Reverse;
use std::path::Path;
use std::sync::Arc;

use crate::agent::config::problem::Findings;
use crate::agent::config::problem::Position;
use crate::agent::config::problem::Problem;
use crate::agent::config::problem::shown;
use crate::evidence::EvidenceSet;
use crate::evidence::Grade;
use crate::evidence::Source;
use crate::registration::Entry;
use crate::registration::EntryIndex;

/// After so many comparisons the search ends: it only warns, and must not hold up a start.
const MAX_COMPARISONS: usize = 1_000_000;

/// Warns of every entry whose selectors contain those of another one: whoever matches the first matches the second.
pub(in crate::agent::config) fn warn_of(entries: &[Arc<Entry>], findings: &mut Findings) {
    let index = EntryIndex::new(entries.to_vec());
    let mut comparisons = 0;
    for entry in entries {
        // The entry's own selectors, taken as facts, find the entries that they satisfy.
        let mut facts = EvidenceSet::default();
        for selector in &entry.selectors {
            facts.prove(selector.clone(), Grade::Kernel, Source::Credentials);
        }
        for other in index.candidates(&facts) {
            comparisons += 1;
            let another = other.order != entry.order && other.selectors.iter().all(|wanted| facts.holds(wanted));
            // Of two entries with the same selectors, the warning is at the later one.
            let same = other.selectors.len() == entry.selectors.len();
            if another && !(same && other.order > entry.order) {
                findings.warn(warning(entry, other, same));
            }
        }
        if comparisons > MAX_COMPARISONS {
            return;
        }
    }
}

fn warning(entry: &Entry, other: &Entry, same: bool) -> Problem {
    let (id, other_id) = (entry.id.path(), other.id.path());
    let text = match (entry.id == other.id, same) {
        (true, true) => format!("entry {id:?} repeats the one at {}; remove one of them", other.origin),
        (true, false) => {
            format!("whoever matches this entry {id:?} matches the one of the same id at {}", other.origin)
        }
        (false, _) => {
            let hint = same_hint(entry, other).unwrap_or_default();
            format!("whoever matches entry {id:?} matches {other_id:?} at {}, too, and gets both{hint}", other.origin)
        }
    };
    let (file, line) = entry.origin.file_and_line().unwrap_or((Path::new("entries"), 0));
    Problem { file: file.to_owned(), position: Some(Position { line, column: 1 }), text }
}

/// What becomes of a hint that both have (SPEC: SPIFFE Workload API §5.2.1, a hint is unique within a response).
fn same_hint(entry: &Entry, other: &Entry) -> Option<String> {
    let hint = entry.hint.as_ref().filter(|hint| other.hint.as_ref() == Some(hint))?;
    let rank = |entry: &Entry| (Reverse(entry.priority), entry.order);
    let without = if rank(entry) < rank(other) { other } else { entry };
    Some(format!(", {:?} without the hint {} that both have; write another there", without.id.path(), shown(hint)))
}
