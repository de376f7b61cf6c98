//! A client of one server, over mTLS: a request every 100 ms, a new connection every 20 requests.
//!
//! ```text
//! SPIFFE_ENDPOINT_SOCKET=unix:///run/bonafide/workload.sock \
//!     cargo run --example client -- 127.0.0.1:8443 spiffe://example.org/server 200
//! ```
//!
//! It ends at the first request that fails. Rotations and restarts of the daemon make no request fail.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use spiffe::X509Source;
use spiffe_rustls::authorizer;
use spiffe_rustls::mtls_client;
use spiffe_rustls_tokio::TlsConnector;
use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::net::TcpStream;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(server), Some(count)) = (arguments.next(), arguments.next(), arguments.next()) else {
        return Err("usage: client ADDRESS SERVER_SPIFFE_ID REQUESTS".into());
    };
    let count: u32 = count.parse()?;

    // Waits until the daemon issues an SVID to this process; the source then follows its rotations.
    let source = X509Source::new().await?;
    let config = mtls_client(source).authorize(authorizer::exact([server.as_str()])?).build()?;
    let connector = TlsConnector::new(Arc::new(config));

    let requests: Vec<u32> = (1..=count).collect();
    for some in requests.chunks(20) {
        // The authorizer checks the server's SPIFFE ID; the host name is not checked.
        let name = ServerName::try_from("server.invalid")?;
        let (stream, _) = connector.connect(name, TcpStream::connect(&address).await?).await?;
        let mut stream = BufReader::new(stream);
        for request in some {
            stream.write_all(format!("request {request}\n").as_bytes()).await?;
            stream.flush().await?;
            let mut answer = String::new();
            stream.read_line(&mut answer).await?;
            if answer.is_empty() {
                return Err(format!("request {request} was not answered").into());
            }
            print!("{answer}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stream.shutdown().await?;
    }
    Ok(())
}
