//! Counters of the issuer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::issuance::entry_key::EntriesInForce;
use crate::issuance::entry_key::EntryKey;
use crate::registration::Entry;

/// Counters since the start of the process.
#[derive(Debug, Default)]
pub struct IssuanceMetrics {
    issued: AtomicU64,
    failed: AtomicU64,
    clamped: AtomicU64,
    /// INVARIANT: its keys are entries of the current rulebook, which bounds its size.
    tokens: Mutex<HashMap<EntryKey, u64>>,
}

impl IssuanceMetrics {
    /// Signed SVIDs, certificates and tokens together.
    pub fn issued(&self) -> u64 {
        self.issued.load(Ordering::Relaxed)
    }

    /// Permits on which nothing was signed, and failed renewals of shared SVIDs.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// SVIDs that live shorter than their entry says, because the authority itself ends.
    pub fn clamped(&self) -> u64 {
        self.clamped.load(Ordering::Relaxed)
    }

    /// Tokens signed for an entry since it is in force. Single tokens are not kept.
    pub fn tokens_of(&self, entry: &Arc<Entry>) -> u64 {
        self.tokens().get(&EntryKey(Arc::clone(entry))).copied().unwrap_or_default()
    }

    pub(super) fn count_issued(&self, clamped: bool) {
        self.issued.fetch_add(1, Ordering::Relaxed);
        self.clamped.fetch_add(u64::from(clamped), Ordering::Relaxed);
    }

    pub(super) fn count_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a token, if its entry is still in force.
    ///
    /// RACE: `in_force` runs under the lock that [`Self::retain`] takes after the rulebook was replaced, so a dropped entry
    /// is not added again.
    pub(super) fn count_token(&self, entry: &Arc<Entry>, in_force: impl FnOnce() -> bool) {
        let mut tokens = self.tokens();
        if in_force() {
            *tokens.entry(EntryKey(Arc::clone(entry))).or_default() += 1;
        }
    }

    pub(super) fn retain(&self, in_force: &EntriesInForce) {
        self.tokens().retain(|entry, _| in_force.0.contains(entry));
    }

    fn tokens(&self) -> MutexGuard<'_, HashMap<EntryKey, u64>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
