//! What an operator can ask of the running daemon. The agent answers.

use std::fmt;

use futures_util::future::BoxFuture;

use crate::authority::NotRotated;
use crate::authority::RotationOrder;
use crate::endpoints::admin::reports::AuthorityReport;
use crate::endpoints::admin::reports::ExplainReport;
use crate::endpoints::admin::reports::ReloadReport;
use crate::endpoints::admin::reports::ReplacedStatus;
use crate::endpoints::admin::reports::RotationReport;
use crate::endpoints::admin::reports::StatusReport;
use crate::evidence::Undecided;

/// The daemon as its operator sees it.
pub trait Operations: Send + Sync + fmt::Debug {
    /// The state of everything, at this moment. Takes no lock that serving needs for long.
    fn status(&self) -> StatusReport;

    /// The processes that run a replaced file, which `status` does not name. Asks the kernel about each process with a path:
    /// never on a thread that serves.
    fn replaced(&self) -> Vec<ReplacedStatus>;

    /// Attests the process `pid` as it is now, and decides for it as if it had asked. Issues nothing.
    ///
    /// # Errors
    /// [`NotExplained`]
    fn explain_pid(&self, pid: u32) -> BoxFuture<'static, Result<ExplainReport, NotExplained>>;

    /// The decision named `d-…`, from the bounded memory of recent ones; `None` once it has been forgotten.
    fn explain_denial(&self, id: &str) -> Option<ExplainReport>;

    /// Reads the configuration again and swaps it, whole or not at all. Applies what was held back.
    fn reload(&self) -> BoxFuture<'static, ReloadReport>;

    /// The authority's keys, and what rests on each.
    fn authority(&self) -> AuthorityReport;

    /// Makes new keys now, and publishes them.
    ///
    /// # Errors
    /// [`NotRotated`]; nothing was changed.
    fn rotate(&self, order: RotationOrder) -> BoxFuture<'static, Result<RotationReport, NotRotated>>;
}

/// Why a process could not be explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotExplained {
    /// There is no such process, or it has exited meanwhile.
    #[error("there is no process {pid}")]
    NoSuchProcess {
        /// The process id that was asked for.
        pid: u32,
    },
    /// The check could not be completed.
    #[error(transparent)]
    Undecided(#[from] Undecided),
}

#[cfg(test)]
pub(in crate::endpoints) mod tests {
    use futures_util::FutureExt;
    use tokio::sync::watch;

    use super::*;
    use crate::attestation::host::sighting::Sighting;
    use crate::authority::KeyKind;
    use crate::authority::Stage;
    use crate::endpoints::admin::reports::*;
    use crate::evidence::Credentials;
    use crate::evidence::EvidenceSet;
    use crate::evidence::Level;

    /// A daemon in which nothing moves. Pid 1 is denied, pid 2 undecided, and there is no other.
    #[derive(Debug, Default)]
    pub(in crate::endpoints) struct Fixed {
        /// Reloads that were finished.
        pub(in crate::endpoints) reloads: watch::Sender<u64>,
        /// Rotations that were finished.
        pub(in crate::endpoints) rotations: watch::Sender<Vec<RotationOrder>>,
        /// Why it rotates nothing.
        pub(in crate::endpoints) not_rotated: Option<NotRotated>,
    }

    fn key(kind: KeyKind) -> KeyReport {
        let (id, stage, [made, not_after, next_stage_at]) =
            ("a1".to_owned(), Stage::Active, [1.7e9, 1.700_604_8e9, 1.700_302_4e9]);
        KeyReport { kind, id, stage, tainted: false, made, not_after, next_stage_at, svids: 3, tokens: 0 }
    }

    fn denied(pid: u32) -> ExplainReport {
        ExplainReport {
            decision: None,
            decided_at: 1_700_000_000.0,
            peer: Credentials { pid, uid: 7, gid: 7 },
            level: Level::Full,
            evidence: EvidenceSet::default(),
            seen: Sighting::default(),
            entries: 0,
            entries_changed: false,
            considered: vec![],
            result: ExplainOutcome::Denied { why: "no_entry".to_owned(), detail: "no entry matches".to_owned() },
            nearest_miss: None,
            suggestion: None,
        }
    }

