//! One connected process, as a door holds it.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::time::Instant;

use crate::attestation::ImageEpoch;
use crate::attestation::NotAttested;
use crate::attestation::PinnedProcess;
use crate::audit::Event;
use crate::audit::Record;
use crate::entitlement::door::Caller;
use crate::entitlement::door::DecisionId;
use crate::entitlement::door::EncodedBundles;
use crate::entitlement::door::Ended;
use crate::entitlement::door::NotValidated;
use crate::entitlement::door::ValidToken;
use crate::entitlement::door::X509Update;
use crate::entitlement::ledger::outbound::DecisionBasis;
use crate::entitlement::ledger::outbound::Outbound;
use crate::entitlement::ledger::records;
use crate::entitlement::ledger::records::Credential;
use crate::entitlement::ledger::refusals::RefusalCause;
use crate::entitlement::node_state::NodeState;
use crate::entitlement::stream;
use crate::entitlement::tokens;
use crate::evidence::Credentials;
use crate::evidence::Principal;
use crate::identity::JwtSvid;
use crate::identity::SpiffeId;
use crate::identity::X509Svid;
use crate::issuance::IssueError;
use crate::policy::decide::Denial;
use crate::policy::decide::Permit;

/// A pinned process and the state it shares with all others.
#[derive(Debug)]
pub(in crate::entitlement) struct LiveCaller {
    pub(in crate::entitlement) shared: Arc<NodeState>,
    pub(in crate::entitlement) process: PinnedProcess,
    outbound: Mutex<Outbound>,
    last_look: Mutex<Option<Look>>,
}

/// Why nothing was issued on a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::entitlement) enum NotIssued {
    /// The entries changed between the decision and the issue: decide again.
    Stale,
    /// It could not be done, and the refusal is kept under this name.
    Failed(DecisionId),
}

/// The latest look at a process, which all of its connection's streams share.
#[derive(Debug)]
struct Look {
    at: Instant,
    /// The image that was looked for.
    image: ImageEpoch,
    found: Result<(), NotAttested>,
}

/// A process that became another one is noticed at the latest after this time, whether or not anything is due for it
/// (SPEC: product contract §5, rule 8).
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Nobody looks again for the same sooner than this.
const LOOK_SHARED: Duration = Duration::from_secs(8);

impl LiveCaller {
    pub(in crate::entitlement) fn new(shared: Arc<NodeState>, process: PinnedProcess) -> Self {
        Self { shared, process, outbound: Mutex::default(), last_look: Mutex::default() }
    }

    /// The first of the two checks before a secret leaves, at the moment when the door gets it: the new state of a stream.
    /// The transport makes the second at its first byte, by what is noted here.
    pub(in crate::entitlement) fn hand_over(
        &self,
        stream: u64,
        basis: &DecisionBasis,
        ids: Vec<SpiffeId>,
    ) -> Result<(), NotAttested> {
        self.look(basis.image)?;
        self.outbound().set_stream(stream, basis, ids);
        Ok(())
    }

    /// The same for the answer to a single call.
    pub(in crate::entitlement) fn hand_over_reply(
        &self,
        basis: &DecisionBasis,
        ids: Vec<SpiffeId>,
    ) -> Result<(), NotAttested> {
        self.look(basis.image)?;
        self.outbound().add_reply(basis, ids);
        Ok(())
    }

    /// What was handed to the door and may not have left yet.
    pub(in crate::entitlement) fn outbound(&self) -> MutexGuard<'_, Outbound> {
        self.outbound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Proves that the image which something was decided for is still running.
    fn look(&self, image: ImageEpoch) -> Result<(), NotAttested> {
        let found = self.process.unchanged(image);
        *self.last_look() = Some(Look { at: Instant::now(), image, found });
        found
    }

    /// What a stream that only waits finds when its turn has come. The look is made once for all streams of the
    /// connection: whoever comes second hears what the first has found.
    ///
    /// INVARIANT: a stream that comes whenever [`LiveCaller::next_look`] says hears of a change within [`LOOK_AGAIN`]: it
    /// comes no later than that after the look it heard of last, and hears of one that is no older.
    pub(in crate::entitlement) fn look_in_turn(&self, image: ImageEpoch) -> Result<(), NotAttested> {
        let shared = self
            .last_look()
            .as_ref()
            .filter(|look| look.image == image && look.at.elapsed() < LOOK_SHARED)
            .map(|look| look.found);
        shared.unwrap_or_else(|| self.look(image))
    }

