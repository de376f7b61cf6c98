//! A service's side of mTLS: the SVID it holds now, and the one peer that it talks to.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Request;
use tonic::Streaming;
use tonic::metadata::MetadataValue;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;

use crate::cli::demo::event::BoxError;
use crate::cli::demo::event::DemoEvent;
use crate::cli::demo::event::PeerSvid;
use crate::cli::demo::event::micros_since;
use crate::cli::workload::client::certificates;
use crate::cli::workload::client::connect;
use crate::endpoints::workload_api::proto::X509svid;
use crate::endpoints::workload_api::proto::X509svidRequest;
use crate::endpoints::workload_api::proto::X509svidResponse;
use crate::endpoints::workload_api::proto::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use crate::identity::Bundle;
use crate::identity::SpiffeId;
use crate::identity::bundle::Bundles;
use crate::identity::rustls_verifier::PeerVerifier;

/// The two configurations that one SVID makes.
#[derive(Debug, Clone)]
pub(super) struct Configurations {
    /// For accepting.
    pub(super) server: Arc<ServerConfig>,
    /// For connecting.
    pub(super) client: Arc<ClientConfig>,
    peer: SpiffeId,
}

/// The X.509-SVID of this process, kept up to date in the background.
pub(super) struct X509Source {
    now: watch::Receiver<Configurations>,
}

impl Configurations {
    /// What an update of the Workload API makes possible, with `peer` and nobody else.
    fn new(svid: &X509svid, peer: SpiffeId) -> Result<Self, BoxError> {
        let id: SpiffeId = svid.spiffe_id.parse()?;
        let mut bundle = Bundle::empty(id.trust_domain().parse()?);
        bundle.x509_authorities = each_certificate(&svid.bundle)?.into_iter().map(|der| der.to_vec().into()).collect();
        let bundles = Arc::new(Bundles::from([(bundle.trust_domain.clone(), Arc::new(bundle))]));
        let expected = peer.clone();
        let verifier = PeerVerifier::new(move || bundles.clone(), move |found| *found == expected);
        let chain: Vec<_> =
            each_certificate(&svid.x509_svid)?.into_iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let key = PrivatePkcs8KeyDer::from(svid.x509_svid_key.to_vec());
        let mut server = ServerConfig::builder()
            .with_client_cert_verifier(verifier.clone())
            .with_single_cert(chain.clone(), key.clone_key().into())?;
        // SECURITY: a resumed session would skip the verification of a peer whose SVID may have ended meanwhile.
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let client = ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(chain, key.into())?;
        Ok(Self { server: Arc::new(server), client: Arc::new(client), peer })
    }

    /// Reads whom a handshake has verified.
    pub(super) fn peer(&self, chain: Option<&[CertificateDer<'_>]>) -> Result<PeerSvid, BoxError> {
        let leaf = chain.and_then(|chain| chain.first()).ok_or("the peer showed no certificate")?;
        Ok(PeerSvid { id: self.peer.to_string(), serial: serial(leaf)? })
    }
}

impl X509Source {
    /// Asks the daemon for an identity, and follows its changes. `say` hears of each.
    ///
    /// # Errors
    /// [`tonic::Status`] when the daemon gives none.
    pub(super) async fn follow(socket: &Path, peer: SpiffeId, say: fn(&DemoEvent)) -> Result<Self, BoxError> {
        let asked = Instant::now();
        let channel = connect(socket).await.map_err(|failure| failure.why)?;
        let mut request = Request::new(X509svidRequest {});
        request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
        let mut updates = SpiffeWorkloadApiClient::new(channel).fetch_x509svid(request).await?.into_inner();
        let first = next(&mut updates, peer.clone(), asked, say).await?;
        let (changed, now) = watch::channel(first);
        tokio::spawn(async move {
            loop {
                match next(&mut updates, peer.clone(), Instant::now(), say).await {
                    Ok(update) => changed.send_replace(update),
                    Err(error) => return say(&DemoEvent::Failed { why: error.to_string() }),
                };
            }
        });
        Ok(Self { now })
    }

    /// The configurations to make a handshake with at this moment.
    pub(super) fn now(&self) -> Configurations {
        self.now.borrow().clone()
    }
}

/// The next update that the daemon sends.
async fn next(
    updates: &mut Streaming<X509svidResponse>,
    peer: SpiffeId,
    asked: Instant,
    say: fn(&DemoEvent),
) -> Result<Configurations, BoxError> {
    let update = updates.message().await?.ok_or("the daemon has ended the stream")?;
    let micros = micros_since(asked);
    let svid = update.svids.first().ok_or("the daemon gave no SVID")?;
    let serial = serial(&svid.x509_svid)?;
    say(&DemoEvent::Identity { id: svid.spiffe_id.clone(), serial, micros });
    Configurations::new(svid, peer)
}

/// The serial number of the certificate that `der` begins with.
fn serial(der: &[u8]) -> Result<String, BoxError> {
    let (_, leaf) = X509Certificate::from_der(der)?;
    Ok(leaf.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn each_certificate(der: &[u8]) -> Result<Vec<&[u8]>, BoxError> {
    Ok(certificates(der).map_err(|failure| failure.why)?)
}
