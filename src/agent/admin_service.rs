//! Answers the questions of the admin API.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::agent::config::Config;
use crate::agent::config::accounts;
use crate::agent::names_by_id::NamesById;
use crate::agent::reload::ReloadTrigger;
use crate::agent::reload::Reloader;
use crate::attestation::kernel::Unanswered;
use crate::audit::Sink;
use crate::authority::Authority;
use crate::authority::KeyKind;
use crate::authority::KeyStatus;
use crate::authority::NotRotated;
use crate::authority::Note;
use crate::authority::RotationBegun;
use crate::authority::RotationOrder;
use crate::authority::SignerLocation;
use crate::authority::Stage;
use crate::endpoints::admin::operations::NotExplained;
use crate::endpoints::admin::operations::Operations;
use crate::endpoints::admin::reports::AttestorStatus;
use crate::endpoints::admin::reports::AuthorityReport;
use crate::endpoints::admin::reports::AuthorityStatus;
use crate::endpoints::admin::reports::BundleStatus;
use crate::endpoints::admin::reports::ConfigurationStatus;
use crate::endpoints::admin::reports::ExplainOutcome;
use crate::endpoints::admin::reports::ExplainReport;
use crate::endpoints::admin::reports::HealthState;
use crate::endpoints::admin::reports::IdentitiesStatus;
use crate::endpoints::admin::reports::KeyReport;
use crate::endpoints::admin::reports::LastHourStatus;
use crate::endpoints::admin::reports::LogStatus;
use crate::endpoints::admin::reports::ReloadReport;
use crate::endpoints::admin::reports::ReplacedStatus;
use crate::endpoints::admin::reports::RotationReport;
use crate::endpoints::admin::reports::SocketStatus;
use crate::endpoints::admin::reports::StatusReport;
use crate::entitlement::examine::Examination;
use crate::entitlement::examine::ReplacedProgram;
use crate::entitlement::ledger::live::LiveStream;
use crate::entitlement::ledger::records::AWAITING;
use crate::entitlement::ledger::records::awaiting;
use crate::entitlement::ledger::records::denied_because;
use crate::entitlement::ledger::records::seconds;
use crate::entitlement::ledger::records::word;
use crate::entitlement::ledger::refusals::RefusalCause;
use crate::entitlement::node_state::NodeState;
use crate::evidence::Level;
use crate::fairness::Budgets;
use crate::names::NameService;
use crate::policy::explain;
use crate::readiness::Readiness;
use crate::readiness::Severity;
use crate::time::Clock;

/// The running daemon.
pub(in crate::agent) struct AdminService {
    /// The callers.
    pub(in crate::agent) node_state: Arc<NodeState>,
    /// The configuration.
    pub(in crate::agent) reloader: Arc<Reloader>,
    /// Who the users and groups are.
    pub(in crate::agent) name_service: Arc<NameService>,
    /// Who signs.
    pub(in crate::agent) authority: Arc<dyn Authority>,
    /// The audit log.
    pub(in crate::agent) audit: Arc<dyn Sink>,
    /// The kernel level.
    pub(in crate::agent) level: Level,
    /// What is charged.
    pub(in crate::agent) budgets: Budgets,
    /// Why it does not serve, or not as it should.
    pub(in crate::agent) readiness: Readiness,
    /// Who the users and groups of a process are.
    pub(in crate::agent) names: NamesById,
    /// The wall clock.
    pub(in crate::agent) clock: Arc<dyn Clock>,
    /// When it started.
    pub(in crate::agent) started: Instant,
    /// Its doors.
    pub(in crate::agent) sockets: Vec<SocketStatus>,
}

impl fmt::Debug for AdminService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminService").field("sockets", &self.sockets).finish_non_exhaustive()
    }
}

impl Operations for Arc<AdminService> {
    fn status(&self) -> StatusReport {
        let active = self.reloader.active();
        let reasons = self.readiness.watch().borrow().to_vec();
        let tally = self.audit.tally();
        let worst = reasons.iter().map(|reason| reason.severity).max();
        StatusReport {
            state: match worst {
                None => HealthState::Healthy,
                Some(Severity::Degraded) => HealthState::Degraded,
                Some(Severity::NotReady) => HealthState::NotReady,
            },
            version: env!("CARGO_PKG_VERSION").to_owned(),
            trust_domain: active.config.trust_domain.to_string(),
            sampled_at: seconds(self.clock.now()),
            uptime_seconds: self.started.elapsed().as_secs(),
            level: self.level,
            authority: self.authority_status(),
            bundles: self.bundles(),
            identities: self.identities(),
            attestors: vec![self.host_attestor()],
            last_hour: LastHourStatus { denials: tally.last_hour.denials, undecided: tally.last_hour.undecided },
            configuration: ConfigurationStatus {
                file: self.reloader.file().display().to_string(),
                state: active.state,
                accepted_at: seconds(active.accepted_at),
            },
            sockets: self.sockets.clone(),
            log: LogStatus {
                dropped_lines: tally.dropped_lines,
                dropped_records: tally.dropped_records,
                suppressed_records: tally.suppressed_records,
                suppressed_lines: tally.suppressed_lines,
            },
            replaced: Vec::new(),
            reasons,
            notes: self.notes(&active.config),
        }
    }

