//! What a door sees of a caller: updates to encode, and an end. Never evidence, a permit, an entry or an authority.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use crate::attestation::kernel::Process;
use crate::evidence::Credentials;
use crate::evidence::Principal;
use crate::identity::JwtSvid;
use crate::identity::SpiffeId;
use crate::identity::TrustDomain;
use crate::identity::X509Svid;

/// The name of one recorded decision: random, and says nothing by itself. `Display` gives `d-7f31c2a90b4e`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecisionId(pub [u8; 6]);

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "d-{:012x}", u64::from_be_bytes([0, 0, a, b, c, d, e, g]))
    }
}

/// Not the name of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name of a decision is d- and twelve hexadecimal digits, for example d-7f31c2a90b4e")]
pub struct NotADecisionId;

impl FromStr for DecisionId {
    type Err = NotADecisionId;

    fn from_str(text: &str) -> Result<Self, NotADecisionId> {
        let digits = text.strip_prefix("d-").filter(|digits| digits.len() == 12).ok_or(NotADecisionId)?;
        let mut id = [0; 6];
        for (at, byte) in id.iter_mut().enumerate() {
            let pair = digits.get(2 * at..2 * at + 2).ok_or(NotADecisionId)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NotADecisionId)?;
        }
        Ok(Self(id))
    }
}

/// Why there is nothing (more) for a caller. The id is all that the caller learns beyond the kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// A completed "no": `PermissionDenied`.
    Denied(DecisionId),
    /// A check that could not be completed: `Unavailable`.
    Undecided(DecisionId),
    /// The daemon stops: `Unavailable`.
    Stopping,
}

/// The whole state of a caller's X.509 identities (SPEC: Workload API §5.2.1): never without an SVID.
#[derive(Debug, Clone)]
pub struct X509Update {
    /// Default identity first.
    pub svids: Vec<X509Svid>,
    /// The own trust domain's root certificates, DER, concatenated.
    pub bundle: Bytes,
    /// Root certificates of the foreign trust domains that this caller may see, DER, concatenated.
    pub federated: BTreeMap<TrustDomain, Bytes>,
}

/// EncodedBundles of the own and of the foreign trust domains that a caller may see, own domain included. X.509: concatenated
/// DER. JWT: a JWK Set as JSON.
pub type EncodedBundles = BTreeMap<TrustDomain, Bytes>;

/// A token that was verified.
#[derive(Debug, Clone)]
pub struct ValidToken {
    /// `sub`
    pub id: SpiffeId,
    /// The claims to show: all for the own trust domain; `sub`, `aud` and `exp` for a foreign one.
    pub claims: serde_json::Map<String, serde_json::Value>,
}

/// Why a token was not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotValidated {
    /// The token is not valid; why, in words that repeat nothing of it.
    Invalid(String),
    /// There is nothing for this caller at all.
    Ended(Ended),
}

/// One connected process. Cheap to hold; every method checks again who it is.
pub trait Caller: Send + Sync + fmt::Debug {
    /// Whom its limits are charged to.
    fn key(&self) -> Principal;

    /// Checks the kernel's sender of a message that arrived on its connection.
    ///
    /// # Errors
    /// [`Ended::Denied`] when another process wrote it: the connection must be cut before a byte of it is used.
    fn wrote(&self, writer: Credentials) -> Result<(), Ended>;

    /// Proves that the process is alive, and that the image its permits were decided for is still running. The transport
    /// asks before the first byte of every message with a secret leaves.
    ///
    /// # Errors
    /// [`Ended`]: the connection must be cut.
    fn may_receive_secret(&self) -> Result<(), Ended>;

    /// Resolves when the connection must end: the process has exited, or the daemon stops.
    fn ended(&self) -> BoxFuture<'static, Ended>;

    /// The caller's X.509 identities: the state now, then again whenever it changes. Each item is made when it is asked
    /// for, so that a slow reader costs one update and never a queue. The first error is the last item.
    fn x509_svids(self: Arc<Self>) -> BoxStream<'static, Result<X509Update, Ended>>;

    /// The X.509 bundles that the caller may see, likewise.
    fn x509_bundles(self: Arc<Self>) -> BoxStream<'static, Result<EncodedBundles, Ended>>;

    /// The JWT bundles that the caller may see, likewise.
    fn jwt_bundles(self: Arc<Self>) -> BoxStream<'static, Result<EncodedBundles, Ended>>;

    /// Newly signed tokens: for `id`, or for every identity of the caller, default first.
    ///
    /// # Errors
    /// [`Ended`]
    fn jwt_svids(
        self: Arc<Self>,
        audiences: Vec<String>,
        id: Option<SpiffeId>,
    ) -> BoxFuture<'static, Result<Vec<JwtSvid>, Ended>>;

    /// Verifies a token for `audience` against the bundle of its own subject's trust domain.
    ///
    /// # Errors
    /// [`NotValidated`]
    fn validate_jwt(
        self: Arc<Self>,
        audience: String,
        token: String,
    ) -> BoxFuture<'static, Result<ValidToken, NotValidated>>;
}

/// Where connections become callers.
pub trait Callers: Send + Sync + fmt::Debug {
    /// Admits the process behind an accepted socket, before anything else is read from it.
    ///
    /// # Errors
    /// [`Ended`]: the connection is closed without a byte.
    fn admit(&self, process: Arc<dyn Process>) -> Result<Arc<dyn Caller>, Ended>;
}
