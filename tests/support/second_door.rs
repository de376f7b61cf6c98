//! A second door on the same updates: JSON lines without HTTP/2. A client subscribes to several names on one stream, as
//! a proxy does with SDS, and may name another process by its pid.
//!
//! A request is `{"pid": 7, "names": ["default", "spiffe://example.org/web", "example.org"]}`; without a pid it is about
//! the client itself. Each name is answered with a line now, and again at each change.

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bonafide::attestation::kernel::Process;
use bonafide::endpoints::transport::accept::AdmittedConnection;
use bonafide::endpoints::transport::accept::Protocol;
use bonafide::endpoints::transport::gate::GatedStream;
use bonafide::endpoints::transport::gate::Unframed;
use bonafide::entitlement::door::BrokerConnection;
use bonafide::entitlement::door::Connections;
use bonafide::entitlement::door::EncodedBundles;
use bonafide::entitlement::door::Ended;
use bonafide::entitlement::door::SecretGate;
use bonafide::entitlement::door::X509Update;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use futures_util::stream::SelectAll;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;
use tokio::io::AsyncBufReadExt as _;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt as _;
use tokio::io::BufReader;

/// The protocol of the door.
#[derive(Clone)]
pub(crate) struct JsonLines(pub(crate) Arc<dyn Connections>);

#[derive(Deserialize)]
struct Subscription {
    pid: Option<u32>,
    names: Vec<String>,
}

impl Protocol for JsonLines {
    type Connection = dyn BrokerConnection;

    fn admit(&self, process: Arc<dyn Process>) -> Result<Arc<dyn BrokerConnection>, Ended> {
        self.0.admit_broker(process)
    }

    async fn converse(self, admitted: AdmittedConnection<dyn BrokerConnection>) {
        let AdmittedConnection { stream, connection, .. } = admitted;
        let stream = GatedStream::new(stream, connection.clone(), Unframed);
        let gate = stream.gate().clone();
        tokio::select! {
            biased;
            _ = connection.closed() => {}
            _cut = speak(stream, &gate, &connection) => {}
        }
    }
}

/// Reads subscriptions and writes what they are about, until the client closes or the connection is cut.
async fn speak(
    stream: impl AsyncRead + AsyncWrite,
    gate: &SecretGate,
    asker: &Arc<dyn BrokerConnection>,
) -> io::Result<()> {
    let (read, mut write) = tokio::io::split(stream);
    let mut requests = BufReader::new(read).lines();
    let mut subscribed = SelectAll::new();
    loop {
        tokio::select! {
            request = requests.next_line() => match request? {
                Some(request) => subscribed.push(subscribe(serde_json::from_str(&request)?, gate, asker)),
                None => return Ok(()),
            },
            Some(resources) = subscribed.next() => {
                for resource in resources {
                    write.write_all(format!("{resource}\n").as_bytes()).await?;
                }
                drop(gate.take_opened()); // all of it has left
            }
        }
    }
}

/// The resources of a subscription: now, and at each change. Who asks for bundles alone pays for no key.
fn subscribe(
    Subscription { pid, names }: Subscription,
    gate: &SecretGate,
    asker: &Arc<dyn BrokerConnection>,
) -> BoxStream<'static, Vec<Value>> {
    let asker = Arc::clone(asker);
    let subject = match pid {
        Some(pid) => asker.subject_with_pid(pid),
        None => Ok(asker.subject()),
    };
    let subject = match subject {
        Ok(subject) => subject,
        Err(why) => return futures_util::stream::iter([vec![ended(why)]]).boxed(),
    };
    if names.iter().any(|name| is_identity(name)) {
        let gate = gate.clone();
        let svids = subject.x509_svids();
        return svids.map(move |update| resources(update.map(|secret| secret.open(&gate)), &names, named)).boxed();
    }
    subject.x509_bundles().map(move |bundles| resources(bundles, &names, bundle_of)).boxed()
}

fn resources<T>(update: Result<T, Ended>, names: &[String], named: impl Fn(&T, &str) -> Option<Value>) -> Vec<Value> {
    match update {
        Ok(update) => names.iter().filter_map(|name| named(&update, name)).collect(),
        Err(why) => vec![ended(why)],
    }
}

fn is_identity(name: &str) -> bool {
    name == "default" || name.starts_with("spiffe://")
}

fn named(update: &X509Update, name: &str) -> Option<Value> {
    let default = update.svids.first()?;
    if !is_identity(name) {
        let own = name == default.id.trust_domain();
        return own.then(|| bundle(name, &update.bundle)).or_else(|| bundle_of(&update.federated, name));
    }
    let mut svids = update.svids.iter();
    let svid = if name == "default" { default } else { svids.find(|svid| svid.id.as_str() == name)? };
    let (chain, key) = (BASE64_STANDARD.encode(svid.chain.concat()), BASE64_STANDARD.encode(svid.key.expose_pkcs8()));
    Some(json!({ "name": name, "id": svid.id.as_str(), "chain": chain, "key": key }))
}

fn bundle_of(bundles: &EncodedBundles, name: &str) -> Option<Value> {
    Some(bundle(name, bundles.get(name)?))
}

fn bundle(name: &str, certificates: &[u8]) -> Value {
    json!({ "name": name, "bundle": BASE64_STANDARD.encode(certificates) })
}

fn ended(why: Ended) -> Value {
    json!({ "ended": if matches!(why, Ended::Denied(_)) { "denied" } else { "unavailable" } })
}
