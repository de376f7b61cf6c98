//! Where connections come from. A door yields them one by one; what is behind one is asked in steps, so that whoever
//! has no budget left is refused before anything is spent on it.

use std::fmt;
use std::io;
use std::io::IoSliceMut;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use futures_util::future::BoxFuture;
use nix::sys::socket::ControlMessageOwned;
use nix::sys::socket::MsgFlags;
use tokio::io::AsyncWrite;
use tokio::io::Interest;
use tokio::io::ReadBuf;
use tokio::net::UnixStream;
use tokio::time::Interval;
use tokio::time::MissedTickBehavior;

use crate::attestation::kernel::Process;
use crate::attestation::kernel::Unanswered;
use crate::endpoints::transport::listener::Listener;
use crate::evidence::Credentials;
use crate::readiness::Readiness;
use crate::readiness::Reason;
use crate::readiness::Severity;

/// How often the door looks whether its socket still has its name.
const NAME_CHECK: Duration = Duration::from_secs(1);

/// Where connections come from.
pub trait Acceptor: Send {
    /// The next connection. Cancel safe.
    ///
    /// # Errors
    /// Whatever the kernel says, `EMFILE` among it: the door stays, and is asked again after a pause.
    fn next(&mut self) -> BoxFuture<'_, io::Result<Box<dyn IncomingConnection>>>;
}

/// A connection of which nothing but the user is known.
pub trait IncomingConnection: Send {
    /// The uid that connected.
    ///
    /// # Errors
    /// Whatever the kernel says.
    fn uid(&self) -> io::Result<u32>;

    /// Pins the process that connected.
    ///
    /// # Errors
    /// [`Unanswered`]
    fn identify(self: Box<Self>) -> Result<AcceptedConnection, Unanswered>;
}

/// A connection whose process is pinned.
pub struct AcceptedConnection {
    /// Its bytes.
    pub stream: Box<dyn AttributedStream>,
    /// Who connected.
    pub process: Arc<dyn Process>,
}

/// A byte stream of which every read says who wrote what was read.
pub trait AttributedStream: AsyncWrite + Send + Unpin {
    /// Reads bytes of one writer, never of two. `None` at the end of the stream.
    fn poll_read_from(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Option<Credentials>>>;
}

/// Pins the process behind an accepted socket.
pub type Identify = Arc<dyn Fn(BorrowedFd<'_>) -> Result<Arc<dyn Process>, Unanswered> + Send + Sync>;

/// The door of a Unix socket.
pub struct UnixAcceptor {
    listener: Listener,
    identify: Identify,
    /// Blocks while the socket has lost its name.
    reason: Reason,
    name_check: Interval,
    /// SECURITY: with no descriptor left, accepting fails, and the one who waits would wait for ever while the listen
    /// queue fills for everybody. This one is given up to accept a connection and close it.
    reserve: Option<std::fs::File>,
}

impl UnixAcceptor {
    /// A door at a bound socket.
    ///
    /// # Errors
    /// No descriptor is left for the reserve.
    pub fn new(listener: Listener, identify: Identify, readiness: Readiness) -> io::Result<Self> {
        let mut name_check = tokio::time::interval(NAME_CHECK);
        name_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let reason = readiness.register("workload_socket");
        Ok(Self { listener, identify, reason, name_check, reserve: Some(reserve()?) })
    }

    async fn accept(&mut self) -> io::Result<Box<dyn IncomingConnection>> {
        loop {
            tokio::select! {
                biased;
                _ = self.name_check.tick() => self.keep_name(),
                accepted = self.listener.socket().accept() => match accepted {
                    Ok((socket, _)) => return Ok(Box::new(UnixIncoming { socket, identify: self.identify.clone() })),
                    Err(error) => {
                        self.turn_one_away(&error);
                        return Err(error);
                    }
                },
            }
        }
    }

    fn keep_name(&mut self) {
        match self.listener.keep_name() {
            Ok(()) => self.reason.clear(),
            Err(why) => self.reason.block(Severity::NotReady, why.to_string()),
        }
    }

    fn turn_one_away(&mut self, error: &io::Error) {
        if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
            self.reserve = None;
            let turned_away = rustix::net::accept(self.listener.socket());
            drop(turned_away);
        }
        if self.reserve.is_none() {
            self.reserve = reserve().ok();
        }
    }
}

impl Acceptor for UnixAcceptor {
    fn next(&mut self) -> BoxFuture<'_, io::Result<Box<dyn IncomingConnection>>> {
        Box::pin(self.accept())
    }
}

