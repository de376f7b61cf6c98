//! Who may use the admin socket, proven like a workload: the process behind the connection is pinned, its user may ask, and
//! it runs on the host or in the daemon's own container.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use tokio::net::UnixStream;

use crate::attestation::Attested;
use crate::attestation::Attestor;
use crate::attestation::NotAttested;
use crate::attestation::PinnedProcess;
use crate::attestation::attested::CgroupMark;
use crate::attestation::kernel::Process;
use crate::attestation::kernel::Unanswered;
use crate::attestation::linux::Linux;
use crate::endpoints::admin::doorkeeper::AdminPeer;
use crate::endpoints::admin::doorkeeper::Doorkeeper;
use crate::endpoints::transport::acceptor::IncomingConnection;
use crate::endpoints::transport::unix::Identify;
use crate::endpoints::transport::unix::UnixIncoming;
use crate::endpoints::transport::writer_check::CheckedStream;
use crate::evidence::Accounts;
use crate::evidence::Providers;
use crate::evidence::Selector;
use crate::evidence::SelectorKind;
use crate::evidence::WithheldBecause;

/// Admits the operators of this machine.
pub struct Operators {
    doorkeeper: Doorkeeper,
    identify: Identify,
    attestor: Attestor,
}

/// Why a caller is closed without an answer.
#[derive(Debug, thiserror::Error)]
pub(in crate::endpoints::admin) enum NotAdmitted {
    /// The kernel does not tell its credentials.
    #[error("the kernel does not say who it is: {0}")]
    Unknown(#[from] io::Error),
    /// The doorkeeper does not let its user in.
    #[error("it is neither root nor the daemon's own user, nor in the group of [admin]")]
    Stranger,
    /// It could not be proven who asks.
    #[error(transparent)]
    NotAttested(#[from] NotAttested),
    /// It runs in a container that is not the daemon's, or in namespaces of its own.
    #[error("it runs neither on the host ({0}) nor in the daemon's own container")]
    Elsewhere(WithheldBecause),
}

impl From<Unanswered> for NotAdmitted {
    fn from(unanswered: Unanswered) -> Self {
        Self::NotAttested(unanswered.into())
    }
}

/// Where a process runs: the user, mount, PID and cgroup namespaces, and the cgroup.
type Whereabouts = ([u64; 4], CgroupMark);

impl Operators {
    /// Admits whom `doorkeeper` lets in, as `linux` shows it.
    #[must_use]
    pub fn new(doorkeeper: Doorkeeper, linux: &Arc<Linux>) -> Self {
        let attestor = Attestor::new(linux.clone(), Vec::new());
        let linux = linux.clone();
        let identify: Identify = Arc::new(move |socket: BorrowedFd<'_>| {
            linux.peer(socket).map(|process| Arc::new(process) as Arc<dyn Process>)
        });
        Self { doorkeeper, identify, attestor }
    }

    /// The connection of an operator, before a byte of it is read. Every byte that is read from it later is the operator's
    /// own.
    pub(in crate::endpoints::admin) fn admit(
        &self,
        peer: &AdminPeer,
        stream: UnixStream,
    ) -> Result<CheckedStream<PinnedProcess>, NotAdmitted> {
        if !self.doorkeeper.lets_in(peer) {
            return Err(NotAdmitted::Stranger);
        }
        let unanswered = |why: io::Error| Unanswered::from_errno(why.raw_os_error().unwrap_or_default());
        let socket = stream.into_std().map_err(unanswered)?;
        let accepted = UnixIncoming::new(socket.into(), self.identify.clone()).identify()?;
        let pinned = self.attestor.by_peer(accepted.process)?;
        self.check_whereabouts(&pinned)?;
        Ok(CheckedStream::new(accepted.stream, Arc::new(pinned)))
    }

    /// SECURITY: root of a container with the socket's directory mounted is uid 0 to the kernel, as root of the host is. A
    /// process of the daemon's own container, as `kubectl exec` starts one, could read the daemon's memory anyway.
    fn check_whereabouts(&self, caller: &PinnedProcess) -> Result<(), NotAdmitted> {
        let attested = self.attest(caller)?;
        let evidence = attested.evidence();
        if evidence.holds(&Selector::Host) || self.own_whereabouts() == Some(whereabouts_of(&attested)) {
            return Ok(());
        }
        let because = evidence.withheld_because(SelectorKind::Host);
        Err(NotAdmitted::Elsewhere(because.unwrap_or(WithheldBecause::NotHostNamespaces)))
    }

    /// Where the daemon runs now; `None` where that cannot be proven.
    fn own_whereabouts(&self) -> Option<Whereabouts> {
        let own = self.attestor.by_reference(std::process::id()).ok()?;
        Some(whereabouts_of(&self.attest(&own).ok()?))
    }

    fn attest(&self, process: &PinnedProcess) -> Result<Attested, NotAttested> {
        Ok(self.attestor.attest(process, &|_| Providers::new(), &Accounts::default())?.proof)
    }
}

fn whereabouts_of(attested: &Attested) -> Whereabouts {
    (attested.epoch().namespaces, attested.epoch().cgroup)
}
