//! The settings that a reload changes while they are in use: `[limits]` and `[log]`.

use crate::agent::config::Config;
use crate::agent::config::sections::limits::LimitsSection;
use crate::audit::LogSettings;
use crate::endpoints::transport::budgets::Budgets;
use crate::endpoints::transport::budgets::Limits;

/// Settings in use.
#[derive(Debug)]
pub(in crate::agent) struct LiveSettings {
    /// How lines are written.
    pub(in crate::agent) log: LogSettings,
    /// What workloads are charged to.
    pub(in crate::agent) budgets: Budgets,
    /// How many descriptors may be open.
    pub(in crate::agent) descriptors: u64,
}

impl LiveSettings {
    /// Changes them to what `config` says.
    pub(in crate::agent) fn apply(&self, config: &Config) {
        self.log.set(config.log.format, config.log.level);
        self.budgets.set_limits(limits(&config.limits, self.descriptors));
    }
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