impl fmt::Debug for UnixAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnixAcceptor").field("listener", &self.listener).finish_non_exhaustive()
    }
}

fn reserve() -> io::Result<std::fs::File> {
    std::fs::File::open("/dev/null")
}

struct UnixIncoming {
    socket: UnixStream,
    identify: Identify,
}

impl IncomingConnection for UnixIncoming {
    fn uid(&self) -> io::Result<u32> {
        Ok(self.socket.peer_cred()?.uid())
    }

    fn identify(self: Box<Self>) -> Result<AcceptedConnection, Unanswered> {
        let process = (self.identify)(self.socket.as_fd())?;
        Ok(AcceptedConnection { stream: Box::new(PasscredStream(self.socket)), process })
    }
}

/// A socket that is read together with the kernel's word on who wrote.
struct PasscredStream(UnixStream);

impl AttributedStream for PasscredStream {
    fn poll_read_from(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Option<Credentials>>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            let received = self.0.try_io(Interest::READABLE, || receive(&self.0, buffer.initialize_unfilled()));
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(None) => return Poll::Ready(Ok(None)),
                Ok(Some((bytes, writer))) => {
                    buffer.advance(bytes);
                    return Poll::Ready(Ok(Some(writer)));
                }
            }
        }
    }
}

/// Room for one `SCM_CREDENTIALS` and nothing else: `CMSG_SPACE(sizeof(struct ucred))`, aligned as the kernel wants it.
///
/// SECURITY: descriptors that somebody sends along come after the credentials (`scm_recv`), find no room, and are
/// dropped by the kernel before they take a place in our table. That they were there shows as `MSG_CTRUNC`.
#[repr(C, align(8))]
struct CredentialsOnly([u8; 32]);

fn receive(socket: &UnixStream, buffer: &mut [u8]) -> io::Result<Option<(usize, Credentials)>> {
    let mut control = CredentialsOnly([0; 32]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = nix::sys::socket::recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control.0), flags)?;
    if message.bytes == 0 {
        return Ok(None);
    }
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmCredentials(writer) = part {
            let pid = u32::try_from(writer.pid()).unwrap_or(0);
            return Ok(Some((message.bytes, Credentials { pid, uid: writer.uid(), gid: writer.gid() })));
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel did not say who wrote"))
}

impl AsyncWrite for PasscredStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::ControlMessage;

    use super::*;

    #[tokio::test]
    async fn every_read_names_its_writer_and_descriptors_find_no_room() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        rustix::net::sockopt::set_socket_passcred(&ours, true).unwrap();
        let send = |control: &[ControlMessage<'_>]| {
            let parts = [io::IoSlice::new(b"hello")];
            nix::sys::socket::sendmsg::<()>(theirs.as_raw_fd(), &parts, control, MsgFlags::empty(), None).unwrap();
        };
        let mut buffer = [0; 16];
        send(&[]);
        let (bytes, writer) = receive(&ours, &mut buffer).unwrap().unwrap();
        assert_eq!((bytes, writer.pid), (5, std::process::id()));
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        send(&[ControlMessage::ScmRights(&[theirs.as_raw_fd(); 10])]);
        assert!(receive(&ours, &mut buffer).is_err());
        assert!(open() < before + 10, "descriptors reached our table");
    }

    #[tokio::test]
    async fn bytes_without_a_writer_are_not_used() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.writable().await.unwrap();
        theirs.try_write(b"hello").unwrap();
        assert!(receive(&ours, &mut [0; 16]).is_err());
        drop(theirs);
        assert_eq!(receive(&ours, &mut [0; 16]).unwrap(), None);
    }
}
