//! One connected process, as a door holds it.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

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
use crate::policy::decide::Permit;

/// A pinned process and the state it shares with all others.
#[derive(Debug)]
pub(in crate::entitlement) struct LiveCaller {
    pub(in crate::entitlement) shared: Arc<Entitlements>,
    pub(in crate::entitlement) process: PinnedProcess,
}

impl LiveCaller {
    pub(in crate::entitlement) fn new(shared: Arc<Entitlements>, process: PinnedProcess) -> Self {
        Self { shared, process }
    }

    /// Issues for one permit and writes it down, before anything of it can leave.
    pub(in crate::entitlement) async fn issue_x509(&self, permit: Permit) -> Result<X509Svid, DecisionId> {
        let origin = permit.entry().origin.clone();
        match self.shared.issuer.x509_svid(self.process.key(), permit, self.shared.now()).await {
            Ok(svid) => {
                self.record(What::Issued, &Credential::of(&svid, Some(&origin)), None);
                Ok(svid)
            }
            Err(why) => Err(self.not_issued(&why)),
        }
    }

    /// Keeps and logs that nothing was issued, for a cause on our side.
    pub(in crate::entitlement) fn not_issued(&self, why: &IssueError) -> DecisionId {
        tracing::warn!(%why, pid = self.process.process().peer().pid, "issued nothing");
        self.shared.keep(&self.process, Verdict::Undecided(why.undecided()), None)
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
        self.process.unchanged(self.process.epoch()).map_err(|why| self.shared.refuse_unattested(&self.process, why))
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
