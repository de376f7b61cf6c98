//! What one connection was handed and may not have left yet: which identities, and what each rests on. Read before every
//! first byte of a secret; refuses to know how anything is sent.

use std::sync::Arc;

use crate::attestation::ImageEpoch;
use crate::entitlement::examine::entries_under;
use crate::entitlement::node_state::Rulebook;
use crate::identity::SpiffeId;
use crate::policy::decide::Trace;

/// What a decision rests on.
#[derive(Debug, Clone)]
pub(in crate::entitlement) struct DecisionBasis {
    /// Everything that was decided by.
    pub(in crate::entitlement) trace: Arc<Trace>,
    /// The image that it was decided for.
    pub(in crate::entitlement) image: ImageEpoch,
}

/// The latest state of every stream, and all answers to single calls.
#[derive(Debug, Default)]
pub(in crate::entitlement) struct Outbound {
    /// A list, for most connections have one stream, and a map makes room for eleven at once.
    all: Vec<Item>,
}

/// Identities, and what they rest on.
#[derive(Debug)]
struct Item {
    /// The stream; `None` for what answers single calls.
    stream: Option<u64>,
    basis: DecisionBasis,
    ids: Vec<SpiffeId>,
    /// The entries under which every one of `ids` is known to be permitted on this basis.
    permitted_under: Option<u64>,
}

impl Outbound {
    /// Takes in the whole state of a stream: what it was handed before counts no more.
    pub(in crate::entitlement) fn set_stream(&mut self, stream: u64, basis: &DecisionBasis, ids: Vec<SpiffeId>) {
        self.put(Item::new(Some(stream), basis, ids));
    }

    /// Takes in the answer to a single call.
    ///
    /// SECURITY: nobody says when an answer has left, so the ones before it stay, for as long as the connection does. They
    /// rest on this decision from now on: it is the latest about the same process.
    pub(in crate::entitlement) fn add_reply(&mut self, basis: &DecisionBasis, ids: Vec<SpiffeId>) {
        let mut answer = Item::new(None, basis, ids);
        if let Some(before) = self.all.iter_mut().find(|held| held.stream.is_none()) {
            for id in before.ids.drain(..) {
                if !answer.ids.contains(&id) {
                    answer.ids.push(id);
                    answer.permitted_under = None;
                }
            }
        }
        self.put(answer);
    }

    fn put(&mut self, holding: Item) {
        match self.all.iter_mut().find(|held| held.stream == holding.stream) {
            Some(held) => *held = holding,
            None => {
                self.all.reserve_exact(1);
                self.all.push(holding);
            }
        }
    }

    /// Notes that a stream was decided again. Everything rests on this now, whoever was handed it: it is the latest
    /// decision about the same process, and an earlier one may lack a fact that nobody wanted then.
    pub(in crate::entitlement) fn decided_again(&mut self, basis: &DecisionBasis) {
        for held in &mut self.all {
            held.basis = basis.clone();
            held.permitted_under = None;
        }
    }

    /// Forgets what a stream was handed, because the stream has ended.
    pub(in crate::entitlement) fn forget(&mut self, stream: u64) {
        self.all.retain(|held| held.stream != Some(stream));
    }

    /// The images that it was decided for: one, unless the process moved in between; none when there is nothing.
    pub(in crate::entitlement) fn images(&self) -> Vec<ImageEpoch> {
        let mut images = Vec::with_capacity(1);
        for held in &self.all {
            if !images.contains(&held.basis.image) {
                images.push(held.basis.image);
            }
        }
        images
    }

    /// Whether all of it is still permitted: the entries may have changed while it waited to be sent.
    pub(in crate::entitlement) fn is_permitted(&mut self, rulebook: &Rulebook) -> bool {
        let epoch = rulebook.entries.epoch();
        self.all.iter_mut().filter(|held| held.permitted_under != Some(epoch)).all(|held| {
            let entries = entries_under(&held.basis.trace, rulebook);
            let permitted = held.ids.iter().all(|id| entries.iter().any(|entry| entry.id == *id));
            held.permitted_under = permitted.then_some(epoch);
            permitted
        })
    }
}

impl Item {
    /// Of identities that were granted by the decision itself.
    fn new(stream: Option<u64>, basis: &DecisionBasis, ids: Vec<SpiffeId>) -> Self {
        Self { stream, basis: basis.clone(), ids, permitted_under: Some(basis.trace.entries_epoch) }
    }
}
