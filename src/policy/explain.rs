//! The explanation of a decision for `bonafide explain`: each entry with the selectors that it lacks, the nearest miss,
//! and an entry that would match.

use std::cmp::Reverse;

use serde::Deserialize;
use serde::Serialize;

use crate::evidence::EvidenceSet;
use crate::evidence::Level;
use crate::evidence::Selector;
use crate::policy::decide::Considered;
use crate::policy::decide::compare;
use crate::policy::rulebook::Rulebook;

/// The most entries that an explanation lists.
pub(in crate::policy) const MAX_SHOWN: usize = 200;

/// The longest line of a suggestion that holds more than one selector: it is shown with an indent of two.
const MAX_LINE: usize = 78;

/// The comparison of every entry with a process, and an entry that would match it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The number of all entries.
    pub entries: usize,
    /// The entries, those that match first, then by the number of lacking selectors; at most 200.
    pub considered: Vec<Considered>,
    /// The entry that does not match and lacks the fewest selectors.
    pub nearest_miss: Option<Considered>,
    /// A `[[workload]]` that would match this process.
    pub suggestion: String,
}

/// Compares every entry, unlike [`decide`](crate::policy::decide()), whose cost must not grow with the entries.
#[must_use]
pub fn explain(evidence: &EvidenceSet, level: Level, rulebook: &Rulebook) -> Explanation {
    let all: Vec<_> = rulebook.entries().entries().iter().collect();
    let considered = compare(level, evidence, &all, usize::MAX).considered;
    // Among entries that lack equally many selectors, more selectors in all mean more that hold. The sort is stable, so
    // equals keep the order of the entries.
    let mut considered: Vec<_> = considered.into_iter().zip(&all).collect();
    considered.sort_by_key(|(one, entry)| (!one.matches(), one.lacking.len(), Reverse(entry.selectors.len())));
    let mut considered: Vec<_> = considered.into_iter().map(|(one, _)| one).collect();
    let nearest_miss = considered.iter().find(|one| !one.matches()).cloned();
    considered.truncate(MAX_SHOWN);
    Explanation { entries: all.len(), considered, nearest_miss, suggestion: suggestion(evidence, level) }
}

/// An entry from the facts that stay the same over restarts and tell the workload from others: unit, user, program.
fn suggestion(evidence: &EvidenceSet, level: Level) -> String {
    let unit = evidence.facts().iter().any(|fact| matches!(fact.selector, Selector::SystemdId(_)));
    let lasting = |selector: &&Selector| match selector {
        Selector::SystemdId(_) | Selector::UnixUid(_) => true,
        Selector::UnixPath(_) => level != Level::Reduced,
        Selector::Host => !unit,
        _ => false,
    };
    let mut selectors: Vec<_> = evidence.facts().iter().map(|fact| &fact.selector).filter(lasting).collect();
    selectors.sort_by_key(|selector| !matches!(selector, Selector::SystemdId(_)));
    let id = format!("/{}", name(&selectors));
    let selectors: Vec<_> = selectors.into_iter().map(|selector| quoted(&selector.to_string())).collect();
    let line = format!("selectors = [{}]", selectors.join(", "));
    let selectors = match line.chars().count() {
        ..=MAX_LINE => line,
        _ => format!("selectors = [\n  {},\n]", selectors.join(",\n  ")),
    };
    format!("[[workload]]\nid = {}\n{selectors}\n", quoted(&id))
}

