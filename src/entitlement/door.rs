//! What a door sees: connections, the processes they ask about, updates to encode, and an end. Never evidence, a permit,
//! an entry or an authority. Whether an update holds a secret is a type.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

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
use crate::policy::DecisionId;

/// Why there is nothing (more) for a process. The id is all that the caller learns beyond the kind.
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

/// One accepted connection: whom its limits are charged to, who may write to it, and when it ends.
///
/// Who speaks and whom it is about are two things. For a workload they are one process, and [`Connection::subject`] is
/// that process; a broker speaks for others.
pub trait Connection: Send + Sync + fmt::Debug {
    /// Whom its limits are charged to.
    fn principal(&self) -> Principal;

    /// Checks the kernel's sender of a message that arrived.
    ///
    /// # Errors
    /// [`Ended::Denied`] when another process wrote it: the connection must be cut before a byte of it is used.
    fn check_writer(&self, writer: Credentials) -> Result<(), Ended>;

    /// Checks, before bytes of a message with a secret leave, that every process whose secrets are on their way by this
    /// connection still is what they were issued for, and that they are still permitted.
    ///
    /// # Errors
    /// [`Ended`]: the connection must be cut.
    fn may_receive_secret(&self) -> Result<(), Ended>;

    /// Resolves when the connection must end: its process has exited, or the daemon stops.
    fn closed(&self) -> BoxFuture<'static, Ended>;

    /// The process that connected, as the one that identities are asked for.
    fn subject(self: Arc<Self>) -> Arc<dyn Subject>;
}

/// One process that identities are asked for. Cheap to hold; every method checks again who it is.
pub trait Subject: Send + Sync + fmt::Debug {
    /// Its X.509 identities: the state now, then again whenever it changes. Each item is made when it is asked for, so
    /// that a slow reader costs one update and never a queue. The first error is the last item.
    fn x509_svids(self: Arc<Self>) -> BoxStream<'static, Result<Secret<X509Update>, Ended>>;

    /// The X.509 bundles that it may see, likewise.
    fn x509_bundles(self: Arc<Self>) -> BoxStream<'static, Result<EncodedBundles, Ended>>;

    /// The JWT bundles that it may see, likewise.
    fn jwt_bundles(self: Arc<Self>) -> BoxStream<'static, Result<EncodedBundles, Ended>>;

    /// Newly signed tokens: for `id`, or for every identity of the process, default first.
    ///
    /// # Errors
    /// [`Ended`]
    fn jwt_svids(
        self: Arc<Self>,
        audiences: Vec<String>,
        id: Option<SpiffeId>,
    ) -> BoxFuture<'static, Result<Secret<Vec<JwtSvid>>, Ended>>;

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

/// A connection that may ask about other processes of this node.
pub trait BrokerConnection: Connection {
    /// The process that has this number now. Its secrets go to this connection, whose limits, writer and exit count.
    ///
    /// # Errors
    /// [`Ended`]: there is no such process, or it cannot be attested.
    fn subject_with_pid(self: Arc<Self>, pid: u32) -> Result<Arc<dyn Subject>, Ended>;
}

/// Where accepted sockets become connections.
pub trait Connections: Send + Sync + fmt::Debug {
    /// Admits the process behind an accepted socket, before anything else is read from it.
    ///
    /// # Errors
    /// [`Ended`]: the connection is closed without a byte.
    fn admit(&self, process: Arc<dyn Process>) -> Result<Arc<dyn Connection>, Ended>;