    fn replaced(&self) -> Vec<ReplacedStatus> {
        self.node_state.replaced_programs().into_iter().map(replaced).collect()
    }

    fn explain_pid(&self, pid: u32) -> BoxFuture<'static, Result<ExplainReport, NotExplained>> {
        let daemon = Arc::clone(self);
        async move {
            let examination = daemon.node_state.examine(pid).await.map_err(|why| match why {
                Unanswered::Gone | Unanswered::Absent => NotExplained::NoSuchProcess { pid },
                Unanswered::Undecided(undecided) => NotExplained::Undecided(undecided),
            })?;
            let mut report = daemon.report(None, examination);
            daemon.names.add(&mut report.evidence).await;
            Ok(report)
        }
        .boxed()
    }

    fn explain_denial(&self, id: &str) -> Option<ExplainReport> {
        let refusal = self.node_state.refusals().find(id.parse().ok()?)?;
        Some(self.report(Some(id.to_owned()), Examination::from(refusal)))
    }

    fn reload(&self) -> BoxFuture<'static, ReloadReport> {
        let reloader = Arc::clone(&self.reloader);
        async move { reloader.reload(ReloadTrigger::Asked).await }.boxed()
    }

    fn authority(&self) -> AuthorityReport {
        let reasons = self.readiness.watch().borrow().to_vec();
        let now = self.clock.now();
        let (svids, keys) = (self.svids_by_issuer(), self.authority.keys(now));
        let rotations = self.authority.location() == SignerLocation::Local;
        let orphaned = svids.iter().filter(|(issuer, _)| rotations && keys.iter().all(|key| key.id != **issuer));
        AuthorityReport {
            kind: self.authority.kind().to_owned(),
            sequence: self.authority.bundle().borrow().sequence,
            sampled_at: seconds(now),
            orphaned_svids: orphaned.map(|(_, serials)| serials.len() as u64).sum(),
            keys: keys.iter().map(|key| key_report(key, &svids)).collect(),
            rotations,
            reasons: reasons.into_iter().filter(|reason| OF_AUTHORITY.contains(&&*reason.name)).collect(),
        }
    }

    fn rotate(&self, order: RotationOrder) -> BoxFuture<'static, Result<RotationReport, NotRotated>> {
        let daemon = Arc::clone(self);
        async move {
            // It writes to the disk, on a thread that serves nobody.
            let rotated = tokio::task::spawn_blocking(move || daemon.rotate_now(order)).await;
            rotated.unwrap_or_else(|panic| Err(NotRotated::NotKept(format!("the rotation failed: {panic}"))))
        }
        .boxed()
    }
}

/// The reasons that concern the authority.
const OF_AUTHORITY: [&str; 3] = ["authority", "data_dir", "rotation"];

impl AdminService {
    fn authority_status(&self) -> AuthorityStatus {
        let active = |key: &KeyStatus| key.kind == KeyKind::X509 && key.stage == Stage::Active;
        AuthorityStatus {
            kind: self.authority.kind().to_owned(),
            not_after: self.authority.not_after().map(seconds),
            next_rotation_at: self
                .authority
                .keys(self.clock.now())
                .into_iter()
                .find(active)
                .map(|key| seconds(key.next_stage_at)),
        }
    }

    fn rotate_now(&self, order: RotationOrder) -> Result<RotationReport, NotRotated> {
        // RACE: counted before the keys are tainted, for a stream renews as soon as they are.
        let svids = self.svids_by_issuer();
        let now = self.clock.moment();
        let RotationBegun { published, tainted } = self.authority.rotate(order, now)?;
        for KeyStatus { kind, id, next_stage_at, .. } in published.iter().cloned() {
            tracing::info!("{}", Note::Published { kind, id, used_from: next_stage_at });
        }
        for KeyStatus { kind, id, .. } in &tainted {
            tracing::warn!("an operator has tainted the {kind} key {id} of the authority: it may have leaked");
        }
        let reports = |keys: &[KeyStatus]| keys.iter().map(|key| key_report(key, &svids)).collect::<Vec<KeyReport>>();
        let signs_still = |key: &KeyStatus| key.stage == Stage::Active && order.kinds().any(|kind| kind == key.kind);
        let mut replaced = self.authority.keys(now.wall);
        replaced.retain(signs_still);
        let (published, replaced, tainted) = (reports(&published), reports(&replaced), reports(&tainted));
        Ok(RotationReport {
            sampled_at: seconds(now.wall),
            svids_to_renew: tainted.iter().map(|key| key.svids).sum(),
            tokens_to_end: tainted.iter().map(|key| key.tokens).sum(),
            published,
            replaced,
            tainted,
        })
    }

