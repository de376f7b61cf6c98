//! Sources of evidence beside the kernel. A source is asked within an attestation and answers at once: what it knows, that
//! it is still finding out, or that it could not. It says when its answer changes, so that nobody has to ask again.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::sleep;

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

/// A provider of evidence beside the kernel.
pub trait EvidenceSource: Send + Sync + fmt::Debug {
    /// Its name, by which entries need it.
    fn provider(&self) -> Provider;

    /// What it knows of a process. Never waits: where it does not know yet, it begins to find out.
    fn ask(&self, asked: &Asked<'_>) -> Known;

    /// Says that a caller has waited for a pending answer about this process as long as it may. Until the source has an
    /// answer, it is undecided at once for the next callers whom the same cause holds up.
    fn gave_up(&self, process: &PinnedProcess) {
        let _ = process;
    }
}

/// The process that a source is asked about, within one attestation.
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

    /// Tells it from every other process that was pinned in this run.
    #[must_use]
    pub fn id(&self) -> PinId {
        self.pinned.id()
    }

    /// Whom work for it is charged to.
    #[must_use]
    pub fn principal(&self) -> Principal {
        self.pinned.principal()
    }

    /// Its directory in `/proc`, open for this attestation.
    #[must_use]
    pub fn directory(&self) -> &Arc<dyn ProcDirectory> {
        self.directory
    }

    /// Its running executable.
    #[must_use]
    pub fn executable(&self) -> &FileIdentity {
        self.executable
    }
}

/// What a source knows of one process.
#[derive(Debug)]
#[must_use]
pub struct Known {
    /// Whether that is all.
    pub answer: Answer,
    /// What it proves.
    pub facts: Vec<Fact>,
    /// What it saw and does not count, and why.
    pub withheld: Vec<Withheld>,
    /// Resolves when it would answer otherwise; `None` where that cannot be, or it could not find out and cannot tell.
    pub change: Option<Change>,
}

impl Known {
    /// All that the source has to say.
    pub fn settled(facts: Vec<Fact>, withheld: Vec<Withheld>) -> Self {
        Self { answer: Answer::Settled, facts, withheld, change: None }
    }

    /// It is finding out.
    pub fn pending(change: Change) -> Self {
        Self { answer: Answer::Pending, facts: Vec::new(), withheld: Vec::new(), change: Some(change) }
    }

    /// It could not find out.
    pub fn undecided(why: Undecided) -> Self {
        Self { answer: Answer::Undecided(why), facts: Vec::new(), withheld: Vec::new(), change: None }
    }

    /// Names the moment when it would answer otherwise.
    pub fn until(self, change: Change) -> Self {
        Self { change: Some(change), ..self }
    }
}

/// Where a source says that its answers about some processes have changed.
#[derive(Debug, Clone)]
pub struct Changes(watch::Sender<()>);

impl Default for Changes {
    fn default() -> Self {
        Self(watch::Sender::new(()))
    }
}

impl Changes {
    /// The next change. Take it before reading what may change, so that none is lost.
    #[must_use]
    pub fn next(&self) -> Change {
        let mut changed = self.0.subscribe();
        Change(
            async move {
                if changed.changed().await.is_err() {
                    std::future::pending::<()>().await; // the source is gone, and says nothing any more
                }
            }
            .boxed(),
        )
    }

    /// Says that the answers have changed.
    pub fn happened(&self) {
        self.0.send_replace(());
    }
}

/// After how long a source is asked again that could not find out and cannot tell when it can.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// Resolves when a source would answer otherwise.
pub struct Change(BoxFuture<'static, ()>);

impl Change {
    /// What stands for the change of a source that cannot tell when it can find out.
    pub(in crate::attestation) fn in_a_while() -> Self {
        Self(async { sleep(ASK_AGAIN).await }.boxed())
    }
}

impl Future for Change {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_unpin(cx)
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Change(..)")
    }
}
