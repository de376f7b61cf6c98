//! Accepting on a Unix socket, whose name is checked every second and bound again when it was deleted.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt;
use rustix::net::SocketFlags;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::Interval;
use tokio::time::MissedTickBehavior;

use crate::attestation::kernel::Process;
use crate::attestation::kernel::Unanswered;
use crate::endpoints::transport::acceptor::AcceptedConnection;
use crate::endpoints::transport::acceptor::Acceptor;
use crate::endpoints::transport::acceptor::IncomingConnection;
use crate::endpoints::transport::listener::Listener;
use crate::endpoints::transport::listener::NotBound;
use crate::endpoints::transport::passcred::PasscredStream;
use crate::readiness::Readiness;
use crate::readiness::Reason;
use crate::readiness::Severity;

/// How often a listener checks that its socket still has its name, so that the name is back within two seconds.
const NAME_CHECK: Duration = Duration::from_secs(1);

/// A listener that keeps its name while it accepts.
#[derive(Debug)]
pub(in crate::endpoints) struct NamedListener {
    listener: Listener,
    name_check: Interval,
}

impl NamedListener {
    pub(in crate::endpoints) fn new(listener: Listener) -> Self {
        let mut name_check = tokio::time::interval(NAME_CHECK);
        name_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { listener, name_check }
    }

    /// The next connection. `checked` gets the result of every check of the name. Cancel safe.
    ///
    /// SECURITY: the runtime hears of a connection only when it is admitted, for that costs as much as accepting it.
    pub(in crate::endpoints) async fn accept(
        &mut self,
        mut checked: impl FnMut(Result<(), NotBound>),
    ) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        loop {
            let accept = |socket: &OwnedFd| rustix::net::accept_with(socket, flags).map_err(io::Error::from);
            tokio::select! {
                biased;
                _ = self.name_check.tick() => checked(self.listener.keep_name()),
                accepted = self.listener.socket().async_io(Interest::READABLE, accept) => return accepted,
            }
        }
    }
}

/// Pins the process behind an accepted socket.
pub type Identify = Arc<dyn Fn(BorrowedFd<'_>) -> Result<Arc<dyn Process>, Unanswered> + Send + Sync>;

/// Accepts workloads on a Unix socket.
pub struct UnixAcceptor {
    named: NamedListener,
    identify: Identify,
    /// Blocks while the socket has lost its name.
    reason: Reason,
    /// SECURITY: without a free descriptor `accept` fails, and the client at the head of the listen queue would block the
    /// queue for everybody. This descriptor is closed to accept that client and close it.
    reserve: Option<std::fs::File>,
}

impl UnixAcceptor {
    /// Accepts on a bound socket.
    ///
    /// # Errors
    /// No descriptor is left for the reserve.
    pub fn new(listener: Listener, identify: Identify, readiness: Readiness) -> io::Result<Self> {
        Ok(Self {
            named: NamedListener::new(listener),
            identify,
            reason: readiness.register("workload_socket"),
            reserve: Some(reserve()?),
        })
    }

    fn turn_one_away(&mut self, error: &io::Error) {
        if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
            self.reserve = None;
            let turned_away = rustix::net::accept(self.named.listener.socket());
            drop(turned_away);
        }
        if self.reserve.is_none() {
            self.reserve = reserve().ok();
        }
    }
}

impl Acceptor for UnixAcceptor {
    type Incoming = UnixIncoming;

    async fn next(&mut self) -> io::Result<UnixIncoming> {
        let reason = &self.reason;
        let accepted = self.named.accept(|named| match named {
            Ok(()) => reason.clear(),
            Err(why) => {
                reason.block(Severity::NotReady, why.to_string());
            }
        });
        match accepted.await {
            Ok(socket) => Ok(UnixIncoming::new(socket, self.identify.clone())),
            Err(error) => {
                self.turn_one_away(&error);
                Err(error)
            }
        }
    }
}

impl fmt::Debug for UnixAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnixAcceptor").field("listener", &self.named.listener).finish_non_exhaustive()
    }
}

fn reserve() -> io::Result<std::fs::File> {
    std::fs::File::open("/dev/null")
}

/// An accepted Unix socket.
pub struct UnixIncoming {
    socket: OwnedFd,
    identify: Identify,
}

impl UnixIncoming {
    /// A socket that was accepted, with the way to pin its process.
    pub(in crate::endpoints) fn new(socket: OwnedFd, identify: Identify) -> Self {
        Self { socket, identify }
    }
}

impl IncomingConnection for UnixIncoming {
    fn uid(&self) -> io::Result<u32> {
        Ok(getsockopt(&self.socket, sockopt::PeerCredentials)?.uid())
    }

    fn identify(self) -> Result<AcceptedConnection, Unanswered> {
        let process = (self.identify)(self.socket.as_fd())?;
        let socket = UnixStream::from_std(self.socket.into())
            .map_err(|why| Unanswered::from_errno(why.raw_os_error().unwrap_or_default()))?;
        Ok(AcceptedConnection { stream: Box::new(PasscredStream(socket)), process })
    }
}

impl fmt::Debug for UnixIncoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnixIncoming").field("socket", &self.socket).finish_non_exhaustive()
    }
}
