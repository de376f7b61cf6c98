//! What a reload cannot change, and what a restart would do instead.

use crate::agent::config::Config;

/// Why `after` cannot be put in force by a reload, what the restart that it needs will do, and what to type; nothing where
/// a reload can.
pub(in crate::agent::reload) fn restart_advice(before: &Config, after: &Config) -> Option<String> {
    let keys = before.restart_needed(after);
    if keys.is_empty() {
        return None;
    }
    let what_happens: String = [authority(before, after), sockets(before, after)].into_iter().flatten().collect();
    let keys = keys.join(", ");
    let next = if restart_fails(before, after) { "bonafide reload" } else { "systemctl restart bonafide" };
    Some(format!("a change of {keys} needs a restart; nothing was changed. {what_happens}Then type: {next}"))
}

/// Whether the daemon would find the authority of another trust domain at its next start, and serve nobody.
fn restart_fails(before: &Config, after: &Config) -> bool {
    before.trust_domain != after.trust_domain && before.authority.data_dir == after.authority.data_dir
}

fn authority(before: &Config, after: &Config) -> Option<String> {
    let (old, new) = (&before.trust_domain, &after.trust_domain);
    let [kept, dir] = [before, after].map(|config| config.authority.data_dir.display());
    if restart_fails(before, after) {
        return Some(format!(
            "{dir} holds the authority of {old}: with this file a restart fails, and the node serves nobody. Set \
             trust_domain = \"{old}\" again, or write another [authority] data_dir for {new} as well; the identities of \
             {old} then end with the restart. "
        ));
    }
    if old != new {
        return Some(format!(
            "The restart takes the authority of {new} from {dir}, or makes it; every identity of {old} ends. "
        ));
    }
    let moved = before.authority.data_dir != after.authority.data_dir;
    moved.then(|| {
        format!(
            "The restart takes the authority from {dir}, or makes one; whoever verifies SVIDs of this node elsewhere \
             needs its bundle. To go on with the present one, move {kept} there first. "
        )
    })
}

fn sockets(before: &Config, after: &Config) -> Option<String> {
    let new = &after.workload_api.socket;
    (before.workload_api.socket != *new)
        .then(|| format!("Workloads need the new address, SPIFFE_ENDPOINT_SOCKET=unix://{}. ", new.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::config::files::SourceFile;
    use crate::agent::config::files::Sources;

    fn config(text: &str) -> Config {
        let files = vec![SourceFile { file: "b.toml".into(), text: text.to_owned() }];
        Config::from_sources(&Sources { files, folders: Vec::new() }).unwrap()
    }

    fn advice(after: &str) -> String {
        restart_advice(&config("trust_domain = \"example.org\""), &config(after)).unwrap_or_default()
    }

    #[test]
    fn the_advice_says_what_the_restart_will_do() {
        for (after, says) in [
            (
                "trust_domain = \"new.test\"\n[authority]\ndata_dir = \"/var/lib/new\"",
                "The restart takes the authority of new.test from /var/lib/new, or makes it",
            ),
            (
                "trust_domain = \"example.org\"\n[authority]\ndata_dir = \"/var/lib/new\"",
                "move /var/lib/bonafide there first",
            ),
            (
                "trust_domain = \"example.org\"\n[workload_api]\nsocket = \"/run/w.sock\"",
                "SPIFFE_ENDPOINT_SOCKET=unix:///run/w.sock",
            ),
        ] {
            let advice = advice(after);
            assert!(advice.contains(says) && advice.ends_with("systemctl restart bonafide"), "{advice}");
        }
    }

    #[test]
    fn who_changes_the_trust_domain_alone_is_not_told_to_type_a_restart_that_fails() {
        let advice = advice("trust_domain = \"new.test\"");
        for said in [
            "/var/lib/bonafide holds the authority of example.org: with this file a restart fails",
            "Set trust_domain = \"example.org\" again, or write another [authority] data_dir for new.test",
        ] {
            assert!(advice.contains(said), "{advice}");
        }
        assert!(advice.ends_with("Then type: bonafide reload") && !advice.contains("systemctl"), "{advice}");
    }

    #[test]
    fn what_a_reload_can_change_needs_no_restart() {
        for tables in [
            "limits]\nidle = \"1m\"",
            "log]\nlevel = \"debug\"",
            "attest]\nwait = \"1s\"",
            "authority]\nca_ttl = \"96h\"",
        ] {
            assert_eq!(advice(&format!("trust_domain = \"example.org\"\n[{tables}")), "");
        }
    }
}