/// A path segment for the SPIFFE ID: the name of the unit, else of the program, else the uid.
fn name(selectors: &[&Selector]) -> String {
    let named = selectors.iter().filter_map(|selector| match selector {
        Selector::SystemdId(unit) => Some((0, unit.rsplit_once('.').map_or(&**unit, |(name, _)| name).to_owned())),
        Selector::UnixPath(path) => Some((1, path.rsplit('/').next().unwrap_or_default().to_owned())),
        Selector::UnixUid(uid) => Some((2, format!("uid-{uid}"))),
        _ => None,
    });
    let named = named.min().map(|(_, name)| name);
    let allowed = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '-' };
    let segment: String = named.unwrap_or_default().chars().map(allowed).take(128).collect();
    if matches!(segment.as_str(), "" | "." | "..") { "workload".to_owned() } else { segment }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::Grade;
    use crate::evidence::Source;
    use crate::policy::decide::SetAside;
    use crate::registration::Entry;

    fn explained(level: Level, held: &[&str], entries: Vec<Entry>) -> Explanation {
        let mut evidence = EvidenceSet::default();
        for text in held {
            evidence.prove(text.parse().unwrap(), Grade::Kernel, Source::Credentials);
        }
        explain(&evidence, level, &Rulebook::example(entries))
    }

    #[test]
    fn every_entry_is_shown_with_what_it_lacks_nearest_first() {
        let entries = vec![
            Entry::example(0, "/far", &["unix:uid:2", "unix:gid:2"]),
            Entry::example(1, "/one-of-one", &["unix:uid:3"]),
            Entry::example(2, "/near", &["unix:uid:1", "unix:gid:1", "systemd:id:web.service"]),
            Entry::example(3, "/match", &["unix:uid:1"]),
        ];
        let explanation = explained(Level::Full, &["unix:uid:1", "unix:gid:1"], entries);
        let ids: Vec<_> = explanation.considered.iter().map(|one| one.id.rsplit('/').next().unwrap()).collect();
        assert_eq!(ids, ["match", "near", "one-of-one", "far"]);
        let miss = explanation.nearest_miss.unwrap();
        assert_eq!(miss.lacking, ["systemd:id:web.service".parse().unwrap()]);
    }

    #[test]
    fn an_entry_that_was_set_aside_is_a_miss_with_its_reason() {
        let entries = vec![Entry::example(0, "/web", &["unix:uid:1", "unix:path:/usr/bin/web"])];
        let explanation = explained(Level::Reduced, &["unix:uid:1", "unix:path:/usr/bin/web"], entries);
        assert_eq!(explanation.nearest_miss.unwrap().refused, Some(SetAside::ReducedLevel));
    }

    #[test]
    fn the_suggestion_names_unit_user_and_program_and_is_toml() {
        let facts = ["unix:uid:1000", "unix:gid:1000", "unix:path:/a\"b", "systemd:id:pay@1.service", "host:true"];
        let suggestion = explained(Level::Full, &facts, Vec::new()).suggestion;
        let expected = "[[workload]]\nid = \"/pay-1\"\nselectors = [\"systemd:id:pay@1.service\", \"unix:uid:1000\", \
                        'unix:path:/a\"b']\n";
        let long =
            ["unix:uid:1000", "unix:path:/usr/lib/postgresql/15/bin/postgres", "systemd:id:postgresql@15-main.service"];
        let lines = explained(Level::Full, &long, Vec::new()).suggestion;
        assert_eq!(
            lines,
            "[[workload]]\nid = \"/postgresql-15-main\"\nselectors = [\n  \"systemd:id:postgresql@15-main.service\",\n  \
             \"unix:uid:1000\",\n  \"unix:path:/usr/lib/postgresql/15/bin/postgres\",\n]\n"
        );
        assert!(toml::from_str::<toml::Table>(&lines).is_ok());
        assert_eq!(suggestion, expected);
        assert!(toml::from_str::<toml::Table>(&suggestion).is_ok());
    }

    #[test]
    fn the_suggestion_has_host_without_a_unit_and_no_path_at_reduced() {
        let facts = ["unix:uid:0", "unix:path:/usr/bin/web", "host:true"];
        let suggestion = explained(Level::Reduced, &facts, Vec::new()).suggestion;
        assert_eq!(suggestion, "[[workload]]\nid = \"/uid-0\"\nselectors = [\"unix:uid:0\", \"host:true\"]\n");
    }
}
