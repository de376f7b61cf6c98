//! What the start hands to the daemon, and the errors of both.

use std::sync::Arc;

use crate::agent::config::problem::Findings;
use crate::agent::lifecycle::Fatal;
use crate::agent::node::NodeSetup;
use crate::attestation::linux::Linux;
use crate::attestation::linux::reference::UnsupportedHost;
use crate::audit::Journal;
use crate::audit::metrics::AuditMetrics;
use crate::authority::NoAuthority;
use crate::durable;
use crate::durable::DataDir;
use crate::endpoints::transport::listener::NotBound;
use crate::readiness::Reason;

/// Everything that is open before the first socket is bound.
pub(in crate::agent) struct Prepared {
    /// Everything that a node is built from.
    pub(in crate::agent) setup: NodeSetup,
    /// Pins the process behind an accepted socket.
    pub(in crate::agent) linux: Arc<Linux>,
    /// Writes suppressed records in its own time.
    pub(in crate::agent) journal: Arc<Journal>,
    /// What the journal counts, for `/metrics`.
    pub(in crate::agent) metrics: AuditMetrics,
    /// The data directory, where it took no writes, and what says so.
    pub(in crate::agent) unwritable: Option<(Arc<DataDir>, Reason)>,
}

/// Why the daemon did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub(in crate::agent) enum NotRunning {
    /// The files are bad, and there is nothing to go on with.
    #[error("{findings}\n{instead}")]
    Configuration {
        /// What is wrong with them.
        findings: Findings,
        /// Why the last accepted configuration does not take their place.
        instead: String,
    },
    /// `/proc` on this machine does not show what the daemon needs.
    #[error(transparent)]
    UnsupportedHost(#[from] UnsupportedHost),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] durable::OpenDataDirError),
    /// There is no authority.
    #[error(transparent)]
    Authority(#[from] NoAuthority),
    /// A socket was not bound.
    #[error(transparent)]
    NotBound(#[from] NotBound),
    /// The operating system refused something that every program needs.
    #[error("{what}: {why}; give the daemon more room (LimitNOFILE=, TasksMax=, MemoryMax=) and start it again")]
    System {
        /// What was refused.
        what: &'static str,
        /// What it said.
        why: String,
    },
    /// It ended although nobody asked.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

impl NotRunning {
    /// 1 where another daemon or the system is in the way, 2 where the operator has to change something first.
    pub(in crate::agent) fn exit_code(&self) -> u8 {
        match self {
            Self::DataDir(durable::OpenDataDirError::Locked { .. })
            | Self::NotBound(NotBound::AlreadyServed { .. })
            | Self::System { .. }
            | Self::Fatal(_) => 1,
            Self::Configuration { .. }
            | Self::UnsupportedHost(_)
            | Self::DataDir(_)
            | Self::Authority(_)
            | Self::NotBound(_) => 2,
        }
    }
}
