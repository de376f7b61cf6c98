//! The member of the circle that runs in the test's own process, with the crates `spiffe` and `spiffe-rustls`. It keeps
//! everything that it is shown.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use spiffe::JwtSource;
use spiffe::JwtSvid;
use spiffe::X509Source;
use spiffe_rustls::authorizer;
use spiffe_rustls::mtls_client;
use spiffe_rustls::mtls_server;
use spiffe_rustls_tokio::TlsAcceptor;
use spiffe_rustls_tokio::TlsConnector;
use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio::time::interval;
use tokio::time::timeout;

use crate::trust;
use crate::trust::authority_of;

const ROUND: Duration = Duration::from_millis(500);
const ANSWER_TIME: Duration = Duration::from_secs(5);
const NEW_TOKEN_AFTER: Duration = Duration::from_secs(5);
const NEARLY_OVER: Duration = Duration::from_secs(2);
const JUST_NOW: Duration = Duration::from_millis(200);
/// Said of a failure right after an update of the source.
pub(crate) const IN_AN_UPDATE: &str = "in an update of the source ";
/// The audience of all tokens of the circle.
pub(crate) const AUDIENCE: &str = "circle";

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;
/// Prints a line.
pub(crate) type Say = Arc<dyn Fn(String) + Send + Sync>;

/// The SVIDs that a member was shown.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen(Arc<Mutex<Shown>>);

/// Certificates, DER, and tokens.
type Shown = (BTreeSet<Vec<u8>>, BTreeSet<String>);

impl Seen {
    /// The certificates, and the tokens.
    pub(crate) fn all(&self) -> Shown {
        self.0.lock().unwrap().clone()
    }

    fn certificate(&self, chain: Option<&[CertificateDer<'_>]>) -> Outcome<String> {
        let leaf = chain.and_then(<[_]>::first).ok_or("the peer has no certificate")?;
        self.0.lock().unwrap().0.insert(leaf.to_vec());
        Ok(authority_of(leaf))
    }

    fn token(&self, token: &str) {
        self.0.lock().unwrap().1.insert(token.to_owned());
    }
}

/// A member, with one source of X509-SVIDs and one of JWT bundles for its whole life.
#[derive(Clone)]
struct Member {
    source: X509Source,
    tokens: JwtSource,
    seen: Seen,
    say: Say,
    /// The revision of the source, and since when it is known.
    revision: Arc<Mutex<(u64, Instant)>>,
}

/// Lives as a member: says where it listens, waits for its peers, a SPIFFE ID and an address each, and then asks each of
/// them twice a second, on a new connection each time.
pub(crate) async fn live(
    endpoint: String,
    peers: oneshot::Receiver<Vec<(String, String)>>,
    seen: Seen,
    say: Say,
) -> Outcome<()> {
    let source = X509Source::builder().endpoint(&endpoint).build().await?;
    let tokens = JwtSource::builder().endpoint(&endpoint).build().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let member = Member { source, tokens, seen, say, revision: Arc::new(Mutex::new((0, Instant::now()))) };
    (member.say)(format!("listens on {}", listener.local_addr()?));
    tokio::spawn(member.clone().serve(listener));
    let mut connectors = Vec::new();
    for (peer, address) in peers.await? {
        let config = mtls_client(member.source.clone()).authorize(authorizer::exact([peer.as_str()])?).build()?;
        connectors.push((peer, address, TlsConnector::new(Arc::new(config))));
    }
    let mut rounds = interval(ROUND);
    let mut token = None::<(String, Instant, Instant)>;
    loop {
        rounds.tick().await;
        if token.as_ref().is_none_or(|(_, new_at, end)| Instant::now() >= (*end - NEARLY_OVER).min(*new_at)) {
            match timeout(ANSWER_TIME, member.tokens.fetch_jwt_svid([AUDIENCE])).await {
                Ok(Ok(new)) => {
                    let left = Duration::from_secs(trust::left_of(new.token()));
                    token = Some((new.token().to_owned(), Instant::now() + NEW_TOKEN_AFTER, Instant::now() + left));
                }
                other => (member.say)(format!("no new token: {other:?}")),
            }
        }
        // Without a daemon the token before goes on, until its end.
        token = token.filter(|(_, _, end)| Instant::now() + NEARLY_OVER / 2 < *end);
        let token = token.as_ref().map(|(token, ..)| token.as_str()).unwrap_or_default();
        for (peer, address, connector) in &connectors {
            let asked = timeout(ANSWER_TIME, member.ask(connector, address, token)).await;
            match asked.unwrap_or_else(|_| Err("it took too long".into())) {
                Ok(authority) => (member.say)(format!("asked {peer} under {authority}")),
                Err(why) => member.failed(&format!("to ask {peer}: {why}")),
            }
        }
    }
}

impl Member {
    /// Tells of a failure, and whether the source was just updated.
    fn failed(&self, why: &str) {
        let updated = if self.was_just_updated() { IN_AN_UPDATE } else { "" };
        (self.say)(format!("failed {updated}{why}"));
    }

    fn was_just_updated(&self) -> bool {
        let (revision, now) = (self.source.state().revision(), Instant::now());
        let mut known = self.revision.lock().unwrap();
        if known.0 != revision {
            *known = (revision, now);
        }
        now.duration_since(known.1) < JUST_NOW
    }

    async fn ask(&self, connector: &TlsConnector, address: &str, token: &str) -> Outcome<String> {
        self.was_just_updated();
        let name = ServerName::try_from("server.invalid")?;
        let (stream, _) = connector.connect(name, TcpStream::connect(address).await?).await?;
        let authority = self.seen.certificate(stream.get_ref().1.peer_certificates())?;
        let mut stream = BufReader::new(stream);
        stream.write_all(format!("{token}\n").as_bytes()).await?;
        stream.flush().await?;
        match read_line(&mut stream).await?.as_str() {
            "hello" => Ok(authority),
            other => Err(format!("it answered: {other:?}").into()),
        }
    }

    async fn serve(self, listener: TcpListener) -> Outcome<()> {
        let config = mtls_server(self.source.clone()).build()?;
        let acceptor = TlsAcceptor::new(Arc::new(config));
        loop {
            let (stream, _) = listener.accept().await?;
            let (member, acceptor) = (self.clone(), acceptor.clone());
            tokio::spawn(async move {
                if let Err(why) = member.answer(acceptor, stream).await {
                    member.failed(&format!("to answer: {why}"));
                }
            });
        }
    }

    async fn answer(&self, acceptor: TlsAcceptor, stream: TcpStream) -> Outcome<()> {
        let (stream, _) = acceptor.accept(stream).await?;
        self.seen.certificate(stream.get_ref().1.peer_certificates())?;
        let mut stream = BufReader::new(stream);
        let token = read_line(&mut stream).await?;
        if !token.is_empty() {
            self.seen.token(&token);
            let valid = JwtSvid::parse_and_validate(&token, &self.tokens, &[AUDIENCE]);
            valid.map_err(|why| format!("the token is refused: {why}"))?;
        }
        stream.write_all(b"hello\n").await?;
        stream.flush().await?;
        Ok(())
    }
}

async fn read_line(stream: &mut BufReader<impl AsyncRead + AsyncWrite + Unpin>) -> Outcome<String> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    line.pop().ok_or("the peer closed")?;
    Ok(line)
}
