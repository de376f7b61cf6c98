//! Named reasons for "not yet" and "degraded". A room registers a reason and holds it as long as it is true; health,
//! status and `READY=1` read them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use serde::Deserialize;
use serde::Serialize;
use tokio::sync::watch;

/// What a reason does to the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Serving, but not as it should.
    Degraded,
    /// Cannot serve yet, or any more.
    NotReady,
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// A stable name, for example `configuration`.
    pub name: String,
    /// What it does to the state.
    pub severity: Severity,
    /// What happened, why, and what to do, for the operator.
    pub detail: String,
}

/// The board of reasons. Clones share it.
#[derive(Debug, Clone)]
pub struct Readiness {
    reasons: Arc<Mutex<BTreeMap<&'static str, Reason>>>,
    changed: Arc<watch::Sender<Arc<[Reason]>>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { reasons: Arc::default(), changed: Arc::new(watch::Sender::new(Arc::new([]))) }
    }
}

impl Readiness {
    /// Says that `name` stands in the way; replaces what it said before.
    pub fn block(&self, name: &'static str, severity: Severity, detail: impl Into<String>) {
        let reason = Reason { name: name.to_owned(), severity, detail: detail.into() };
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        if reasons.get(name) != Some(&reason) {
            reasons.insert(name, reason);
            self.changed.send_replace(reasons.values().cloned().collect());
        }
    }

    /// Says that `name` stands in the way no more.
    pub fn clear(&self, name: &str) {
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        if reasons.remove(name).is_some() {
            self.changed.send_replace(reasons.values().cloned().collect());
        }
    }

    /// The reasons now, and a wait for their change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<[Reason]>> {
        self.changed.subscribe()
    }

    /// Whether nothing stands in the way of serving.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.changed.borrow().iter().all(|reason| reason.severity < Severity::NotReady)
    }
}
