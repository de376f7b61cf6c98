//! A socket that is read together with the credentials of the writer (`SO_PASSCRED`, unix(7)).

use std::io;
use std::io::IoSliceMut;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use nix::sys::socket::ControlMessageOwned;
use nix::sys::socket::MsgFlags;
use tokio::io::AsyncWrite;
use tokio::io::Interest;
use tokio::io::ReadBuf;
use tokio::net::UnixStream;

use crate::endpoints::transport::acceptor::AttributedStream;
use crate::evidence::Credentials;

/// A stream on whose listener `SO_PASSCRED` is set.
pub(super) struct PasscredStream(pub(super) UnixStream);

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
/// SECURITY: descriptors that a client sends along come after the credentials (`scm_recv`), find no room, and are closed
/// by the kernel before they take a place in our table. `MSG_CTRUNC` shows that they were there.
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
