//! X509-SVID verification as rustls asks for it, in both directions. Host names and the web's certificate authorities play
//! no part: a peer is its SPIFFE ID.
//!
//! A resumed TLS session is not verified again. Whoever builds the configuration turns resumption off, or lives with peers
//! that stay trusted after their root is gone.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use rustls::CertificateError;
use rustls::DigitallySignedStruct;
use rustls::DistinguishedName;
use rustls::Error;
use rustls::OtherError;
use rustls::SignatureScheme;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::crypto::verify_tls12_signature;
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::UnixTime;
use rustls::server::danger::ClientCertVerified;
use rustls::server::danger::ClientCertVerifier;

use crate::identity::bundle::Bundles;
use crate::identity::spiffe_id::SpiffeId;
use crate::identity::x509_verify::Purpose;
use crate::identity::x509_verify::verify_x509_svid;

/// Authenticates peers by the bundles of this moment, and authorizes them by their SPIFFE ID.
pub struct PeerVerifier {
    bundles: Box<dyn Fn() -> Arc<Bundles> + Send + Sync>,
    authorized: Box<dyn Fn(&SpiffeId) -> bool + Send + Sync>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// The peer is who it says, and is not wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not authorized here")]
pub struct NotAuthorized(pub SpiffeId);

impl PeerVerifier {
    /// `bundles` is asked for each handshake, so that a change counts from the next one on; `authorized` says which
    /// authenticated peers are wanted.
    #[must_use]
    pub fn new(
        bundles: impl Fn() -> Arc<Bundles> + Send + Sync + 'static,
        authorized: impl Fn(&SpiffeId) -> bool + Send + Sync + 'static,
    ) -> Arc<Self> {
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        Arc::new(Self { bundles: Box::new(bundles), authorized: Box::new(authorized), algorithms })
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        purpose: Purpose,
    ) -> Result<(), Error> {
        let chain: Vec<&[u8]> = [leaf].into_iter().chain(intermediates).map(AsRef::as_ref).collect();
        let bundles = (self.bundles)();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let peer =
            verify_x509_svid(&chain, |name| bundles.get(name).map(Arc::as_ref), now, purpose).map_err(refusal)?;
        if (self.authorized)(&peer) { Ok(()) } else { Err(refusal(NotAuthorized(peer))) }
    }
}

fn refusal(why: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerVerifier").finish_non_exhaustive()
    }
}

/// How a peer's signature over the handshake is verified: the same in both directions, which are two traits to rustls.
macro_rules! handshake_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, dss, &self.algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now, Purpose::Server).map(|()| ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

impl ClientCertVerifier for PeerVerifier {
    /// None: a client does not choose its SVID by the name of a root.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now, Purpose::Client).map(|()| ClientCertVerified::assertion())
    }

    handshake_signatures!();
}

#[cfg(test)]
mod tests {
    use rcgen::BasicConstraints;
    use rcgen::CertificateParams;
    use rcgen::IsCa;
    use rcgen::Issuer;
    use rcgen::KeyPair;
    use rcgen::KeyUsagePurpose;
    use rcgen::SanType;
    use rustls::ClientConfig;
    use rustls::ClientConnection;
    use rustls::ServerConfig;
    use rustls::ServerConnection;
    use rustls::pki_types::PrivateKeyDer;

    use super::*;
    use crate::identity::bundle::Bundle;

    struct Root {
        params: CertificateParams,
        key: KeyPair,
        bundles: Arc<Bundles>,
    }

    impl Root {
        fn new() -> Self {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            let der = params.self_signed(&key).unwrap().der().to_vec();
            let name: crate::identity::TrustDomain = "example.org".parse().unwrap();
            let bundle = Bundle { x509_authorities: vec![der.into()], ..Bundle::empty(name.clone()) };
            Self { params, key, bundles: Arc::new(Bundles::from([(name, Arc::new(bundle))])) }
        }

        fn svid(&self, id: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
            let der = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap().der().clone();
            (vec![der], key.into())
        }

        fn verifier(&self, wanted: &'static str) -> Arc<PeerVerifier> {
            let bundles = Arc::clone(&self.bundles);
            PeerVerifier::new(move || Arc::clone(&bundles), move |peer| peer.as_str() == wanted)
        }
    }

    /// A handshake in memory between `/client` of one root and `/server` of another, each of which wants `wanted`.
    fn handshake(client_root: &Root, server_root: &Root, wanted: [&'static str; 2]) -> Result<(), Error> {
        let provider = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let (chain, key) = client_root.svid("spiffe://example.org/client");
        let client = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(client_root.verifier(wanted[0]))
            .with_client_auth_cert(chain, key)?;
        let (chain, key) = server_root.svid("spiffe://example.org/server");
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(server_root.verifier(wanted[1]))
            .with_single_cert(chain, key)?;
        let mut client = ClientConnection::new(Arc::new(client), "any.name".try_into().unwrap())?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    const BOTH: [&str; 2] = ["spiffe://example.org/server", "spiffe://example.org/client"];

    #[test]
    fn two_peers_of_one_trust_domain_that_want_each_other_shake_hands() {
        let root = Root::new();
        handshake(&root, &root, BOTH).unwrap();
    }

    #[test]
    fn either_side_refuses_a_peer_that_it_does_not_want() {
        let root = Root::new();
        for (wanted, refused) in [
            (["spiffe://example.org/other", BOTH[1]], "NotAuthorized(spiffe://example.org/server)"),
            ([BOTH[0], "spiffe://example.org/other"], "NotAuthorized(spiffe://example.org/client)"),
        ] {
            let why = handshake(&root, &root, wanted).unwrap_err().to_string();
            assert!(why.contains(refused), "{why}");
        }
    }

    #[test]
    fn either_side_refuses_a_peer_of_another_root() {
        let (one, other) = (Root::new(), Root::new());
        let why = handshake(&one, &other, BOTH).unwrap_err().to_string();
        assert!(why.contains("Path("), "{why}");
    }
}