    impl Operations for Fixed {
        fn status(&self) -> StatusReport {
            StatusReport {
                state: HealthState::Healthy,
                version: "0.0.0".to_owned(),
                trust_domain: "example.org".to_owned(),
                sampled_at: 1_700_000_000.0,
                uptime_seconds: 60,
                level: Level::Full,
                authority: AuthorityStatus {
                    kind: "embedded".to_owned(),
                    not_after: Some(1_700_604_800.0),
                    next_rotation_at: Some(1_700_302_400.0),
                },
                bundles: vec![BundleStatus {
                    trust_domain: "example.org".to_owned(),
                    x509_authorities: 1,
                    jwt_authorities: 1,
                    sequence: Some(7),
                }],
                identities: IdentitiesStatus {
                    entries: 4,
                    connections: 2,
                    live: 3,
                    next_renewal_at: None,
                    next_expiry_at: Some(1_700_001_800.0),
                    renewals_failed: 1,
                    cut_short: 2,
                },
                attestors: vec![],
                last_hour: LastHourStatus::default(),
                configuration: ConfigurationStatus {
                    file: "/etc/bonafide/bonafide.toml".to_owned(),
                    state: ReloadState::Current,
                    accepted_at: 1_700_000_000.0,
                },
                sockets: vec![],
                log: LogStatus::default(),
                replaced: vec![],
                reasons: vec![],
                notes: vec![],
            }
        }

        fn replaced(&self) -> Vec<ReplacedStatus> {
            let (unit, program) = (Some("web.service".to_owned()), "/usr/bin/web".to_owned());
            vec![ReplacedStatus { pid: 7, uid: 7, unit, program, loses: vec![], keeps: vec![] }]
        }

        fn explain_pid(&self, pid: u32) -> BoxFuture<'static, Result<ExplainReport, NotExplained>> {
            std::future::ready(match pid {
                1 => Ok(denied(1)),
                2 => Err(Undecided::OutOfDescriptors.into()),
                _ => Err(NotExplained::NoSuchProcess { pid }),
            })
            .boxed()
        }

        fn explain_denial(&self, id: &str) -> Option<ExplainReport> {
            (id == "d-000000000001").then(|| denied(3))
        }

        fn reload(&self) -> BoxFuture<'static, ReloadReport> {
            let reloads = self.reloads.clone();
            async move {
                tokio::task::yield_now().await;
                reloads.send_modify(|reloads| *reloads += 1);
                ReloadReport { swapped: true, ..ReloadReport::default() }
            }
            .boxed()
        }

        fn authority(&self) -> AuthorityReport {
            AuthorityReport {
                kind: "embedded".to_owned(),
                sequence: Some(7),
                sampled_at: 1_700_000_000.0,
                keys: KeyKind::ALL.map(key).to_vec(),
                orphaned_svids: 0,
                rotations: true,
                reasons: vec![],
            }
        }

        fn rotate(&self, order: RotationOrder) -> BoxFuture<'static, Result<RotationReport, NotRotated>> {
            let (rotations, not_rotated) = (self.rotations.clone(), self.not_rotated.clone());
            async move {
                tokio::task::yield_now().await;
                rotations.send_modify(|rotations| rotations.push(order));
                let keys: Vec<_> = order.kinds().map(key).collect();
                let tainted = if order.taint { keys.clone() } else { vec![] };
                not_rotated.map_or_else(
                    || {
                        Ok(RotationReport {
                            sampled_at: 1_700_000_000.0,
                            published: keys.clone(),
                            replaced: keys,
                            svids_to_renew: tainted.iter().map(|key| key.svids).sum(),
                            tainted,
                            tokens_to_end: 0,
                        })
                    },
                    Err,
                )
            }
            .boxed()
        }
    }
}
