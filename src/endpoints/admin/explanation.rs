//! From the trace of a decision to what an operator reads of it: the nearest miss, and an entry that would match.

use crate::attestation::kernel::Level;
use crate::endpoints::admin::reports::ExplainReport;
use crate::endpoints::admin::reports::Outcome;
use crate::evidence::EvidenceSet;
use crate::evidence::Selector;
use crate::policy::Considered;
use crate::policy::Trace;

impl ExplainReport {
    /// Explains what came out of `trace`; `decision` names it where it was made for a caller.
    #[must_use]
    pub fn new(decision: Option<String>, trace: &Trace, result: Outcome) -> Self {
        let matched = matches!(result, Outcome::Permitted { .. });
        Self {
            decision,
            decided_at: trace.at.duration_since(std::time::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
            peer: trace.peer,
            level: trace.level,
            evidence: trace.evidence.clone(),
            nearest_miss: nearest_miss(&trace.considered).filter(|_| !matched).cloned(),
            suggestion: suggestion(trace.level, &trace.evidence).filter(|_| !matched),
            considered: trace.considered.clone(),
            result,
        }
    }
}

/// The entry that lacks least; of equals the first.
fn nearest_miss(considered: &[Considered]) -> Option<&Considered> {
    considered.iter().min_by_key(|entry| entry.lacking.len())
}

/// An entry for this process. `None` where nothing strong is known of it.
fn suggestion(level: Level, evidence: &EvidenceSet) -> Option<String> {
    let known = || evidence.facts().iter().map(|fact| &fact.selector);
    let unit = known().find(|selector| matches!(selector, Selector::SystemdId(_)));
    let user = known()
        .find(|selector| matches!(selector, Selector::UnixUser(_)))
        .or_else(|| known().find(|selector| matches!(selector, Selector::UnixUid(_))));
    let path = known().find(|selector| matches!(selector, Selector::UnixPath(_)) && level > Level::Reduced);
    let chosen: Vec<&Selector> = [unit, user, path].into_iter().flatten().collect();
    if !chosen.iter().any(|selector| selector.is_strong()) {
        return None;
    }
    let selectors: Vec<toml::Value> = chosen.iter().map(|selector| selector.to_string().into()).collect();
    let name = path.or(unit).or(user).map_or_else(String::new, name_for);
    let selectors = toml::Value::from(selectors);
    Some(format!("[[workload]]\nid = \"/{name}\"\nselectors = {selectors}\n"))
}

/// A path segment that reminds of the selector's value.
fn name_for(selector: &Selector) -> String {
    let text = selector.to_string();
    let value = text.rsplit(['/', ':']).next().unwrap_or_default();
    let value = value.strip_suffix(".service").unwrap_or(value);
    let name: String = value
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '-' })
        .collect();
    if name.trim_matches('.').is_empty() { "workload".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::Grade;
    use crate::evidence::Source;
    use crate::identity::SpiffeId;
    use crate::registration::entry::Origin;

    fn evidence(selectors: &[&str]) -> EvidenceSet {
        let mut evidence = EvidenceSet::default();
        for selector in selectors {
            evidence.prove(selector.parse().unwrap(), Grade::Kernel, Source::Credentials);
        }
        evidence
    }

    fn entry(id: &str, lacking: &[&str]) -> Considered {
        Considered {
            id: id.to_owned(),
            origin: Origin { file: "bonafide.toml".into(), line: 1 },
            lacking: lacking.iter().map(|selector| selector.parse().unwrap()).collect(),
            refused: None,
        }
    }

    #[test]
    fn the_nearest_miss_lacks_least() {
        let considered = [
            entry("/far", &["unix:uid:1", "unix:gid:1"]),
            entry("/near", &["unix:uid:1"]),
            entry("/too", &["host:true"]),
        ];
        assert_eq!(nearest_miss(&considered).unwrap().id, "/near");
        assert_eq!(nearest_miss(&[]), None);
    }

    #[test]
    fn a_suggestion_holds_for_the_process_and_has_a_strong_selector_and_a_valid_id() {
        let all = ["unix:uid:1000", "unix:user:web", "systemd:id:web@1.service", "unix:path:/usr/bin/web server"];
        for known in [&all[..], &all[..1], &all[..3], &["unix:uid:7", "unix:path:/a/..."]] {
            let evidence = evidence(known);
            let text = suggestion(Level::Full, &evidence).unwrap();
            let document: toml::Table = text.parse().unwrap();
            let workload = &document["workload"].as_array().unwrap()[0];
            let selectors: Vec<Selector> = workload["selectors"].clone().try_into().unwrap();
            assert!(selectors.iter().all(|selector| evidence.holds(selector)), "{text}");
            assert!(selectors.iter().any(Selector::is_strong), "{text}");
            SpiffeId::new(&"example.org".parse().unwrap(), workload["id"].as_str().unwrap()).unwrap();
        }
    }

    #[test]
    fn nothing_is_suggested_on_weak_evidence_and_no_path_where_it_would_not_count() {
        assert_eq!(suggestion(Level::Full, &evidence(&["unix:path:/usr/bin/web", "host:true"])), None);
        let reduced = suggestion(Level::Reduced, &evidence(&["unix:uid:7", "unix:path:/usr/bin/web"])).unwrap();
        assert!(!reduced.contains("path"), "{reduced}");
    }
}
