//! Warns of entries that one process can match together.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::agent::config::problem::Findings;
use crate::agent::config::problem::Position;
use crate::agent::config::problem::Problem;
use crate::agent::config::problem::shown;
use crate::evidence::EvidenceSet;
use crate::evidence::Grade;
use crate::evidence::Source;
use crate::identity::SpiffeId;
use crate::registration::Entry;
use crate::registration::EntryIndex;

/// After so many comparisons a search ends: it only warns, and must not hold up a start.
const MAX_COMPARISONS: usize = 1_000_000;

/// Warns of entries that one process can match together, where one of them loses by it or adds nothing.
pub(in crate::agent::config) fn warn_of(entries: &[Arc<Entry>], findings: &mut Findings) {
    warn_of_one_id_on_two_terms(entries, findings);
    warn_of_contained_selectors(entries, findings);
}

/// Warns of every two entries that can give one process one SPIFFE ID on different terms: it gets one SVID for it.
fn warn_of_one_id_on_two_terms(entries: &[Arc<Entry>], findings: &mut Findings) {
    let mut by_id: BTreeMap<&SpiffeId, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        by_id.entry(&entry.id).or_default().push(entry);
    }
    let mut comparisons = 0;
    for same_id in by_id.values_mut().filter(|same_id| same_id.len() > 1) {
        same_id.sort_by_key(|entry| entry.rank());
        for (at, later) in same_id.iter().enumerate() {
            for earlier in same_id.iter().take(at) {
                comparisons += 1;
                let lost = later.lost_to(earlier);
                if !lost.is_empty() && !later.excludes(earlier) {
                    findings.warn(lost_terms(later, earlier, &lost));
                }
            }
            if comparisons > MAX_COMPARISONS {
                return;
            }
        }
    }
}

fn lost_terms(later: &Entry, earlier: &Entry, lost: &[String]) -> Problem {
    at(
        later,
        format!(
            "entry {:?} and the one at {} give the same SPIFFE ID, and that one comes first: whoever matches both goes \
             without {}; write another id, or one entry with the terms of both",
            later.id.path(),
            earlier.origin,
            lost.join(", ")
        ),
    )
}

/// Warns of every entry whose selectors contain those of another one: whoever matches the first matches the second.
fn warn_of_contained_selectors(entries: &[Arc<Entry>], findings: &mut Findings) {
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
                warning(entry, other, same).into_iter().for_each(|warning| findings.warn(warning));
            }
        }
        if comparisons > MAX_COMPARISONS {
            return;
        }
    }
}

fn warning(entry: &Entry, other: &Entry, same: bool) -> Option<Problem> {
    let (id, other_id) = (entry.id.path(), other.id.path());
    let one_id = entry.id == other.id;
    let (later, earlier) = if entry.rank() < other.rank() { (other, entry) } else { (entry, other) };
    if one_id && !later.lost_to(earlier).is_empty() {
        return None; // reported with what is lost
    }
    let text = match (one_id, same) {
        (true, true) => format!("entry {id:?} repeats the one at {}; remove one of them", other.origin),
        (true, false) => {
            format!("whoever matches this entry {id:?} matches the one of the same id at {}", other.origin)
        }
        (false, _) => {
            let hint = same_hint(later, earlier).unwrap_or_default();
            format!("whoever matches entry {id:?} matches {other_id:?} at {}, too, and gets both{hint}", other.origin)
        }
    };
    Some(at(entry, text))
}

/// What becomes of a hint that both have (SPEC: SPIFFE Workload API §5.2.1, a hint is unique within a response).
fn same_hint(later: &Entry, earlier: &Entry) -> Option<String> {
    let hint = later.hint.as_ref().filter(|hint| earlier.hint.as_ref() == Some(hint))?;
    Some(format!(", {:?} without the hint {} that both have; write another there", later.id.path(), shown(hint)))
}

fn at(entry: &Entry, text: String) -> Problem {
    let (file, line) = entry.origin.file_and_line().unwrap_or((Path::new("entries"), 0));
    Problem { file: file.to_owned(), position: Some(Position { line, column: 1 }), text }
}
