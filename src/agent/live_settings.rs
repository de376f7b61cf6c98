//! The settings that a reload changes while they are in use: `[limits]`, `[log]`, and the life of the authority's next keys.

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use crate::agent::config::Config;
use crate::agent::config::sections::limits::LimitsSection;
use crate::audit::LogSettings;
use crate::authority::Authority;
use crate::authority::KeyStatus;
use crate::authority::Stage;
use crate::fairness::Budgets;
use crate::fairness::Limits;
use crate::time::date::rfc3339;
use crate::time::duration::exact;

/// Settings in use.
#[derive(Debug)]
pub(in crate::agent) struct LiveSettings {
    /// How lines are written.
    pub(in crate::agent) log: LogSettings,
    /// What workloads are charged to.
    pub(in crate::agent) budgets: Budgets,
    /// How many descriptors may be open.
    pub(in crate::agent) descriptors: u64,
    /// Who signs.
    pub(in crate::agent) authority: Arc<dyn Authority>,
}

impl LiveSettings {
    /// Changes them from what `before` says to what `config` says. Returns what is in force later, and when.
    pub(in crate::agent) fn apply(&self, before: &Config, config: &Config, now: SystemTime) -> Vec<String> {
        self.log.set(config.log.format, config.log.level);
        self.budgets.set_limits(limits(&config.limits, self.descriptors));
        let ca_ttl = config.authority.ca_ttl;
        if ca_ttl == before.authority.ca_ttl {
            return Vec::new();
        }
        self.authority.set_key_life(ca_ttl);
        vec![next_key_life(ca_ttl, &self.authority.keys(now))]
    }
}

/// When the keys that there are give way to keys that live for `ca_ttl`.
fn next_key_life(ca_ttl: Duration, keys: &[KeyStatus]) -> String {
    let active = keys.iter().filter(|key| key.stage == Stage::Active);
    let times: Vec<_> = active.map(|key| format!("{} at {}", key.kind, rfc3339(key.next_stage_at))).collect();
    let ca_ttl = exact(ca_ttl);
    if times.is_empty() {
        return format!("ca_ttl is \"{ca_ttl}\" for the first keys, which are not made yet");
    }
    let times = times.join(", ");
    format!("ca_ttl is \"{ca_ttl}\" from the next rotation on: {times}; to rotate now type: bonafide authority rotate")
}

/// The limits that were asked for; what was not follows from how many descriptors may be open.
#[must_use]
pub(in crate::agent) fn limits(asked: &LimitsSection, descriptors: u64) -> Limits {
    let defaults = asked.connections.map_or_else(
        || Limits::for_descriptors(descriptors),
        |connections| Limits::for_connections(affordable(connections as usize, descriptors)),
    );
    Limits {
        connections: defaults.connections,
        connections_per_caller: asked.connections_per_caller.map_or(defaults.connections_per_caller, |it| it as usize),
        streams_per_connection: asked.streams_per_connection,
        first_request: asked.first_request,
        idle: asked.idle,
        drain: defaults.drain,
        memory: asked.memory,
    }
}

/// The connections that were asked for, or as many as there are descriptors for.
fn affordable(asked: usize, descriptors: u64) -> usize {
    let most = Limits::most_connections(descriptors);
    if asked > most {
        tracing::warn!(asked, most, descriptors, "[limits] connections needs more descriptors; raise LimitNOFILE=");
    }
    asked.min(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::KeyKind;

    fn key(kind: KeyKind, stage: Stage, next_stage_at: u64) -> KeyStatus {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let (made, not_after, next_stage_at) = (at(0), at(2_000_000_000), at(next_stage_at));
        KeyStatus { kind, id: "a".to_owned(), stage, tainted: false, made, not_after, next_stage_at, tokens: 0 }
    }

    #[test]
    fn a_new_key_life_is_told_with_the_time_of_the_next_rotation_of_each_kind() {
        let keys = [
            key(KeyKind::X509, Stage::Retired, 1_600_000_000),
            key(KeyKind::X509, Stage::Active, 1_700_000_000),
            key(KeyKind::X509, Stage::Published, 1_600_000_000),
            key(KeyKind::Jwt, Stage::Active, 1_700_000_060),
        ];
        assert_eq!(
            next_key_life(Duration::from_secs(96 * 3600), &keys),
            "ca_ttl is \"96h\" from the next rotation on: X.509 at 2023-11-14T22:13:20Z, JWT at 2023-11-14T22:14:20Z; \
             to rotate now type: bonafide authority rotate"
        );
        assert!(next_key_life(Duration::from_secs(60), &[]).contains("for the first keys"));
    }
}
