//! Callers without an agent behind them: they hold what a test gives them, and behave otherwise like real ones.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;

use bonafide::attestation::kernel::PidfdFacts;
use bonafide::attestation::kernel::ProcDirectory;
use bonafide::attestation::kernel::Process;
use bonafide::attestation::kernel::Unanswered;
use bonafide::endpoints::transport::unix::Identify;
use bonafide::entitlement::door::BrokerConnection;
use bonafide::entitlement::door::Connection;
use bonafide::entitlement::door::Connections;
use bonafide::entitlement::door::EncodedBundles;
use bonafide::entitlement::door::Ended;
use bonafide::entitlement::door::NotValidated;
use bonafide::entitlement::door::Secret;
use bonafide::entitlement::door::Subject;
use bonafide::entitlement::door::ValidToken;
use bonafide::entitlement::door::X509Update;
use bonafide::evidence::Credentials;
use bonafide::evidence::Level;
use bonafide::evidence::Principal;
use bonafide::identity::JwtSvid;
use bonafide::identity::PrivateKey;
use bonafide::identity::SpiffeId;
use bonafide::identity::X509Svid;
use bonafide::policy::DecisionId;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;

pub(crate) const DECISION: DecisionId = DecisionId([0x7f, 0x31, 0xc2, 0xa9, 0x0b, 0x4e]);
/// A token that makes the caller panic.
pub(crate) const PANICS: &str = "pan.i.c";
pub(crate) const TOKEN: &str = "head.body.signature";

/// Admits everyone, and gives everyone the same.
#[derive(Debug, Clone)]
pub(crate) struct FakeCallers(Arc<State>);

#[derive(Debug)]
struct State {
    holding: watch::Sender<Result<X509Update, Ended>>,
    ended: watch::Sender<Option<Ended>>,
    image_changed: AtomicBool,
    writers_checked: AtomicUsize,
    updates_made: AtomicUsize,
    secrets_made: AtomicUsize,
    /// Each secret that is on its way holds it, too.
    on_their_way: Arc<()>,
}

impl State {
    fn secret<T>(&self, value: T) -> Secret<T> {
        self.secrets_made.fetch_add(1, Ordering::SeqCst);
        Secret::new(value, Box::new(Arc::clone(&self.on_their_way)))
    }
}

impl FakeCallers {
    /// Everyone has these identities, default first.
    pub(crate) fn holding(ids: &[&str]) -> Self {
        Self::starting_with(Ok(update(ids, 1)))
    }

    /// No caller has anything, for this reason.
    pub(crate) fn ended(ended: Ended) -> Self {
        Self::starting_with(Err(ended))
    }

    fn starting_with(holding: Result<X509Update, Ended>) -> Self {
        Self(Arc::new(State {
            holding: watch::Sender::new(holding),
            ended: watch::Sender::new(None),
            image_changed: AtomicBool::new(false),
            writers_checked: AtomicUsize::new(0),
            updates_made: AtomicUsize::new(0),
            secrets_made: AtomicUsize::new(0),
            on_their_way: Arc::new(()),
        }))
    }

    /// From now on everyone has this.
    pub(crate) fn change(&self, holding: Result<X509Update, Ended>) {
        let _ = self.0.holding.send_replace(holding);
    }

    /// Every caller's process exits, or the daemon stops.
    pub(crate) fn end(&self, ended: Ended) {
        let _ = self.0.holding.send_replace(Err(ended));
        self.0.ended.send_replace(Some(ended));
    }

    /// Every caller's process becomes another program.
    pub(crate) fn change_image(&self) {
        self.0.image_changed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn writers_checked(&self) -> usize {
        self.0.writers_checked.load(Ordering::SeqCst)
    }

    pub(crate) fn updates_made(&self) -> usize {
        self.0.updates_made.load(Ordering::SeqCst)
    }

    pub(crate) fn secrets_made(&self) -> usize {
        self.0.secrets_made.load(Ordering::SeqCst)
    }

    pub(crate) fn secrets_on_their_way(&self) -> usize {
        Arc::strong_count(&self.0.on_their_way) - 1
    }
}

/// A whole state with made-up bytes of `size` in each field.
pub(crate) fn update(ids: &[&str], size: usize) -> X509Update {
    let svid = |id: &&str| X509Svid {
        id: id.parse().unwrap(),
        chain: vec![Bytes::from(vec![0x30; size]), Bytes::from_static(b"0I")],
        key: Arc::new(PrivateKey::from_pkcs8(vec![0x30, 0x4b])),
        hint: id.rsplit('/').next().map(str::to_owned),
        serial: "01".to_owned(),
        issued: SystemTime::UNIX_EPOCH,
        not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(3600),
    };
    X509Update {
        svids: ids.iter().map(svid).collect(),
        bundle: Bytes::from_static(b"0B"),
        federated: [("partner.test".parse().unwrap(), Bytes::from_static(b"0F"))].into(),
    }
}

impl Connections for FakeCallers {
    fn admit(&self, process: Arc<dyn Process>) -> Result<Arc<dyn Connection>, Ended> {
        Ok(Arc::new(FakeCaller { state: self.0.clone(), peer: process.peer() }))
    }

