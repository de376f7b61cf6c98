//! One connection and one process that it asks about: what is issued, handed over and written down for it. The two are one
//! process for a workload, and not for a broker.

use std::future::pending;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::attestation::NotAttested;
use crate::attestation::PinnedProcess;
use crate::audit::Event;
use crate::audit::Record;
use crate::entitlement::door::Ended;
use crate::entitlement::door::OnItsWay;
use crate::entitlement::images::HeldImage;
use crate::entitlement::ledger::outbound::DecisionBasis;
use crate::entitlement::ledger::outbound::Outbound;
use crate::entitlement::ledger::records;
use crate::entitlement::ledger::refusals::RefusalCause;
use crate::entitlement::liveness::CheckedProcess;
use crate::entitlement::node_state::NodeState;
use crate::evidence::Credentials;
use crate::evidence::Principal;
use crate::identity::SpiffeId;
use crate::issuance::Holder;
use crate::issuance::Issuance;
use crate::issuance::IssuanceId;
use crate::issuance::IssueError;
use crate::issuance::IssuedX509Svid;
use crate::policy::DecisionId;
use crate::policy::Permit;
use crate::policy::Trace;

/// One connection: who speaks on it, and what was handed to it.
#[derive(Debug)]
pub(in crate::entitlement) struct Session {
    pub(in crate::entitlement) node: Arc<NodeState>,
    pub(in crate::entitlement) peer: HeldImage,
    /// Whom everything on it is charged to.
    pub(in crate::entitlement) principal: Principal,
    outbound: Mutex<Outbound>,
}

/// One process that a connection asks about.
#[derive(Debug)]
pub(in crate::entitlement) struct SessionSubject {
    pub(in crate::entitlement) session: Arc<Session>,
    /// `None` where it is the connection's own.
    pub(in crate::entitlement) other: Option<HeldImage>,
}

/// Something that was handed to the door: among what is on its way until it is dropped.
struct HandedOver {
    session: Arc<Session>,
    number: u64,
}

/// Why nothing was issued on a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::entitlement) enum NotIssued {
    /// The rulebook changed between the decision and the issue: decide again.
    Stale,
    /// It could not be done, and the refusal is kept under this name.
    Failed(DecisionId),
}

impl Session {
    pub(in crate::entitlement) fn new(node: Arc<NodeState>, peer: PinnedProcess) -> Self {
        let principal = peer.principal();
        Self { peer: node.images.of(peer), node, principal, outbound: Mutex::default() }
    }

    /// What was handed to the door and has not left yet.
    pub(in crate::entitlement) fn outbound(&self) -> MutexGuard<'_, Outbound> {
        self.outbound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionSubject {
    pub(in crate::entitlement) fn node(&self) -> &Arc<NodeState> {
        &self.session.node
    }

    pub(in crate::entitlement) fn process(&self) -> &Arc<CheckedProcess> {
        self.other.as_ref().unwrap_or(&self.session.peer).process()
    }

    pub(in crate::entitlement) fn pinned(&self) -> &PinnedProcess {
        &self.process().pinned
    }

    /// Resolves when nothing can be handed out any more: the process or the connection's own has exited, or the daemon
    /// stops.
    pub(in crate::entitlement) fn closed(&self) -> BoxFuture<'static, Ended> {
        let node = Arc::clone(self.node());
        let exited = self.pinned().process().exited();
        let peer_exited = match self.other {
            Some(_) => self.session.peer.pinned.process().exited(),
            None => pending().boxed(),
        };
        async move {
            tokio::select! {
                biased;
                () = node.parts.stop.cancelled() => Ended::Stopping,
                () = exited => node.gone(),
                () = peer_exited => node.gone(),
            }
        }
        .boxed()
    }

    /// The first of the two checks before a secret leaves, at the moment when the door gets it. The transport makes the
    /// second before its bytes leave, by what is noted here. Bundles alone are no secret: the end of their process must not
    /// cut a connection that asks about others, too.
    pub(in crate::entitlement) fn hand_over(
        &self,
        basis: &DecisionBasis,
        ids: Vec<SpiffeId>,
    ) -> Result<OnItsWay, NotAttested> {
        let is_checked = self.session.outbound().is_checked(self.process(), basis);
        if !is_checked {
            self.process().check_now(&basis.epoch, basis.rests_on)?;
        }
        if ids.is_empty() {
            return Ok(Box::new(()));
        }
        let mut outbound = self.session.outbound();
        let number = outbound.add(self.process(), basis, ids);
        if !is_checked {
            outbound.note_check();
        }
        drop(outbound);
        Ok(Box::new(HandedOver { session: Arc::clone(&self.session), number }))
    }

    /// Takes note of a decision that denies the process everything: nothing that waits may leave any more.
    pub(in crate::entitlement) fn note_denial(&self, ended: Ended) {
        if matches!(ended, Ended::Denied(_)) {
            self.session.outbound().denied(self.process());
        }
    }

    /// Issues for one permit of the decision of `trace`, and writes it down before anything of it can leave. What comes back
    /// unchanged, because it is one of `held`, is not handed over again.
    pub(in crate::entitlement) async fn issue_x509(
        &self,
        permit: Permit,
        trace: &Trace,
        held: &[IssuanceId],
    ) -> Result<IssuedX509Svid, NotIssued> {
        let holder = Holder { principal: self.session.principal, svids: &self.process().svids, held };
        match self.node().issuer.x509_svid(holder, permit).await {
            Ok(issued) => {
                if !held.contains(&issued.issuance.id) {
                    let event = if issued.first { Event::Issued } else { Event::Delivered };
                    self.record(event, &issued.issuance, trace, None);
                }
                Ok(issued)
            }
            Err(why) => Err(self.not_issued(&why)),
        }
    }

    /// Keeps and logs that nothing was issued, for a cause on our side; a stale permit is none.
    pub(in crate::entitlement) fn not_issued(&self, why: &IssueError) -> NotIssued {
        if *why == IssueError::StalePermit {
            return NotIssued::Stale;
        }
        let Credentials { pid, uid, .. } = self.pinned().process().peer();
        tracing::warn!(%why, pid, uid, "issuance failed");
        NotIssued::Failed(self.node().keep(self.pinned(), RefusalCause::Undecided(why.undecided()), None))
    }

    /// Writes down what happened to a credential.
    pub(in crate::entitlement) fn record(
        &self,
        event: Event,
        issuance: &Issuance,
        trace: &Trace,
        reason: Option<&'static str>,
    ) {
        let node = self.node();
        let record = records::issuance(event, issuance, trace, node.now());
        node.parts.audit.record(Record { reason: reason.map(str::to_owned), ..record });
    }
}

impl Drop for HandedOver {
    fn drop(&mut self) {
        self.session.outbound().forget(self.number);
    }
}
