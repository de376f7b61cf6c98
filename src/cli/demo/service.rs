//! What runs in a service's own process. Its arguments are the socket and the peer, and nothing about itself; it prints
//! its events, one JSON object a line.

use std::io::Write;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::TlsConnector;
use tonic::Status;

use crate::cli::demo::event::BoxError;
use crate::cli::demo::event::DemoEvent;
use crate::cli::demo::event::Role;
use crate::cli::demo::event::micros_since;
use crate::cli::demo::failure::failed;
use crate::cli::demo::tls::Configurations;
use crate::cli::demo::tls::X509Source;
use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::sockets::WorkloadSocket;
use crate::identity::SpiffeId;

/// Between two requests on the open connection.
const PACE: Duration = Duration::from_millis(20);
/// Requests between two new handshakes.
const REQUESTS_PER_HANDSHAKE: u64 = 10;

/// The arguments of a service.
#[derive(Debug, clap::Args)]
pub(super) struct ServiceArguments {
    /// Which part to play
    role: Role,
    #[command(flatten)]
    socket: WorkloadSocket,
    /// The one SPIFFE ID to talk to
    #[arg(long)]
    peer: SpiffeId,
    /// Where the server is
    #[arg(long)]
    server: Option<SocketAddr>,
}

/// Plays a part until standard input ends.
pub(super) async fn run(arguments: ServiceArguments) -> Result<Exit, Failure> {
    let socket = arguments.socket.path()?;
    let played = async {
        let source = X509Source::follow(&socket, arguments.peer, say).await?;
        match (arguments.role, arguments.server) {
            (Role::Server, _) => serve(&source).await,
            (_, Some(server)) => ask(&source, server).await,
            (_, None) => Err("--server is missing".into()),
        }
    };
    let outcome: Result<(), BoxError> = tokio::select! {
        biased;
        () = end_of_input() => return Ok(Exit::Fine),
        outcome = played => outcome,
    };
    let Err(error) = outcome else { return Ok(Exit::Fine) };
    if let Some(status) = error.downcast_ref::<Status>() {
        say(&DemoEvent::Refused { code: format!("{:?}", status.code()), message: status.message().to_owned() });
        return Ok(Exit::Denied);
    }
    say(&DemoEvent::Failed { why: error.to_string() });
    Err(failed(format!("the {} gave up", arguments.role.name()), error))
}

/// Answers every line with the same line, on every connection.
async fn serve(source: &X509Source) -> Result<(), BoxError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    say(&DemoEvent::Listening { address: listener.local_addr()? });
    loop {
        let (stream, _) = listener.accept().await?;
        let configurations = source.now();
        tokio::spawn(async move {
            if let Err(error) = echo(&configurations, stream).await {
                say(&DemoEvent::Failed { why: error.to_string() });
            }
        });
    }
}

async fn echo(with: &Configurations, stream: TcpStream) -> Result<(), BoxError> {
    let begun = Instant::now();
    let stream = TlsAcceptor::from(with.server.clone()).accept(stream).await?;
    let peer = with.peer(stream.get_ref().1.peer_certificates())?;
    say(&DemoEvent::Handshake { peer, micros: micros_since(begun) });
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        stream.write_all(line.as_bytes()).await?;
        stream.flush().await?;
        line.clear();
    }
    Ok(())
}

/// Sends requests on one connection that stays open, and beside it one on a new connection every so often.
async fn ask(source: &X509Source, server: SocketAddr) -> Result<(), BoxError> {
    let mut kept = connect(source, server).await?;
    let mut pace = tokio::time::interval(PACE);
    for requests in 1_u64.. {
        pace.tick().await;
        request(&mut kept, requests).await?;
        say(&DemoEvent::Answered { requests });
        if requests % REQUESTS_PER_HANDSHAKE == 0 {
            let mut once = connect(source, server).await?;
            request(&mut once, requests).await?;
            once.shutdown().await?;
        }
    }
    Ok(())
}

type Connection = BufReader<tokio_rustls::client::TlsStream<TcpStream>>;

async fn connect(source: &X509Source, server: SocketAddr) -> Result<Connection, BoxError> {
    let begun = Instant::now();
    let with = source.now();
    // The server is known by its SPIFFE ID; a name or address says nothing about who it is.
    let stream = TcpStream::connect(server).await?;
    let stream = TlsConnector::from(with.client.clone()).connect(server.ip().into(), stream).await?;
    let peer = with.peer(stream.get_ref().1.peer_certificates())?;
    say(&DemoEvent::Handshake { peer, micros: micros_since(begun) });
    Ok(BufReader::new(stream))
}

async fn request(connection: &mut Connection, number: u64) -> Result<(), BoxError> {
    let question = format!("request {number}\n");
    connection.write_all(question.as_bytes()).await?;
    connection.flush().await?;
    let mut answer = String::new();
    connection.read_line(&mut answer).await?;
    if answer == question { Ok(()) } else { Err(format!("request {number} was answered with {answer:?}").into()) }
}

/// Prints an event for the demo; if the demo has gone, standard input has ended, too.
fn say(event: &DemoEvent) {
    let line = serde_json::to_string(event).unwrap_or_default() + "\n";
    let mut out = std::io::stdout().lock();
    let _nobody_listens = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

/// Resolves when the demo closes this process's standard input, or has gone.
async fn end_of_input() {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        let _said = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _nobody_waits = ended.send(());
    });
    let _ended = end.await;
}
