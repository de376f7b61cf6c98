//! A service that greets one client, over mTLS. Its only identity configuration is the Workload API's address:
//!
//! ```text
//! SPIFFE_ENDPOINT_SOCKET=unix:///run/bonafide/workload.sock \
//!     cargo run --example server -- 127.0.0.1:8443 spiffe://example.org/client
//! ```
//!
//! It keeps serving while its SVID rotates and while the daemon restarts: every new handshake uses the newest SVID, and
//! a connection that is open stays open.

use std::error::Error;
use std::sync::Arc;

use spiffe::X509Source;
use spiffe_rustls::authorizer;
use spiffe_rustls::mtls_server;
use spiffe_rustls_tokio::TlsAcceptor;
use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(client)) = (arguments.next(), arguments.next()) else {
        return Err("usage: server LISTEN_ADDRESS CLIENT_SPIFFE_ID".into());
    };

    // Waits until the daemon issues an SVID to this process; the source then follows its rotations.
    let source = X509Source::new().await?;
    let config = mtls_server(source.clone()).authorize(authorizer::exact([client.as_str()])?).build()?;
    let acceptor = TlsAcceptor::new(Arc::new(config));

    let listener = TcpListener::bind(&address).await?;
    println!("{} listens on {}", source.svid()?.spiffe_id(), listener.local_addr()?);
    loop {
        let (stream, from) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            if let Err(error) = greet(acceptor, stream).await {
                println!("{from}: {error}");
            }
        });
    }
}

/// Answers every line with a greeting, until the client closes the connection.
async fn greet(acceptor: TlsAcceptor, stream: TcpStream) -> Outcome<()> {
    let (stream, peer) = acceptor.accept(stream).await?;
    let client = peer.spiffe_id().ok_or("the client has no SPIFFE ID")?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let serial =
        X509Certificate::from_der(chain.first().ok_or("the client has no certificate")?)?.1.raw_serial_as_string();
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        stream.write_all(format!("hello {client} with serial {serial}: {line}").as_bytes()).await?;
        stream.flush().await?;
        line.clear();
    }
    Ok(())
}