    fn admit_broker(&self, _: Arc<dyn Process>) -> Result<Arc<dyn BrokerConnection>, Ended> {
        Err(Ended::Denied(DECISION))
    }
}

#[derive(Debug)]
struct FakeCaller {
    state: Arc<State>,
    peer: Credentials,
}

impl FakeCaller {
    fn stream<T: Send + 'static>(
        &self,
        take: impl Fn(X509Update) -> T + Send + 'static,
    ) -> BoxStream<'static, Result<T, Ended>> {
        let mut over = false;
        let state = self.state.clone();
        WatchStream::new(self.state.holding.subscribe())
            .take_while(move |holding| std::future::ready(!std::mem::replace(&mut over, holding.is_err())))
            .inspect(move |_| {
                state.updates_made.fetch_add(1, Ordering::SeqCst);
            })
            .map(move |holding| holding.map(&take))
            .boxed()
    }
}

impl Connection for FakeCaller {
    fn principal(&self) -> Principal {
        Principal { uid: self.peer.uid, cgroup: 0 }
    }

    fn check_writer(&self, writer: Credentials) -> Result<(), Ended> {
        self.state.writers_checked.fetch_add(1, Ordering::SeqCst);
        if writer == self.peer { Ok(()) } else { Err(Ended::Denied(DECISION)) }
    }

    fn may_receive_secret(&self) -> Result<(), Ended> {
        if self.state.image_changed.load(Ordering::SeqCst) { Err(Ended::Denied(DECISION)) } else { Ok(()) }
    }

    fn closed(&self) -> BoxFuture<'static, Ended> {
        let mut ended = self.state.ended.subscribe();
        async move {
            let ended = ended.wait_for(Option::is_some).await.map(|ended| *ended);
            ended.ok().flatten().unwrap_or(Ended::Stopping)
        }
        .boxed()
    }

    fn subject(self: Arc<Self>) -> Arc<dyn Subject> {
        self
    }
}

impl Subject for FakeCaller {
    fn x509_svids(self: Arc<Self>) -> BoxStream<'static, Result<Secret<X509Update>, Ended>> {
        let state = self.state.clone();
        self.stream(move |update| state.secret(update))
    }

    fn x509_bundles(self: Arc<Self>) -> BoxStream<'static, Result<EncodedBundles, Ended>> {
        self.stream(|update| {
            let own = ("example.org".parse().unwrap(), update.bundle);
            update.federated.into_iter().chain([own]).collect()
        })
    }

    fn jwt_bundles(self: Arc<Self>) -> BoxStream<'static, Result<EncodedBundles, Ended>> {
        self.stream(|_| [("example.org".parse().unwrap(), Bytes::from_static(br#"{"keys":[]}"#))].into())
    }

    fn jwt_svids(
        self: Arc<Self>,
        audiences: Vec<String>,
        id: Option<SpiffeId>,
    ) -> BoxFuture<'static, Result<Secret<Vec<JwtSvid>>, Ended>> {
        let (state, holding) = (self.state.clone(), self.state.holding.borrow().clone());
        async move {
            let svids: Vec<_> = holding?
                .svids
                .into_iter()
                .filter(|svid| id.as_ref().is_none_or(|id| *id == svid.id))
                .map(|svid| JwtSvid {
                    id: svid.id,
                    token: format!("token-for-{}", audiences.join("+")),
                    hint: svid.hint,
                    token_id: "1".to_owned(),
                    not_after: svid.not_after,
                })
                .collect();
            if svids.is_empty() { Err(Ended::Denied(DECISION)) } else { Ok(state.secret(svids)) }
        }
        .boxed()
    }

    fn validate_jwt(
        self: Arc<Self>,
        audience: String,
        token: String,
    ) -> BoxFuture<'static, Result<ValidToken, NotValidated>> {
        async move {
            assert_ne!(token, PANICS);
            if token != TOKEN {
                return Err(NotValidated::Invalid("the token has no signature".to_owned()));
            }
            let claims = serde_json::json!({"sub": "spiffe://example.org/web", "aud": audience, "exp": 1_900_000_000});
            let claims = claims.as_object().unwrap().clone();
            Ok(ValidToken { id: "spiffe://example.org/web".parse().unwrap(), claims })
        }
        .boxed()
    }
}

/// Asks the socket who connected, and nothing else.
pub(crate) fn identify() -> Identify {
    Arc::new(|socket: BorrowedFd<'_>| {
        let peer = nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerCredentials).unwrap();
        let peer = Credentials { pid: peer.pid().cast_unsigned(), uid: peer.uid(), gid: peer.gid() };
        Ok(Arc::new(FakeProcess(peer)))
    })
}

/// A process of which nothing but its credentials is known.
#[derive(Debug)]
pub(crate) struct FakeProcess(pub(crate) Credentials);

impl Process for FakeProcess {
    fn peer(&self) -> Credentials {
        self.0
    }

    fn level(&self) -> Level {
        Level::Full
    }

    fn alive(&self) -> Result<(), Unanswered> {
        Ok(())
    }

    fn pidfd_facts(&self) -> Result<Option<PidfdFacts>, Unanswered> {
        Err(Unanswered::Absent)
    }

    fn directory(&self) -> Result<Box<dyn ProcDirectory>, Unanswered> {
        Err(Unanswered::Absent)
    }

    fn exited(&self) -> BoxFuture<'static, ()> {
        std::future::pending().boxed()
    }
}
