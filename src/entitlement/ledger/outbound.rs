//! What one connection was handed and what has not left it yet: which identities of which process, and the decision behind
//! each. Read before bytes of a secret leave; refuses to know how anything is sent.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::attestation::Epoch;
use crate::attestation::source::AnswerAge;
use crate::entitlement::liveness::CheckedProcess;
use crate::evidence::EpochParts;
use crate::identity::SpiffeId;
use crate::policy::Rulebook;
use crate::policy::Trace;
use crate::policy::redecide;

/// What a decision was made on.
#[derive(Debug, Clone)]
pub(in crate::entitlement) struct DecisionBasis {
    /// The evidence and the rulebook's epoch.
    pub(in crate::entitlement) trace: Arc<Trace>,
    /// The process as it was attested.
    pub(in crate::entitlement) epoch: Epoch,
    /// What of it the identities rest on.
    pub(in crate::entitlement) rests_on: EpochParts,
    /// Whether the sources behind the evidence would answer otherwise by now.
    pub(in crate::entitlement) ages: Vec<AnswerAge>,
}

/// Answers that are handed over within this time of a check share it.
const ONE_TURN: Duration = Duration::from_millis(1);

/// Every hand-over that is on its way.
#[derive(Debug, Default)]
pub(in crate::entitlement) struct Outbound {
    /// A list, for most connections have one at a time, and a map makes room for eleven at once.
    items: Vec<Item>,
    /// The number of the next item.
    next: u64,
    /// When the process of the last item was checked as of its decision, and nothing has left since.
    checked: Option<Instant>,
}

/// An identity that must not leave.
#[derive(Debug)]
pub(in crate::entitlement) struct NotPermitted {
    pub(in crate::entitlement) process: Arc<CheckedProcess>,
    /// The latest decision about the process that gave it something.
    pub(in crate::entitlement) trace: Arc<Trace>,
    pub(in crate::entitlement) id: SpiffeId,
}

/// Identities of one process, and the decision behind them.
#[derive(Debug)]
struct Item {
    number: u64,
    process: Arc<CheckedProcess>,
    basis: DecisionBasis,
    ids: Vec<SpiffeId>,
    /// The epoch of the rulebook under which every one of `ids` is known to be permitted on this basis.
    permitted_under: Option<u64>,
    /// The latest decision about the process was a "no".
    denied: bool,
}

impl Outbound {
    /// Whether the process was checked by the same decision just now, for something that has not left yet.
    ///
    /// SECURITY: answers that are ready together are handed over together, and one check before the first byte of any of
    /// them follows all of their hand-overs.
    pub(in crate::entitlement) fn is_checked(&self, process: &Arc<CheckedProcess>, basis: &DecisionBasis) -> bool {
        let is_recent = self.checked.is_some_and(|at| at.elapsed() < ONE_TURN);
        let by_same = |Item { process: known, basis: of, .. }: &Item| {
            Arc::ptr_eq(known, process) && of.epoch == basis.epoch && of.rests_on == basis.rests_on
        };
        is_recent && self.items.last().is_some_and(by_same)
    }

    /// Notes that the process of the last item was checked now.
    pub(in crate::entitlement) fn note_check(&mut self) {
        self.checked = Some(Instant::now());
    }

    /// Notes that what waits may leave now: the next hand-over is checked by itself.
    pub(in crate::entitlement) fn note_leave(&mut self) {
        self.checked = None;
    }

    /// Takes in identities that were granted by the decision itself. Returns the number to forget them by.
    pub(in crate::entitlement) fn add(
        &mut self,
        process: &Arc<CheckedProcess>,
        basis: &DecisionBasis,
        ids: Vec<SpiffeId>,
    ) -> u64 {
        let (number, process, basis) = (self.next, Arc::clone(process), basis.clone());
        let permitted_under = Some(basis.trace.rulebook_epoch);
        self.next += 1;
        self.items.reserve_exact(1);
        self.items.push(Item { number, process, basis, ids, permitted_under, denied: false });
        number
    }

    /// Forgets what has left, or never will.
    pub(in crate::entitlement) fn forget(&mut self, number: u64) {
        self.items.retain(|item| item.number != number);
        if self.items.is_empty() {
            self.items = Vec::new(); // an idle connection holds no memory for it
        }
    }

    /// Notes a later decision about a process. Everything that was handed over of it depends on this one now: an earlier
    /// decision may lack a fact that no entry wanted then.
    pub(in crate::entitlement) fn decided_again(&mut self, process: &Arc<CheckedProcess>, basis: &DecisionBasis) {
        for item in self.items.iter_mut().filter(|item| Arc::ptr_eq(&item.process, process)) {
            item.basis = basis.clone();
            (item.permitted_under, item.denied) = (None, false);
        }
    }

    /// Notes that a process was denied everything: what was handed over of it and waits must not leave, although the
    /// evidence of then would permit it still.
    pub(in crate::entitlement) fn denied(&mut self, process: &Arc<CheckedProcess>) {
        for item in self.items.iter_mut().filter(|item| Arc::ptr_eq(&item.process, process)) {
            item.denied = true;
        }
    }

    /// The processes about which a source of evidence would answer otherwise by now: they have to be decided again.
    pub(in crate::entitlement) fn outdated(&self) -> Vec<Arc<CheckedProcess>> {
        let mut outdated: Vec<Arc<CheckedProcess>> = Vec::new();
        for Item { process, .. } in self.items.iter().filter(|item| item.is_outdated()) {
            if !outdated.iter().any(|known| Arc::ptr_eq(known, process)) {
                outdated.push(Arc::clone(process));
            }
        }
        outdated
    }

    /// Each process with what was decided about it: one, unless it moved in between or the connection asks about several.
    pub(in crate::entitlement) fn bases(&self) -> Vec<(Arc<CheckedProcess>, Epoch, EpochParts)> {
        let mut bases: Vec<(Arc<CheckedProcess>, Epoch, EpochParts)> = Vec::with_capacity(1);
        for Item { process, basis, .. } in &self.items {
            let same = |(known, epoch, rests_on): &&mut (_, _, EpochParts)| {
                Arc::ptr_eq(known, process) && *epoch == basis.epoch && *rests_on == basis.rests_on
            };
            if !bases.iter_mut().any(|known| same(&known)) {
                bases.push((Arc::clone(process), basis.epoch, basis.rests_on));
            }
        }
        bases
    }

    /// The first identity on its way that is not permitted any more: the rulebook may have changed while it waited to be
    /// sent.
    pub(in crate::entitlement) fn not_permitted(&mut self, rulebook: &Rulebook) -> Option<NotPermitted> {
        let epoch = rulebook.epoch();
        let stale = self.items.iter_mut().filter(|item| item.denied || item.permitted_under != Some(epoch));
        stale.into_iter().find_map(|item| {
            let verdict = redecide(&item.basis.trace, rulebook);
            // What is open was granted before a provider went down, and is kept; nothing new is handed over by it.
            let lost = item.ids.iter().find(|id| item.denied || !verdict.may_give(id));
            item.permitted_under = lost.is_none().then_some(epoch);
            let (process, trace) = (&item.process, &item.basis.trace);
            lost.map(|id| NotPermitted { process: Arc::clone(process), trace: Arc::clone(trace), id: id.clone() })
        })
    }
}

impl Item {
    /// A denial stands until the next decision of a stream or a call.
    fn is_outdated(&self) -> bool {
        !self.denied && self.basis.ages.iter().any(AnswerAge::is_outdated)
    }
}