    /// Likewise, a process that the door's own rules let ask about others.
    ///
    /// # Errors
    /// [`Ended`]: the connection is closed without a byte.
    fn admit_broker(&self, process: Arc<dyn Process>) -> Result<Arc<dyn BrokerConnection>, Ended>;
}

/// A value that must not reach a process which is no longer the one it was issued for.
///
/// A codec that hands it out without the check before its first byte does not compile:
///
/// ```compile_fail
/// use bonafide::entitlement::door::X509Update;
/// use bonafide::entitlement::door::Secret;
/// use bonafide::entitlement::door::SecretGate;
///
/// fn encode(update: Secret<X509Update>, _gate: &SecretGate) -> usize {
///     update.svids.len()
/// }
/// ```
///
/// With the check it does:
///
/// ```
/// use bonafide::entitlement::door::X509Update;
/// use bonafide::entitlement::door::Secret;
/// use bonafide::entitlement::door::SecretGate;
///
/// fn encode(update: Secret<X509Update>, gate: &SecretGate) -> usize {
///     update.open(gate).svids.len()
/// }
/// ```
#[must_use]
pub struct Secret<T> {
    value: T,
    on_its_way: OnItsWay,
}

/// Kept as long as something that was handed to a connection may still leave by it. Its drop says that the last byte has
/// left, or never will.
pub type OnItsWay = Box<dyn Send>;

impl<T> Secret<T> {
    /// Wraps what holds a private key or a token.
    pub fn new(value: T, on_its_way: OnItsWay) -> Self {
        Self { value, on_its_way }
    }

    /// Arms the gate, which keeps that the value is on its way, and gives it out.
    pub fn open(self, gate: &SecretGate) -> T {
        gate.shared.armed.store(true, Ordering::Release);
        gate.opened().push((gate.answer, self.on_its_way));
        self.value
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The check before the bytes of a secret, one for each connection. The transport makes it, asks it before it writes
/// payload, and lends it to the codecs. Clones are the same.
#[derive(Clone)]
pub struct SecretGate {
    shared: Arc<SharedGate>,
    /// The answer that secrets are opened for.
    answer: u64,
}

struct SharedGate {
    connection: Arc<dyn Connection>,
    armed: AtomicBool,
    answers: AtomicU64,
    /// What was opened and not taken yet, each with its answer.
    opened: Mutex<Vec<(u64, OnItsWay)>>,
}

impl SecretGate {
    /// A gate in front of `connection`, through which no secret has passed yet.
    #[must_use]
    pub fn new(connection: Arc<dyn Connection>) -> Self {
        let (armed, answers, opened) = (AtomicBool::new(false), AtomicU64::new(0), Mutex::default());
        Self { shared: Arc::new(SharedGate { connection, armed, answers, opened }), answer: 0 }
    }

    /// The same gate for one more answer, which leaves interleaved with others.
    #[must_use]
    pub fn for_next_answer(&self) -> Self {
        let answer = self.shared.answers.fetch_add(1, Ordering::Relaxed) + 1;
        Self { shared: Arc::clone(&self.shared), answer }
    }

    /// The connection behind it.
    #[must_use]
    pub fn connection(&self) -> &Arc<dyn Connection> {
        &self.shared.connection
    }

    /// Checks that payload may leave now. Before the first secret it may.
    ///
    /// # Errors
    /// [`Ended`]: the connection must be cut.
    pub fn check(&self) -> Result<(), Ended> {
        let shared = &*self.shared;
        if shared.armed.load(Ordering::Acquire) { shared.connection.may_receive_secret() } else { Ok(()) }
    }

    /// What was opened for this answer since the last time. Whoever takes it keeps it until the bytes have left, or will
    /// not leave any more. What nobody takes is on its way as long as the gate is there.
    #[must_use]
    pub fn take_opened(&self) -> Vec<OnItsWay> {
        let mut opened = self.opened();
        let (taken, others) = std::mem::take(&mut *opened).into_iter().partition(|(answer, _)| *answer == self.answer);
        *opened = others;
        drop(opened);
        taken.into_iter().map(|(_, on_its_way)| on_its_way).collect()
    }

    fn opened(&self) -> MutexGuard<'_, Vec<(u64, OnItsWay)>> {
        self.shared.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SecretGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretGate").field("connection", &self.shared.connection).finish_non_exhaustive()
    }
}