    /// The serial numbers of the live X509-SVIDs of each key. Streams of one process image share an SVID.
    fn svids_by_issuer(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut by_issuer: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for identity in self.node_state.live().snapshot().into_iter().flat_map(|stream| stream.identities) {
            if let Some(issuer) = identity.signed_by {
                by_issuer.entry(issuer.to_string()).or_default().insert(identity.serial);
            }
        }
        by_issuer
    }

    /// The warnings of the configuration in force, those about its user and group names as they are now.
    fn notes(&self, config: &Config) -> Vec<String> {
        let names = accounts::warnings(&config.names, &self.name_service.accounts().borrow());
        config.warnings.iter().chain(&names).map(ToString::to_string).collect()
    }

    fn bundles(&self) -> Vec<BundleStatus> {
        let bundles = self.node_state.bundles();
        bundles
            .all()
            .map(|bundle| BundleStatus {
                trust_domain: bundle.trust_domain.to_string(),
                x509_authorities: bundle.x509_authorities.len(),
                jwt_authorities: bundle.jwt_authorities.len(),
                sequence: bundle.sequence,
            })
            .collect()
    }

    fn identities(&self) -> IdentitiesStatus {
        let streams = self.node_state.live().snapshot();
        let live = || streams.iter().flat_map(|stream: &LiveStream| stream.identities.iter());
        IdentitiesStatus {
            entries: self.node_state.rulebook().entries().entries().len(),
            connections: self.budgets.usage().connections,
            live: live().count(),
            next_renewal_at: first(live().map(|identity| identity.renew_at)),
            next_expiry_at: first(live().map(|identity| identity.not_after)),
            renewals_failed: self.node_state.issuance().failed(),
            cut_short: self.node_state.issuance().clamped(),
        }
    }

    fn host_attestor(&self) -> AttestorStatus {
        let latencies = self.node_state.latencies();
        AttestorStatus {
            name: "host".to_owned(),
            median_microseconds: latencies.median(),
            worst_microseconds: latencies.worst(),
        }
    }

    fn report(&self, decision: Option<String>, examination: Examination) -> ExplainReport {
        let rulebook = self.node_state.rulebook();
        let mut explanation = explain(&examination.evidence, examination.level, &rulebook);
        // Before there is evidence nothing is compared: every entry would lack what the process may well have.
        let compared = !examination.evidence.facts().is_empty();
        explanation.considered.retain(|_| compared);
        ExplainReport {
            decision,
            decided_at: examination.at,
            peer: examination.peer,
            level: examination.level,
            evidence: examination.evidence,
            seen: examination.seen,
            entries: explanation.entries,
            entries_changed: examination.rulebook_epoch.is_some_and(|epoch| epoch != rulebook.epoch()),
            considered: explanation.considered,
            nearest_miss: explanation.nearest_miss.filter(|_| compared && examination.verdict.is_err()),
            result: outcome(examination.verdict),
            suggestion: compared.then_some(explanation.suggestion),
        }
    }
}

fn outcome(verdict: Result<Vec<String>, RefusalCause>) -> ExplainOutcome {
    match verdict {
        Ok(ids) => ExplainOutcome::Permitted { ids },
        Err(RefusalCause::Denied(denial)) => {
            ExplainOutcome::Denied { why: denied_because(&denial), detail: denial.to_string() }
        }
        Err(RefusalCause::Undecided(undecided)) => {
            ExplainOutcome::Undecided { cause: word(&undecided), detail: undecided.to_string() }
        }
        Err(RefusalCause::Awaiting(providers)) => {
            ExplainOutcome::Undecided { cause: AWAITING.to_owned(), detail: awaiting(&providers) }
        }
    }
}

fn key_report(key: &KeyStatus, svids: &BTreeMap<String, BTreeSet<String>>) -> KeyReport {
    let svids = svids.get(&key.id).filter(|_| key.kind == KeyKind::X509).map_or(0, BTreeSet::len);
    KeyReport {
        kind: key.kind,
        id: key.id.clone(),
        stage: key.stage,
        tainted: key.tainted,
        made: seconds(key.made),
        not_after: seconds(key.not_after),
        next_stage_at: seconds(key.next_stage_at),
        svids: svids as u64,
        tokens: key.tokens,
    }
}

fn replaced(program: ReplacedProgram) -> ReplacedStatus {
    let ReplacedProgram { peer, unit, path, loses, keeps } = program;
    let [loses, keeps] = [loses, keeps].map(|ids| ids.iter().map(ToString::to_string).collect());
    ReplacedStatus { pid: peer.pid, uid: peer.uid, unit, program: path, loses, keeps }
}

fn first(times: impl Iterator<Item = SystemTime>) -> Option<f64> {
    times.min().map(seconds)
}
