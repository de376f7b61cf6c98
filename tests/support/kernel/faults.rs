//! What the kernel has no answer to, and what it never comes back from.

use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;

use bonafide::evidence::Undecided;

/// What may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// Whether a process lives, and what its pidfd says.
    Pidfd,
    /// The files of its directory in `/proc`.
    Proc,
    /// Its namespaces.
    Namespaces,
    /// Which file it runs, and the text of the link.
    Executable,
    /// The file system of that file. Can hang.
    FileSystem,
    /// Its bytes. Can hang.
    Bytes,
    /// Which file the host has at a path. Can hang.
    AtPath,
}

impl Question {
    const CAN_HANG: [Self; 3] = [Self::FileSystem, Self::Bytes, Self::AtPath];
}

/// The faults of a machine and of single processes, by their place in the machine's list.
#[derive(Debug, Default)]
pub(super) struct Faults {
    failing: Vec<(Scope, Undecided)>,
    hanging: Vec<(Scope, Arc<Gate>)>,
}

/// Every process where there is no process, every question where there is no question.
#[derive(Debug, Clone, Copy)]
struct Scope {
    process: Option<usize>,
    question: Option<Question>,
}

impl Scope {
    fn covers(&self, question: Question, about: &[usize]) -> bool {
        let process = self.process.is_none_or(|process| about.contains(&process));
        process && self.question.is_none_or(|known| known == question)
    }
}

impl Faults {
    pub(super) fn add(&mut self, process: Option<usize>, question: Option<Question>, undecided: Undecided) {
        self.failing.push((Scope { process, question }, undecided));
    }

    pub(super) fn heal(&mut self) {
        self.failing.clear();
    }

    /// What this question about these processes is answered with; the latest fault where there are several.
    pub(super) fn of(&self, question: Question, about: &[usize]) -> Option<Undecided> {
        let failing = self.failing.iter().rev().find(|(scope, _)| scope.covers(question, about));
        failing.map(|(_, undecided)| *undecided)
    }

    pub(super) fn hang(&mut self, process: Option<usize>, question: Question) -> Hang {
        assert!(Question::CAN_HANG.contains(&question), "{question:?} is answered from memory");
        let gate = Arc::new(Gate::default());
        self.hanging.push((Scope { process, question: Some(question) }, gate.clone()));
        Hang(gate)
    }

    /// What whoever asks this about these processes has to wait at.
    pub(super) fn gate(&self, question: Question, about: &[usize]) -> Option<Arc<Gate>> {
        let closed = self.hanging.iter().filter(|(_, gate)| !*gate.open.lock().unwrap());
        closed.into_iter().find(|(scope, _)| scope.covers(question, about)).map(|(_, gate)| gate.clone())
    }
}

/// A question that hangs. Dropping it lets everyone go who asked, and answers whoever asks later.
#[derive(Debug)]
pub(crate) struct Hang(Arc<Gate>);

impl Drop for Hang {
    fn drop(&mut self) {
        *self.0.open.lock().unwrap() = true;
        self.0.opened.notify_all();
    }
}

/// Where threads wait until it is opened, once and for all.
#[derive(Debug, Default)]
pub(super) struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub(super) fn wait(&self) {
        let open = self.open.lock().unwrap();
        drop(self.opened.wait_while(open, |open| !*open).unwrap());
    }
}