    /// How long a stream may wait for its next turn; `spread` in `0.0 ..= 1.0` draws connections apart.
    pub(in crate::entitlement) fn next_look(&self, image: ImageEpoch, spread: f64) -> Duration {
        let wait = LOOK_SHARED + (LOOK_AGAIN - LOOK_SHARED).mul_f64(spread);
        match self.last_look().as_ref().filter(|look| look.image == image) {
            Some(Look { found: Err(NotAttested::No(_)), .. }) => Duration::ZERO,
            Some(look) => wait.saturating_sub(look.at.elapsed()),
            None => wait,
        }
    }

    fn last_look(&self) -> MutexGuard<'_, Option<Look>> {
        self.last_look.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Issues for one permit and writes it down, before anything of it can leave.
    pub(in crate::entitlement) async fn issue_x509(&self, permit: Permit) -> Result<X509Svid, NotIssued> {
        let origin = permit.entry().origin.clone();
        match self.shared.issuer.x509_svid(self.process.key(), permit, self.shared.now()).await {
            Ok(svid) => {
                self.record(Event::Issued, &Credential::of(&svid, Some(&origin)), None);
                Ok(svid)
            }
            Err(why) => Err(self.not_issued(&why)),
        }
    }

    /// Keeps and logs that nothing was issued, for a cause on our side; a stale permit is none.
    pub(in crate::entitlement) fn not_issued(&self, why: &IssueError) -> NotIssued {
        if *why == IssueError::StalePermit {
            return NotIssued::Stale;
        }
        tracing::warn!(%why, pid = self.process.process().peer().pid, "issued nothing");
        NotIssued::Failed(self.shared.keep(&self.process, RefusalCause::Undecided(why.undecided()), None))
    }

    /// Writes down what happened to a credential.
    pub(in crate::entitlement) fn record(&self, what: Event, of: &Credential<'_>, why: Option<&str>) {
        let record = records::credential(what, self.shared.name(), &self.process, of, self.shared.now());
        self.shared.parts.audit.record(Record { why: why.map(str::to_owned), ..record });
    }
}

impl Caller for LiveCaller {
    fn key(&self) -> Principal {
        self.process.key()
    }

    fn wrote(&self, writer: Credentials) -> Result<(), Ended> {
        self.process.wrote(writer).map_err(|why| self.shared.refuse_unattested(&self.process, why))
    }

    fn may_receive_secret(&self) -> Result<(), Ended> {
        let mut images = self.outbound().images();
        if images.is_empty() {
            images.push(self.process.epoch());
        }
        images
            .into_iter()
            .try_for_each(|image| self.look(image))
            .map_err(|why| self.shared.refuse_unattested(&self.process, why))?;
        if self.outbound().is_permitted(&self.shared.rulebook()) {
            return Ok(());
        }
        Err(self.shared.refuse(&self.process, RefusalCause::Denied(Denial::NoEntry), None))
    }

    fn ended(&self) -> BoxFuture<'static, Ended> {
        let shared = Arc::clone(&self.shared);
        let process = self.process.clone();
        let stop = shared.parts.stop.clone();
        async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => Ended::Stopping,
                () = process.process().exited() => shared.gone(),
            }
        }
        .boxed()
    }

    fn x509_svids(self: Arc<Self>) -> BoxStream<'static, Result<X509Update, Ended>> {
        stream::x509_svids(self).boxed()
    }

    fn x509_bundles(self: Arc<Self>) -> BoxStream<'static, Result<EncodedBundles, Ended>> {
        stream::bundles(self, |view| view.x509()).boxed()
    }

    fn jwt_bundles(self: Arc<Self>) -> BoxStream<'static, Result<EncodedBundles, Ended>> {
        stream::bundles(self, |view| view.jwt()).boxed()
    }

    fn jwt_svids(
        self: Arc<Self>,
        audiences: Vec<String>,
        id: Option<SpiffeId>,
    ) -> BoxFuture<'static, Result<Vec<JwtSvid>, Ended>> {
        async move { tokens::issue(&self, audiences, id).await }.boxed()
    }

    fn validate_jwt(
        self: Arc<Self>,
        audience: String,
        token: String,
    ) -> BoxFuture<'static, Result<ValidToken, NotValidated>> {
        async move { tokens::validate(&self, &audience, &token).await }.boxed()
    }
}
