//! What the issuer has done, in numbers.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// Counters since the start of the process, of certificates and tokens together.
#[derive(Debug, Default)]
pub struct IssuanceMetrics {
    issued: AtomicU64,
    failed: AtomicU64,
    clamped: AtomicU64,
}

impl IssuanceMetrics {
    /// SVIDs that were signed.
    pub fn issued(&self) -> u64 {
        self.issued.load(Ordering::Relaxed)
    }

    /// Permits on which nothing could be signed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// SVIDs that live shorter than their entry says, because the authority itself ends.
    pub fn clamped(&self) -> u64 {
        self.clamped.load(Ordering::Relaxed)
    }

    pub(super) fn count_issued(&self, clamped: bool) {
        self.issued.fetch_add(1, Ordering::Relaxed);
        self.clamped.fetch_add(u64::from(clamped), Ordering::Relaxed);
    }

    pub(super) fn count_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}
