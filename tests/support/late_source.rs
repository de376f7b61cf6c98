//! A source of evidence that behaves: it knows labels of processes by their user, needs a while to find them out, changes
//! its mind, goes down, hangs, and comes back.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;

use bonafide::attestation::PinId;
use bonafide::attestation::PinnedProcess;
use bonafide::attestation::source::Asked;
use bonafide::attestation::source::Changes;
use bonafide::attestation::source::EvidenceSource;
use bonafide::attestation::source::Known;
use bonafide::evidence::Fact;
use bonafide::evidence::Grade;
use bonafide::evidence::Provider;
use bonafide::evidence::Selector;
use bonafide::evidence::Source;
use bonafide::evidence::Undecided;

/// How long it needs to find out about a process.
pub(crate) const DELAY: Duration = Duration::from_millis(80);

/// The source. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct LateSource {
    state: Arc<Mutex<State>>,
    changes: Changes,
}

#[derive(Debug, Default)]
struct State {
    /// What is true: labels by uid.
    labels: BTreeMap<u32, String>,
    /// The processes that it has found out about, or is finding out about.
    asked: BTreeSet<PinId>,
    found: BTreeSet<PinId>,
    is_down: bool,
    hangs: bool,
    /// A caller gave up waiting, and it has not answered since.
    is_late: bool,
}

impl LateSource {
    /// From now on the processes of this user have this label, or none.
    pub(crate) fn label(&self, uid: u32, label: Option<&str>) {
        match label {
            Some(label) => drop(self.state().labels.insert(uid, label.to_owned())),
            None => drop(self.state().labels.remove(&uid)),
        }
        self.changes.happened();
    }

    /// Whether the processes of this user have a label.
    pub(crate) fn is_labelled(&self, uid: u32) -> bool {
        self.state().labels.contains_key(&uid)
    }

    /// Every question fails from now on.
    pub(crate) fn go_down(&self) {
        self.state().is_down = true;
        self.changes.happened();
    }

    /// No question is answered from now on, and nothing that is known is told.
    pub(crate) fn hang(&self) {
        self.state().hangs = true;
        self.changes.happened();
    }

    /// Ends [`LateSource::go_down`] and [`LateSource::hang`].
    pub(crate) fn come_back(&self) {
        let mut state = self.state();
        (state.is_down, state.hangs, state.is_late) = (false, false, false);
        let asked = std::mem::take(&mut state.asked);
        state.found.extend(asked);
        drop(state);
        self.changes.happened();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn find_out(self, process: PinId) {
        tokio::time::sleep(DELAY).await;
        let mut state = self.state();
        if !state.hangs && state.asked.remove(&process) {
            state.found.insert(process);
        }
        drop(state);
        self.changes.happened();
    }
}

impl EvidenceSource for LateSource {
    fn provider(&self) -> Provider {
        Provider::new("docker")
    }

    fn ask(&self, asked: &Asked<'_>) -> Known {
        let change = self.changes.next();
        let mut state = self.state();
        if state.is_down || state.is_late {
            return Known::undecided(Undecided::TimedOut).until(change);
        }
        if state.hangs || !state.found.contains(&asked.id()) {
            if state.asked.insert(asked.id()) {
                tokio::spawn(self.clone().find_out(asked.id()));
            }
            return Known::pending(change);
        }
        let label = state.labels.get(&asked.process().peer().uid).map(|label| Fact {
            selector: Selector::try_from(format!("docker:label:{label}")).unwrap(),
            grade: Grade::Claimed,
            source: Source::Runtime,
        });
        Known::settled(label.into_iter().collect(), Vec::new()).until(change)
    }

    fn gave_up(&self, _: &PinnedProcess) {
        let mut state = self.state();
        state.is_late = state.hangs;
    }
}
