//! The loopback door: what holds it, and what asks it.

use std::collections::VecDeque;
use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use crate::floods::Site;
use crate::floods::count;

const HELD: usize = 256;

/// Holds connections with a request that does not end, and replaces each that is closed.
pub(super) fn hold(site: &Site) -> ! {
    let address = site.ready.expect("the door has an address");
    let mut held = VecDeque::new();
    loop {
        if held.len() < HELD {
            held.extend(unfinished(address));
            continue;
        }
        let is_open = |connection: &TcpStream| matches!((&*connection).read(&mut [0; 64]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
        held.retain(is_open);
        if held.len() == HELD {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn unfinished(address: SocketAddr) -> Option<TcpStream> {
    let mut connection = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    connection.set_nonblocking(true).ok()?;
    connection.write_all(format!("GET /ready HTTP/1.1\r\nHost: {address}\r\nX: ").as_bytes()).ok()?;
    count(1);
    Some(connection)
}

/// The time of an honest request on a connection of its own.
pub(crate) async fn probe(address: SocketAddr) -> Result<Duration, Box<dyn std::error::Error>> {
    let begin = Instant::now();
    let mut connection = tokio::net::TcpStream::connect(address).await?;
    let request = format!("GET /ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await?;
    if !answer.starts_with(b"HTTP/1.1 200") {
        return Err(format!("answered {:?}", String::from_utf8_lossy(answer.get(..12).unwrap_or_default())).into());
    }
    Ok(begin.elapsed())
}
