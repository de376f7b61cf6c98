//! Sources of evidence besides the kernel. A source is asked during an attestation and answers at once: settled,
//! pending or undecided. It notifies when its answer changes, so that callers need not poll.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::future::select_all;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::attestation::executable::proven::ProvenExecutable;
use crate::attestation::kernel::FileIdentity;
use crate::attestation::kernel::ProcDirectory;
use crate::attestation::kernel::Process;
use crate::attestation::pinned::PinId;
use crate::attestation::pinned::PinnedProcess;
use crate::evidence::Answer;
use crate::evidence::Fact;
use crate::evidence::Principal;
use crate::evidence::Provider;
use crate::evidence::Undecided;
use crate::evidence::Withheld;

/// A provider of evidence besides the kernel.
pub trait EvidenceSource: Send + Sync + fmt::Debug {
    /// The provider that selectors name.
    fn provider(&self) -> Provider;

    /// Its facts about a process. Must not block: where the facts are not available yet, it starts the look-up and
    /// answers pending.
    fn ask(&self, asked: &Asked<'_>) -> Known;

    /// Reports that a caller waited the longest allowed time for a pending answer about this process. Until the source
    /// has an answer, it should answer undecided at once to callers that the same cause would delay. Does nothing by
    /// default.
    fn gave_up(&self, process: &PinnedProcess) {
        let _ = process;
    }
}

/// The process that a source is asked about, during one attestation.
pub struct Asked<'a> {
    pub(in crate::attestation) pinned: &'a PinnedProcess,
    pub(in crate::attestation) directory: &'a Arc<dyn ProcDirectory>,
    pub(in crate::attestation) executable: &'a FileIdentity,
}

impl Asked<'_> {
    /// The process.
    #[must_use]
    pub fn process(&self) -> &Arc<dyn Process> {
        self.pinned.process()
    }

    /// The id of the pinned process.
    #[must_use]
    pub fn id(&self) -> PinId {
        self.pinned.id()
    }

    /// The principal that work for it is charged to.
    #[must_use]
    pub fn principal(&self) -> Principal {
        self.pinned.principal()
    }

    /// Its directory in `/proc`, open for this attestation.
    #[must_use]
    pub fn directory(&self) -> &Arc<dyn ProcDirectory> {
        self.directory
    }

    /// What was proven of its running executable before.
    pub(in crate::attestation) fn proven(&self) -> &Arc<ProvenExecutable> {
        &self.pinned.proven
    }

    /// Its running executable.
    #[must_use]
    pub fn executable(&self) -> &FileIdentity {
        self.executable
    }
}

/// The answer of a source about one process.
#[derive(Debug)]
#[must_use]
pub struct Known {
    /// Whether the answer is complete.
    pub answer: Answer,
    /// The facts that it proves.
    pub facts: Vec<Fact>,
    /// The facts that it found and that do not count, with the reason.
    pub withheld: Vec<Withheld>,
    /// Resolves when the answer changes; `None` where it cannot change, or the source could not find out and cannot tell
    /// when it can.
    pub change: Option<Change>,
}

impl Known {
    /// A complete answer.
    pub fn settled(facts: Vec<Fact>, withheld: Vec<Withheld>) -> Self {
        Self { answer: Answer::Settled, facts, withheld, change: None }
    }

    /// The look-up is still running; `change` is its end.
    pub fn pending(change: Change) -> Self {
        Self { answer: Answer::Pending, facts: Vec::new(), withheld: Vec::new(), change: Some(change) }
    }

    /// The look-up failed.
    pub fn undecided(why: Undecided) -> Self {
        Self { answer: Answer::Undecided(why), facts: Vec::new(), withheld: Vec::new(), change: None }
    }

    /// Adds a notification for the next change of the answer.
    pub fn until(self, change: Change) -> Self {
        Self { change: Some(change), ..self }
    }
}

/// Notifies waiters that a source has changed its answers about some processes.
#[derive(Debug, Clone)]
pub struct Changes(watch::Sender<()>);

impl Default for Changes {
    fn default() -> Self {
        Self(watch::Sender::new(()))
    }
}

impl Changes {
    /// The next change. Call this before reading the state that may change, so that no change is missed.
    #[must_use]
    pub fn next(&self) -> Change {
        let mut changed = self.0.subscribe();
        let age = AnswerAge(changed.clone());
        let happens = async move {
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await; // the source was dropped: no more changes
            }
        };
        Change { happens: happens.boxed(), age: Some(age) }
    }

    /// Notifies all waiters.
    pub fn happened(&self) {
        self.0.send_replace(());
    }
}

/// After how long a source is asked again that could not find out and cannot tell when it can.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// A future that resolves when a source changes its answer.
pub struct Change {
    happens: BoxFuture<'static, ()>,
    age: Option<AnswerAge>,
}

/// Whether a source has changed its answer since it gave it.
#[derive(Debug, Clone)]
pub struct AnswerAge(watch::Receiver<()>);

impl Change {
    /// The change of a source that could not find out and does not say when it can.
    pub(in crate::attestation) fn in_a_while() -> Self {
        Self { happens: async { sleep(ASK_AGAIN).await }.boxed(), age: None }
    }

    /// Resolves at the first of these changes; never where there is none.
    pub async fn any(changes: Vec<Self>) {
        if changes.is_empty() {
            return std::future::pending().await;
        }
        select_all(changes).await;
    }

    /// Tells without waiting whether it has happened; `None` where only time tells.
    #[must_use]
    pub fn age(&self) -> Option<AnswerAge> {
        self.age.clone()
    }
}

impl AnswerAge {
    /// Whether the source would answer otherwise now.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.0.has_changed().unwrap_or(false)
    }
}

impl Future for Change {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.happens.poll_unpin(cx)
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Change(..)")
    }
}
