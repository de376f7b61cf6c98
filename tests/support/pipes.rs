//! Connections over in-memory pipes: with them a whole node runs in one thread on a paused clock.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bonafide::attestation::kernel::Process;
use bonafide::attestation::kernel::Unanswered;
use bonafide::endpoints::transport::acceptor::AcceptedConnection;
use bonafide::endpoints::transport::acceptor::Acceptor;
use bonafide::endpoints::transport::acceptor::AttributedStream;
use bonafide::endpoints::transport::acceptor::IncomingConnection;
use bonafide::evidence::Credentials;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncRead as _;
use tokio::io::AsyncWrite;
use tokio::io::DuplexStream;
use tokio::io::ReadBuf;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::transport::Endpoint;

/// How much of a conversation is on its way at once, unless a test wants less.
pub(crate) const WIDE_PIPE: usize = 64 * 1024;

/// The daemon's side.
pub(crate) struct PipeAcceptor(mpsc::UnboundedReceiver<io::Result<Pipe>>);

/// Sees every byte that the daemon writes to a process, at the moment when it leaves.
pub(crate) type Observer = Arc<dyn Fn(&dyn Process, &[u8]) + Send + Sync>;

/// The clients' side.
#[derive(Clone)]
pub(crate) struct PipeDialer {
    arrivals: mpsc::UnboundedSender<io::Result<Pipe>>,
    observer: Observer,
    pipe: usize,
}

/// A connection on its way to the daemon.
pub(crate) struct Pipe {
    bytes: DuplexStream,
    process: Arc<dyn Process>,
    writer: Arc<Mutex<Credentials>>,
    observer: Observer,
}

/// A connected client's end, and who the kernel says writes to it.
pub(crate) struct Connected {
    pub(crate) bytes: DuplexStream,
    pub(crate) writer: Arc<Mutex<Credentials>>,
}

pub(crate) fn pipe_acceptor() -> (PipeAcceptor, PipeDialer) {
    let (dialer, door) = mpsc::unbounded_channel();
    (PipeAcceptor(door), PipeDialer { arrivals: dialer, observer: Arc::new(|_, _| {}), pipe: WIDE_PIPE })
}

impl PipeDialer {
    /// Everything that is written from now on is seen by `observer`, and each connection holds `pipe` bytes.
    pub(crate) fn observed_by(self, pipe: usize, observer: Observer) -> Self {
        Self { observer, pipe, ..self }
    }

    /// `process` connects. It is the writer of its bytes until the test says otherwise.
    pub(crate) fn connect(&self, process: Arc<dyn Process>) -> Connected {
        let (theirs, ours) = tokio::io::duplex(self.pipe);
        let writer = Arc::new(Mutex::new(process.peer()));
        let (writer_there, observer) = (writer.clone(), self.observer.clone());
        let pipe = Pipe { bytes: ours, process, writer: writer_there, observer };
        let _ = self.arrivals.send(Ok(pipe)); // a closed door drops it
        Connected { bytes: theirs, writer }
    }

    /// The next accept fails.
    pub(crate) fn fail(&self, errno: i32) {
        let _ = self.arrivals.send(Err(io::Error::from_raw_os_error(errno)));
    }
}

impl Connected {
    /// A gRPC channel over this one connection.
    pub(crate) async fn channel(self) -> Channel {
        self.try_channel().await.unwrap()
    }

    /// Likewise, where the daemon may have closed the connection already.
    pub(crate) async fn try_channel(self) -> Result<Channel, tonic::transport::Error> {
        let once = Once(Some(self.bytes));
        Endpoint::from_static("http://localhost").connect_with_connector(once).await
    }
}

impl Acceptor for PipeAcceptor {
    type Incoming = Pipe;

    async fn next(&mut self) -> io::Result<Pipe> {
        match self.0.recv().await {
            Some(pipe) => pipe,
            None => std::future::pending().await,
        }
    }
}

impl IncomingConnection for Pipe {
    fn uid(&self) -> io::Result<u32> {
        Ok(self.process.peer().uid)
    }

    fn identify(self) -> Result<AcceptedConnection, Unanswered> {
        let process = self.process.clone();
        Ok(AcceptedConnection { stream: Box::new(self), process })
    }
}

impl AttributedStream for Pipe {
    fn poll_read_from(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Option<Credentials>>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.bytes).poll_read(cx, buffer))?;
        let writer = *self.writer.lock().unwrap();
        Poll::Ready(Ok((buffer.filled().len() > before).then_some(writer)))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.bytes).poll_write(cx, bytes))?;
        (self.observer)(&*self.process, &bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.bytes).poll_write_vectored(cx, parts))?;
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).take(written).collect();
        (self.observer)(&*self.process, &bytes);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.bytes.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_shutdown(cx)
    }
}

/// A connector that connects once; a second try fails, as it would at a closed socket.
struct Once(Option<DuplexStream>);

impl tower_service::Service<Uri> for Once {
    type Response = TokioIo<DuplexStream>;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let pipe = self.0.take().map(TokioIo::new);
        std::future::ready(pipe.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionRefused)))
    }
}
