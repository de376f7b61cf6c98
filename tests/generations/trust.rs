//! What is believed: the keys that the daemon keeps, the bundles that it serves, and what these verify.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;
use spiffe::JwtBundleSet;
use spiffe::JwtSvid;
use spiffe::WorkloadApiClient;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use crate::daemon::Daemon;
use crate::rust_member::AUDIENCE;

/// An SVID or a token that ends within so many seconds may end while it is checked.
const NEARLY_OVER: u64 = 2;

/// What is kept in the data directory.
pub(crate) struct Kept(Value);

impl Kept {
    /// The state as it is on the disk: what lies between two header lines and a checksum.
    pub(crate) fn by(daemon: &Daemon) -> Self {
        let text = fs::read_to_string(daemon.folder().join("data/authority.state")).unwrap();
        let payload = text.splitn(3, '\n').nth(2).unwrap();
        Self(serde_json::from_str(payload.rsplit_once("\nsha256 ").unwrap().0).unwrap())
    }

    /// The X.509 key and the JWT key that sign.
    pub(crate) fn active(&self) -> [String; 2] {
        ["x509", "jwt"].map(|kind| self.at_stage(kind, "active").unwrap())
    }

    /// The key of a kind that is at this stage: what is public of it.
    pub(crate) fn at_stage(&self, kind: &str, stage: &str) -> Option<String> {
        let key = self.0[kind].as_array().unwrap().iter().find(|key| key["stage"] == stage)?;
        let public = key.get("certificate").or_else(|| key.get("public_key")).unwrap();
        Some(public.as_str().unwrap().to_owned())
    }
}

/// The id of the authority that signed this certificate, as the daemon's log has it.
pub(crate) fn authority_of(certificate: &[u8]) -> String {
    let (_, certificate) = X509Certificate::from_der(certificate).unwrap();
    let id = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(authority) => authority.key_identifier.as_ref(),
        _ => None,
    });
    hex(&id.unwrap().0[..8])
}

/// The bundles of a daemon, as a client gets them that has just come.
pub(crate) struct Believed {
    roots: Vec<Vec<u8>>,
    tokens: JwtBundleSet,
}

impl Believed {
    pub(crate) async fn by_clients_of(address: String) -> Self {
        let client = WorkloadApiClient::connect_to(address).await.unwrap();
        let bundles = client.fetch_x509_bundles().await.unwrap();
        let roots = bundles.iter().flat_map(|(_, bundle)| bundle.authorities());
        Self {
            roots: roots.map(|root| root.as_bytes().to_vec()).collect(),
            tokens: client.fetch_jwt_bundles().await.unwrap(),
        }
    }

    /// What of these certificates and tokens has not ended, and does not verify.
    pub(crate) fn refused(&self, certificates: &BTreeSet<Vec<u8>>, tokens: &BTreeSet<String>) -> Vec<String> {
        let certificates = certificates.iter().filter(|certificate| lasts(not_after(certificate)));
        let certificates = certificates.filter(|certificate| !self.verifies(certificate));
        let certificates = certificates.map(|certificate| format!("an SVID of {}", authority_of(certificate)));
        let tokens = tokens.iter().filter(|token| lasts(claims(token)["exp"].as_u64().unwrap()));
        let tokens = tokens.filter_map(|token| {
            let why = JwtSvid::parse_and_validate(token, &self.tokens, &[AUDIENCE]).err()?;
            Some(format!("a token: {why}"))
        });
        certificates.chain(tokens).collect()
    }

    /// What names the keys in the bundles: certificates, and key ids.
    pub(crate) fn keys(&self) -> (BTreeSet<Vec<u8>>, BTreeSet<String>) {
        let tokens = self.tokens.iter().flat_map(|(_, bundle)| bundle.jwt_authorities());
        (self.roots.iter().cloned().collect(), tokens.map(|key| key.key_id().to_owned()).collect())
    }

    fn verifies(&self, certificate: &[u8]) -> bool {
        let (_, certificate) = X509Certificate::from_der(certificate).unwrap();
        self.roots.iter().any(|root| {
            let (_, root) = X509Certificate::from_der(root).unwrap();
            certificate.verify_signature(Some(root.public_key())).is_ok()
        })
    }
}

/// By the SPIFFE ID of these tokens: the ids of the keys that signed them.
pub(crate) fn keys_of(tokens: &BTreeSet<String>) -> BTreeMap<String, BTreeSet<String>> {
    let mut keys = BTreeMap::<_, BTreeSet<_>>::new();
    for token in tokens {
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        keys.entry(word(&claims(token)["sub"])).or_default().insert(word(&part(token, 0)["kid"]));
    }
    keys
}

fn lasts(until: u64) -> bool {
    until > seconds_now() + NEARLY_OVER
}

/// The seconds until the end of a token.
pub(crate) fn left_of(token: &str) -> u64 {
    claims(token)["exp"].as_u64().unwrap().saturating_sub(seconds_now())
}

fn seconds_now() -> u64 {
    #[allow(clippy::disallowed_methods, reason = "the daemon under test follows the real clock")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn not_after(certificate: &[u8]) -> u64 {
    let (_, certificate) = X509Certificate::from_der(certificate).unwrap();
    certificate.validity().not_after.timestamp().try_into().unwrap()
}

fn claims(token: &str) -> Value {
    part(token, 1)
}

fn part(token: &str, nth: usize) -> Value {
    let part = token.split('.').nth(nth).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
