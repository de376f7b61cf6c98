//! One connected process, as a door holds it.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use crate::attestation::ImageEpoch;
use crate::attestation::NotAttested;
use crate::attestation::PinnedProcess;
use crate::attestation::kernel::Credentials;
use crate::audit::Record;
use crate::audit::What;
use crate::entitlement::door::Bundles;
use crate::entitlement::door::Caller;
use crate::entitlement::door::DecisionId;
use crate::entitlement::door::Ended;
use crate::entitlement::door::NotValidated;
use crate::entitlement::door::ValidToken;
use crate::entitlement::door::X509Update;
use crate::entitlement::entitlements::Entitlements;
use crate::entitlement::examine::entries_under;
use crate::entitlement::ledger::decisions::Verdict;
use crate::entitlement::ledger::records;
use crate::entitlement::ledger::records::Credential;
use crate::entitlement::stream;
use crate::entitlement::tokens;
use crate::evidence::CallerKey;
use crate::identity::JwtSvid;
use crate::identity::SpiffeId;
use crate::identity::X509Svid;
use crate::issuance::IssueError;
use crate::policy::decide::Denial;
use crate::policy::decide::Permit;
use crate::policy::decide::Trace;

/// A pinned process and the state it shares with all others.
#[derive(Debug)]
pub(in crate::entitlement) struct LiveCaller {
    pub(in crate::entitlement) shared: Arc<Entitlements>,
    pub(in crate::entitlement) process: PinnedProcess,
    handed_over: Mutex<HandedOver>,
}

/// Why nothing was issued on a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::entitlement) enum NotIssued {
    /// The entries changed between the decision and the issue: decide again.
    Stale,
    /// It could not be done, and the refusal is kept under this name.
    Failed(DecisionId),
}

/// What was given to the door last, by stream, and may not have left yet.
#[derive(Debug, Default)]
struct HandedOver {
    /// A list, for most connections have one stream, and a map makes room for eleven at once.
    by_stream: Vec<Holding>,
    /// The entries under which all of it was looked at last.
    checked_epoch: Option<u64>,
}

/// What a decision rests on.
#[derive(Debug, Clone)]
pub(in crate::entitlement) struct Basis {
    /// Everything that was decided by.
    pub(in crate::entitlement) trace: Arc<Trace>,
    /// The image that it was decided for.
    pub(in crate::entitlement) image: ImageEpoch,
}

/// Identities, and what they rest on.
#[derive(Debug)]
struct Holding {
    stream: u64,
    basis: Basis,
    ids: Vec<SpiffeId>,
}

impl LiveCaller {
    pub(in crate::entitlement) fn new(shared: Arc<Entitlements>, process: PinnedProcess) -> Self {
        Self { shared, process, handed_over: Mutex::default() }
    }

    /// The first of the two checks before a secret leaves, at the moment when the door gets it. The transport makes the
    /// second at its first byte, by what is noted here.
    pub(in crate::entitlement) fn hand_over(
        &self,
        stream: u64,
        basis: &Basis,
        ids: Vec<SpiffeId>,
    ) -> Result<(), NotAttested> {
        self.process.unchanged(basis.image)?;
        let mut handed_over = self.handed_over();
        let holding = Holding { stream, basis: basis.clone(), ids };
        match handed_over.by_stream.iter_mut().find(|held| held.stream == stream) {
            Some(held) => *held = holding,
            None => {
                handed_over.by_stream.reserve_exact(1);
                handed_over.by_stream.push(holding);
            }
        }
        handed_over.checked_epoch = None;
        Ok(())
    }

    /// Notes that a stream was decided again: what it was given before rests on this now.
    pub(in crate::entitlement) fn decided_again(&self, stream: u64, basis: &Basis) {
        let mut handed_over = self.handed_over();
        if let Some(holding) = handed_over.by_stream.iter_mut().find(|held| held.stream == stream) {
            holding.basis = basis.clone();
            handed_over.checked_epoch = None;
        }
    }

    /// The images that everything handed over was decided for: one, unless the process moved in between.
    fn decided_images(&self) -> Vec<ImageEpoch> {
        let mut images = Vec::with_capacity(1);
        for holding in &self.handed_over().by_stream {
            if !images.contains(&holding.basis.image) {
                images.push(holding.basis.image);
            }
        }
        if images.is_empty() {
            images.push(self.process.epoch());
        }
        images
    }

    /// Forgets what a stream was given, because the stream has ended.
    pub(in crate::entitlement) fn forget(&self, stream: u64) {
        self.handed_over().by_stream.retain(|held| held.stream != stream);
    }

    /// Whether everything that was handed over is still permitted by the entries in force: they may have changed while
    /// it waited to be sent.
    fn still_permitted(&self) -> bool {
        let rulebook = self.shared.rulebook();
        let epoch = rulebook.entries.epoch();
        let mut handed_over = self.handed_over();
        if handed_over.checked_epoch == Some(epoch) {
            return true;
        }
        let permitted = handed_over.by_stream.iter().all(|holding| {
            let entries = entries_under(&holding.basis.trace, &rulebook);
            holding.ids.iter().all(|id| entries.iter().any(|entry| entry.id == *id))
        });
        handed_over.checked_epoch = permitted.then_some(epoch);
        permitted
    }

    fn handed_over(&self) -> MutexGuard<'_, HandedOver> {
        self.handed_over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Issues for one permit and writes it down, before anything of it can leave.
    pub(in crate::entitlement) async fn issue_x509(&self, permit: Permit) -> Result<X509Svid, NotIssued> {
        let origin = permit.entry().origin.clone();
        match self.shared.issuer.x509_svid(self.process.key(), permit, self.shared.now()).await {
            Ok(svid) => {
                self.record(What::Issued, &Credential::of(&svid, Some(&origin)), None);
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
        NotIssued::Failed(self.shared.keep(&self.process, Verdict::Undecided(why.undecided()), None))
    }

    /// Writes down what happened to a credential.
    pub(in crate::entitlement) fn record(&self, what: What, of: &Credential<'_>, why: Option<&str>) {
        let record = records::credential(what, self.shared.name(), &self.process, of, self.shared.now());
        self.shared.parts.audit.record(Record { why: why.map(str::to_owned), ..record });
    }
}

impl Caller for LiveCaller {
    fn key(&self) -> CallerKey {
        self.process.key()
    }

    fn wrote(&self, writer: Credentials) -> Result<(), Ended> {
        self.process.wrote(writer).map_err(|why| self.shared.refuse_unattested(&self.process, why))
    }

    fn may_receive_secret(&self) -> Result<(), Ended> {
        let mut images = self.decided_images().into_iter();
        images
            .try_for_each(|image| self.process.unchanged(image))
            .map_err(|why| self.shared.refuse_unattested(&self.process, why))?;
        if self.still_permitted() {
            return Ok(());
        }
        Err(self.shared.refuse(&self.process, Verdict::Denied(Denial::NoEntry), None))
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

    fn x509_bundles(self: Arc<Self>) -> BoxStream<'static, Result<Bundles, Ended>> {
        stream::bundles(self, |view| view.x509()).boxed()
    }

    fn jwt_bundles(self: Arc<Self>) -> BoxStream<'static, Result<Bundles, Ended>> {
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
