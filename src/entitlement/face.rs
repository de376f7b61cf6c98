//! The node as a door sees it: accepted processes become connections, and connections lead to subjects.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use crate::attestation::host::sighting::Sighting;
use crate::attestation::kernel::Process;
use crate::entitlement::door::BrokerConnection;
use crate::entitlement::door::Connection;
use crate::entitlement::door::Connections;
use crate::entitlement::door::EncodedBundles;
use crate::entitlement::door::Ended;
use crate::entitlement::door::NotValidated;
use crate::entitlement::door::Secret;
use crate::entitlement::door::Subject;
use crate::entitlement::door::ValidToken;
use crate::entitlement::door::X509Update;
use crate::entitlement::ledger::outbound::NotPermitted;
use crate::entitlement::ledger::refusals::RefusalCause;
use crate::entitlement::node_state::NodeState;
use crate::entitlement::session::Session;
use crate::entitlement::session::SessionSubject;
use crate::entitlement::stream;
use crate::entitlement::tokens;
use crate::evidence::Credentials;
use crate::evidence::Principal;
use crate::identity::JwtSvid;
use crate::identity::SpiffeId;
use crate::policy::Denial;

impl Connections for Arc<NodeState> {
    fn admit(&self, process: Arc<dyn Process>) -> Result<Arc<dyn Connection>, Ended> {
        Ok(session(self, process)?)
    }

    fn admit_broker(&self, process: Arc<dyn Process>) -> Result<Arc<dyn BrokerConnection>, Ended> {
        Ok(session(self, process)?)
    }
}

fn session(node: &Arc<NodeState>, process: Arc<dyn Process>) -> Result<Arc<Session>, Ended> {
    if node.parts.stop.is_cancelled() {
        return Err(Ended::Stopping);
    }
    let pinned = node.parts.attestor.by_peer(Arc::clone(&process));
    let pinned = pinned.map_err(|why| {
        let seen = node.parts.attestor.sighting(&*process, None);
        node.refuse_unpinned(process.peer(), process.level(), seen, why)
    })?;
    Ok(Arc::new(Session::new(Arc::clone(node), pinned)))
}

impl Connection for Session {
    fn principal(&self) -> Principal {
        self.principal
    }

    fn check_writer(&self, writer: Credentials) -> Result<(), Ended> {
        let peer = &self.peer.pinned;
        peer.check_writer(writer).map_err(|why| self.node.refuse_writer(peer, writer, why))
    }

    fn may_receive_secret(&self) -> Result<(), Ended> {
        let mut outbound = self.outbound();
        outbound.note_leave();
        let bases = outbound.bases();
        drop(outbound);
        if bases.is_empty() {
            return Ok(()); // no secret is on its way
        }
        for (process, epoch, rests_on) in &bases {
            let checked = process.check_now(epoch, *rests_on);
            checked.map_err(|why| self.node.refuse_unattested(&process.pinned, why))?;
        }
        if !bases.iter().any(|(process, ..)| Arc::ptr_eq(process, self.peer.process())) {
            // Nothing was decided about who receives it; that it is the program that connected is all that matters.
            let checked = self.peer.pinned.is_same_image();
            checked.map_err(|why| self.node.refuse_unattested(&self.peer.pinned, why))?;
        }
        self.decide_outdated();
        let lost = self.outbound().not_permitted(&self.node.rulebook());
        let Some(NotPermitted { process, trace, id }) = lost else { return Ok(()) };
        let cause = RefusalCause::Denied(Denial::Withdrawn { id: id.to_string() });
        Err(self.node.refuse(&process.pinned, cause, Some(&trace)))
    }

    fn closed(&self) -> BoxFuture<'static, Ended> {
        let node = Arc::clone(&self.node);
        let exited = self.peer.pinned.process().exited();
        async move {
            tokio::select! {
                biased;
                () = node.parts.stop.cancelled() => Ended::Stopping,
                () = exited => node.gone(),
            }
        }
        .boxed()
    }

    fn subject(self: Arc<Self>) -> Arc<dyn Subject> {
        Arc::new(SessionSubject { session: self, other: None })
    }
}

impl Session {
    /// SECURITY: a stream whose last update waits for its reader asks for nothing more, and learns of no change of the
    /// evidence; a single call never does. So what is on its way is decided again here. What cannot be found out takes
    /// nothing away.
    fn decide_outdated(&self) {
        let outdated = self.outbound().outdated();
        for process in outdated {
            match self.node.decide_quietly(&process) {
                Ok(decision) => self.outbound().decided_again(&process, &decision.basis),
                Err((RefusalCause::Denied(_), _)) => self.outbound().denied(&process),
                Err(_) => {}
            }
        }
    }
}

impl BrokerConnection for Session {
    fn subject_with_pid(self: Arc<Self>, pid: u32) -> Result<Arc<dyn Subject>, Ended> {
        let attestor = &self.node.parts.attestor;
        let asked_about = Credentials { pid, uid: u32::MAX, gid: u32::MAX };
        let pinned = attestor.by_reference(pid);
        let pinned = pinned
            .map_err(|why| self.node.refuse_unpinned(asked_about, attestor.host().level(), Sighting::default(), why))?;
        let other = self.node.images.of(pinned);
        Ok(Arc::new(SessionSubject { session: self, other: Some(other) }))
    }
}

impl Subject for SessionSubject {
    fn x509_svids(self: Arc<Self>) -> BoxStream<'static, Result<Secret<X509Update>, Ended>> {
        stream::x509_svids(self).boxed()
    }

    fn x509_bundles(self: Arc<Self>) -> BoxStream<'static, Result<EncodedBundles, Ended>> {
        stream::bundles(self, |visible| visible.x509()).boxed()
    }

    fn jwt_bundles(self: Arc<Self>) -> BoxStream<'static, Result<EncodedBundles, Ended>> {
        stream::bundles(self, |visible| visible.jwt()).boxed()
    }

    fn jwt_svids(
        self: Arc<Self>,
        audiences: Vec<String>,
        id: Option<SpiffeId>,
    ) -> BoxFuture<'static, Result<Secret<Vec<JwtSvid>>, Ended>> {
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
