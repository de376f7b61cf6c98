//! Compares two configurations, for the report of a reload.

use std::collections::BTreeMap;

use crate::agent::config::Config;
use crate::agent::config::problem::Problem;
use crate::endpoints::admin::reports::EntryName;
use crate::endpoints::admin::reports::ReloadReport;
use crate::identity::SpiffeId;
use crate::registration::Entry;

/// What would change, by SPIFFE ID.
pub(in crate::agent::reload) fn compare(before: &Config, after: &Config) -> ReloadReport {
    let (old, new) = (by_id(before), by_id(after));
    let mut report =
        ReloadReport { warnings: after.warnings.iter().map(Problem::warning).collect(), ..ReloadReport::default() };
    for (id, entries) in &new {
        let names = entries.iter().copied().map(name);
        match old.get(id) {
            None => report.added.extend(names),
            Some(before) if !same(before, entries) => report.changed.extend(names),
            Some(_) => {}
        }
    }
    let gone = old.iter().filter(|(id, _)| !new.contains_key(*id)).flat_map(|(_, gone)| gone);
    report.removed = gone.copied().map(name).collect();
    report
}

/// The entries of these SPIFFE IDs.
pub(in crate::agent::reload) fn names(config: &Config, ids: &[SpiffeId]) -> Vec<EntryName> {
    config.entries.iter().filter(|entry| ids.contains(&entry.id)).map(|entry| name(entry)).collect()
}

fn by_id(config: &Config) -> BTreeMap<&SpiffeId, Vec<&Entry>> {
    let mut entries: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for entry in &config.entries {
        entries.entry(&entry.id).or_default().push(&**entry);
    }
    entries
}

fn same(before: &[&Entry], after: &[&Entry]) -> bool {
    let unmoved = |entry: &Entry, as_if: &Entry| {
        Entry { order: as_if.order, origin: as_if.origin.clone(), ..entry.clone() } == *as_if
    };
    before.len() == after.len() && before.iter().zip(after).all(|(before, after)| unmoved(before, after))
}

fn name(entry: &Entry) -> EntryName {
    EntryName { id: entry.id.to_string(), origin: entry.origin.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::config::files::SourceFile;
    use crate::agent::config::files::Sources;

    fn config(entries: &[(&str, &str)]) -> Config {
        let table =
            |(id, rest): &(&str, &str)| format!("[[workload]]\nid = {id:?}\nselectors = [\"unix:uid:7\"]\n{rest}\n");
        let text = entries.iter().map(table).fold("trust_domain = \"example.org\"\n".to_owned(), |all, one| all + &one);
        let sources = Sources { files: vec![SourceFile { file: "b.toml".into(), text }], folders: Vec::new() };
        Config::from_sources(&sources).unwrap()
    }

    fn paths(names: &[EntryName]) -> Vec<&str> {
        names.iter().map(|name| name.id.trim_start_matches("spiffe://example.org")).collect()
    }

    #[test]
    fn a_report_names_what_was_added_removed_and_changed_and_not_what_moved() {
        let before = config(&[("/kept", ""), ("/gone", ""), ("/other", ""), ("/moved", "")]);
        let after = config(&[("/moved", ""), ("/kept", ""), ("/other", "hint = \"x\""), ("/new", "")]);
        let report = compare(&before, &after);
        assert_eq!(paths(&report.added), ["/new"]);
        assert_eq!(paths(&report.removed), ["/gone"]);
        assert_eq!(paths(&report.changed), ["/other"]);
    }
}
