//! Named reasons for "not yet" and "degraded". A room registers a reason and blocks it as long as it is true; health,
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

/// A reason that blocks now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveReason {
    /// A stable name, for example `configuration`.
    pub name: String,
    /// What it does to the state.
    pub severity: Severity,
    /// What happened, why, and what to do, for the operator.
    pub detail: String,
}

/// The set of reasons. Clones share it.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<Reasons>);

#[derive(Debug)]
struct Reasons {
    registered: Mutex<Registered>,
    active: watch::Sender<Arc<[ActiveReason]>>,
}

#[derive(Debug, Default)]
struct Registered {
    next: u64,
    /// By name and by order of registration.
    active: BTreeMap<(&'static str, u64), ActiveReason>,
}

/// A registered reason. Clones share it; when the last of them is dropped, it is cleared.
#[derive(Debug, Clone)]
pub struct Reason(Arc<Slot>);

#[derive(Debug)]
struct Slot {
    reasons: Arc<Reasons>,
    key: (&'static str, u64),
}

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(Reasons { registered: Mutex::default(), active: watch::Sender::new(Arc::new([])) }))
    }
}

impl Readiness {
    /// Registers a reason, which does not block yet. Two with one `name` block independently.
    #[must_use]
    pub fn register(&self, name: &'static str) -> Reason {
        let mut registered = self.0.registered.lock().unwrap_or_else(PoisonError::into_inner);
        registered.next += 1;
        Reason(Arc::new(Slot { reasons: self.0.clone(), key: (name, registered.next) }))
    }

    /// The reasons that block now, and a wait for their change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<[ActiveReason]>> {
        self.0.active.subscribe()
    }

    /// Whether nothing stands in the way of serving.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.active.borrow().iter().all(|reason| reason.severity < Severity::NotReady)
    }
}

impl Reason {
    /// Blocks with this severity and detail, in place of the ones before. Returns whether they were others.
    pub fn block(&self, severity: Severity, detail: impl Into<String>) -> bool {
        self.0.set(Some(ActiveReason { name: self.0.key.0.to_owned(), severity, detail: detail.into() }))
    }

    /// Stops blocking.
    pub fn clear(&self) {
        self.0.set(None);
    }
}

impl Slot {
    /// Wakes nobody where nothing changes. Returns whether something has.
    fn set(&self, reason: Option<ActiveReason>) -> bool {
        let mut registered = self.reasons.registered.lock().unwrap_or_else(PoisonError::into_inner);
        let active = &mut registered.active;
        if active.get(&self.key) == reason.as_ref() {
            return false;
        }
        match reason {
            Some(reason) => drop(active.insert(self.key, reason)),
            None => drop(active.remove(&self.key)),
        }
        self.reasons.active.send_replace(active.values().cloned().collect());
        true
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(readiness: &Readiness) -> Vec<String> {
        readiness.watch().borrow().iter().map(|reason| format!("{}: {}", reason.name, reason.detail)).collect()
    }

    #[test]
    fn a_reason_blocks_until_it_is_cleared_and_readiness_depends_on_severity() {
        let readiness = Readiness::default();
        let [disk, clock] = ["disk", "clock"].map(|name| readiness.register(name));
        assert!(details(&readiness).is_empty(), "a registered reason does not block yet");
        disk.block(Severity::Degraded, "full");
        assert!(readiness.is_ready());
        clock.block(Severity::NotReady, "unset");
        clock.block(Severity::NotReady, "in 1970");
        assert!(!readiness.is_ready());
        assert_eq!(details(&readiness), ["clock: in 1970", "disk: full"]);
        clock.clear();
        assert!(readiness.is_ready());
        assert_eq!(details(&readiness), ["disk: full"]);
    }

    #[test]
    fn a_reason_is_cleared_when_its_last_holder_drops_it() {
        let readiness = Readiness::default();
        let reason = readiness.register("disk");
        let other = reason.clone();
        reason.block(Severity::Degraded, "full");
        drop(reason);
        assert_eq!(details(&readiness), ["disk: full"]);
        drop(other);
        assert!(details(&readiness).is_empty());
    }

    #[test]
    fn two_reasons_of_one_name_do_not_clear_each_other() {
        let readiness = Readiness::default();
        let [first, second] = [(); 2].map(|()| readiness.register("socket"));
        first.block(Severity::NotReady, "workload.sock is gone");
        second.block(Severity::NotReady, "admin.sock is gone");
        first.clear();
        assert_eq!(details(&readiness), ["socket: admin.sock is gone"]);
    }

    #[test]
    fn a_watcher_wakes_only_for_a_change() {
        let readiness = Readiness::default();
        let reason = readiness.register("disk");
        let mut watcher = readiness.watch();
        reason.clear();
        assert!(!watcher.has_changed().unwrap());
        reason.block(Severity::Degraded, "full");
        assert!(watcher.has_changed().unwrap());
        watcher.mark_unchanged();
        reason.block(Severity::Degraded, "full");
        assert!(!watcher.has_changed().unwrap());
    }
}
