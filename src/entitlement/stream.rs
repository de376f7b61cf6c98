//! The driver of one stream: does what the machine says and tells it what came of it. Runs only when the door asks for the
//! next update, so that a slow reader costs one pending update.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use futures_util::Stream;
use futures_util::StreamExt;
use futures_util::stream;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio::time::sleep;

use crate::attestation::NotAttested;
use crate::attestation::source::Change;
use crate::audit::Event;
use crate::entitlement::door::EncodedBundles;
use crate::entitlement::door::Ended;
use crate::entitlement::door::OnItsWay;
use crate::entitlement::door::Secret;
use crate::entitlement::door::X509Update;
use crate::entitlement::ledger::live::LiveSvid;
use crate::entitlement::ledger::live::StreamHandle;
use crate::entitlement::ledger::outbound::DecisionBasis;
use crate::entitlement::ledger::refusals::RefusalCause;
use crate::entitlement::machine::StreamState;
use crate::entitlement::published::VisibleBundles;
use crate::entitlement::session::NotIssued;
use crate::entitlement::session::SessionSubject;
use crate::entitlement::steps::Decided;
use crate::entitlement::steps::Delivers;
use crate::entitlement::steps::Effects;
use crate::entitlement::steps::EndedSvid;
use crate::entitlement::steps::HeldSvid;
use crate::entitlement::steps::IssueAnswer;
use crate::entitlement::steps::Step;
use crate::entitlement::steps::StreamEvent;
use crate::entitlement::steps::Update;
use crate::evidence::Credentials;
use crate::evidence::Providers;
use crate::policy::Permit;
use crate::randomness::fraction;

/// The subject's X.509 identities: now, and whenever they change.
pub(in crate::entitlement) fn x509_svids(
    subject: Arc<SessionSubject>,
) -> impl Stream<Item = Result<Secret<X509Update>, Ended>> + Send {
    updates(subject, Delivers::X509Svids, |Update { svids, bundles, .. }, on_its_way| {
        let svids = svids.into_iter().map(|held| held.svid).collect();
        Secret::new(X509Update { svids, bundle: bundles.own_x509(), federated: bundles.foreign_x509() }, on_its_way)
    })
}

/// The bundles that the subject may see: now, and whenever they change.
pub(in crate::entitlement) fn bundles(
    subject: Arc<SessionSubject>,
    encode: impl Fn(&VisibleBundles) -> EncodedBundles + Send,
) -> impl Stream<Item = Result<EncodedBundles, Ended>> + Send {
    updates(subject, Delivers::Bundles, move |update, _| encode(&update.bundles))
}

fn updates<T>(
    subject: Arc<SessionSubject>,
    delivers: Delivers,
    encode: impl Fn(Update, OnItsWay) -> T + Send,
) -> impl Stream<Item = Result<T, Ended>> + Send {
    let driver = Driver::new(subject, delivers);
    stream::unfold(Some((driver, encode)), async |state| {
        let (mut driver, encode) = state?;
        match driver.next_update().await {
            Ok((update, on_its_way)) => Some((Ok(encode(update, on_its_way)), Some((driver, encode)))),
            Err(ended) => {
                driver.close(ended);
                Some((Err(ended), None))
            }
        }
    })
}

/// So many decisions close together are made at once; each further one waits [`HASTE_PAUSE`] longer.
const HASTE: u32 = 8;
const HASTE_PAUSE: Duration = Duration::from_millis(10);
/// Decisions further apart than this are not close together. No pause is longer.
const HASTE_PERIOD: Duration = Duration::from_secs(1);

struct Driver {
    subject: Arc<SessionSubject>,
    state: StreamState,
    handle: StreamHandle,
    /// What the latest decision was made on.
    basis: Option<DecisionBasis>,
    /// When a source behind the latest decision would answer otherwise.
    changes: Vec<Change>,
    /// When the latest decision was made, and how many were made close together before it.
    decided: (Instant, u32),
    /// What happened since the door was given the last update.
    event: StreamEvent,
    /// The generation of rulebook and bundles that the last decision was made in.
    generation: u64,
    /// The answers so far to the permits that are being issued for.
    underway: Vec<IssueAnswer>,
}

impl Driver {
    fn new(subject: Arc<SessionSubject>, delivers: Delivers) -> Self {
        let node = subject.node();
        let patience_ends = node.now() + node.rulebook().rules().wait;
        let handle = node.live.register(Arc::clone(subject.process()));
        Self {
            state: StreamState::new(delivers, patience_ends),
            subject,
            handle,
            basis: None,
            changes: Vec::new(),
            decided: (Instant::now(), 0),
            event: StreamEvent::Woken,
            generation: 0,
            underway: Vec::new(),
        }
    }

    /// The trip of an SVID, the first one and every later one: attest and decide, wait for evidence where a first answer
    /// must, issue, hand over; then wait for a change, and begin again.
    async fn next_update(&mut self) -> Result<(Update, OnItsWay), Ended> {
        loop {
            let event = std::mem::replace(&mut self.event, StreamEvent::Served);
            let Effects { ended, next } = self.state.on(event, self.subject.node().now());
            self.record_ended(ended);
            self.event = match next {
                Step::Decide => self.decide(),
                Step::AwaitEvidence { providers, until } => self.await_evidence(&providers, until).await?,
                Step::RecordUndecided(providers) => self.record_undecided(providers),
                Step::Issue(permits) => self.issue(permits).await,
                Step::Serve(update) => match self.hand_over(&update) {
                    Ok(on_its_way) => return Ok((update, on_its_way)),
                    Err(event) => event,
                },
                Step::Wait(until) => self.wait(until).await?,
                Step::End(ended) => return Err(ended),
            };
        }
    }

    fn decide(&mut self) -> StreamEvent {
        let node = Arc::clone(self.subject.node());
        self.generation = node.generation();
        let (at, close) = self.decided;
        self.decided = (Instant::now(), if at.elapsed() < HASTE_PERIOD { close.saturating_add(1) } else { 0 });
        let bundles = node.bundles();
        let decided = match node.decide(self.subject.process()) {
            Ok(decided) => decided,
            Err(ended) => {
                self.subject.note_denial(ended);
                return self.refused(ended);
            }
        };
        let permits = if self.state.awaits_default() && node.changes_default(self.subject.pinned(), &decided) {
            Vec::new()
        } else {
            decided.permits
        };
        self.handle.decided_on(Arc::clone(&decided.basis.trace));
        self.subject.session.outbound().decided_again(self.subject.process(), &decided.basis);
        self.basis = Some(decided.basis);
        self.changes = decided.changes;
        let bundles = bundles.view(permits.iter().flat_map(|permit| permit.grant().entry.federates_with.iter()));
        let tainted = node.parts.authority.tainted();
        StreamEvent::Decided(Decided { permits, open: decided.open, awaits: decided.awaits, bundles, tainted })
    }

    /// Waits for pending evidence, and tells its sources when the time is over.
    async fn await_evidence(&mut self, providers: &Providers, until: SystemTime) -> Result<StreamEvent, Ended> {
        let event = self.wait(until).await?;
        let node = self.subject.node();
        if node.now() >= until {
            node.parts.attestor.gave_up(self.subject.pinned(), providers);
        }
        Ok(event)
    }

    fn record_undecided(&self, providers: Providers) -> StreamEvent {
        let trace = self.basis.as_ref().map(|basis| &basis.trace);
        self.refused(self.subject.node().refuse(self.subject.pinned(), RefusalCause::Awaiting(providers), trace))
    }

    /// RACE: a rulebook that changes after the decision makes its permits worthless; nothing is wrong with the process
    /// then, and it is decided again.
    async fn issue(&mut self, permits: Vec<Permit>) -> StreamEvent {
        let Some(DecisionBasis { trace, .. }) = self.basis.clone() else { return StreamEvent::Woken };
        let (subject, trace) = (Arc::clone(&self.subject), &*trace);
        let held: Vec<_> = self.state.svids().iter().map(|held| held.issuance.id).collect();
        let issue = async |permit: Permit| (permit.grant().id.clone(), subject.issue_x509(permit, trace, &held).await);
        // All at once: a signer on the network then gets them in one batch.
        let mut answers: FuturesUnordered<_> = permits.into_iter().map(issue).collect();
        while let Some((id, result)) = answers.next().await {
            let result = match result {
                Ok(issued) => Ok(issued),
                Err(NotIssued::Failed(record)) => Err(record),
                Err(NotIssued::Stale) => {
                    self.record_underway("stale");
                    return StreamEvent::Woken;
                }
            };
            self.underway.push(IssueAnswer { id, result, spread: self.spread() });
        }
        StreamEvent::Issued(std::mem::take(&mut self.underway))
    }

    fn hand_over(&self, update: &Update) -> Result<OnItsWay, StreamEvent> {
        let Some(basis) = &self.basis else { return Err(StreamEvent::Woken) };
        // RACE: the authority's key may have been replaced since the decision; nobody gets an SVID before the bundle that
        // verifies it.
        if !self.subject.node().bundles().has_own_of(&update.bundles) {
            return Err(StreamEvent::Woken);
        }
        let ids = update.svids.iter().map(|held| held.svid.id.clone()).collect();
        let on_its_way = self.subject.hand_over(basis, ids).map_err(|why| self.changed(why))?;
        if let (Some(before), Some(default)) = (&update.default_before, update.svids.first()) {
            let Credentials { pid, uid, .. } = self.subject.pinned().process().peer();
            tracing::info!(pid, uid, %before, now = %default.svid.id, "the default identity changed");
        }
        self.note_holdings();
        Ok(on_its_way)
    }

    /// RACE: whatever was replaced after the last decision began may have found no trace of it to wake by; the number
    /// tells, and the decision is made again. Whatever is replaced after this comparison finds the trace.
    async fn wait(&mut self, until: SystemTime) -> Result<StreamEvent, Ended> {
        let subject = Arc::clone(&self.subject);
        let node = subject.node();
        if node.generation() != self.generation {
            return Ok(StreamEvent::Woken);
        }
        self.note_holdings();
        let mut closed = subject.closed();
        let mut changed = pin!(self.next_change());
        let Some(DecisionBasis { epoch, rests_on, .. }) = &self.basis else { return Ok(StreamEvent::Woken) };
        let mut time_left = until.duration_since(node.now()).unwrap_or_default();
        loop {
            let nap = time_left.min(subject.process().next_check_in(epoch, *rests_on, self.spread()));
            tokio::select! {
                biased;
                ended = &mut closed => return Err(ended),
                () = self.handle.woken() => return Ok(StreamEvent::Woken),
                () = &mut changed => return Ok(StreamEvent::Woken),
                () = sleep(nap) => time_left -= nap,
            }
            if time_left.is_zero() {
                return Ok(StreamEvent::Woken);
            }
            // What cannot be found out now takes nothing away; it is checked again next time.
            if let Err(why @ NotAttested::No(_)) = subject.process().check_shared(epoch, *rests_on) {
                return Ok(self.changed(why));
            }
        }
    }

    /// The next change. SECURITY: where a source's answers change without end, as others start and stop what it watches,
    /// the processor is left to everybody else in between.
    fn next_change(&mut self) -> impl Future<Output = ()> + use<> {
        let changes = std::mem::take(&mut self.changes);
        let pause = HASTE_PAUSE.saturating_mul(self.decided.1.saturating_sub(HASTE)).min(HASTE_PERIOD);
        async move {
            Change::any(changes).await;
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
    }

    fn note_holdings(&self) {
        self.handle.serves(self.state.svids().iter().map(LiveSvid::from).collect(), self.state.failures());
    }

    /// Writes down that what was held has ended, and why.
    fn close(&mut self, ended: Ended) {
        let ended = self.state.close(match ended {
            Ended::Denied(_) => "denied",
            Ended::Undecided(_) => "undecided",
            Ended::Stopping => "stopping",
        });
        self.record_ended(ended);
    }

    fn record_ended(&self, ended: Vec<EndedSvid>) {
        let Some(basis) = &self.basis else { return }; // then nothing was ever issued
        for EndedSvid { issuance, reason } in ended {
            self.subject.record(Event::Ended, &issuance, &basis.trace, Some(reason));
        }
    }

    /// What was issued, and never got as far as to be held, has ended, too. What came back unchanged is held still.
    fn record_underway(&mut self, reason: &'static str) {
        let issued = std::mem::take(&mut self.underway).into_iter().filter_map(|answer| answer.result.ok());
        let is_held = |id| self.state.svids().iter().any(|held| held.issuance.id == id);
        let never_held = issued.filter(|issued| !is_held(issued.issuance.id));
        let ended = never_held.map(|issued| EndedSvid { issuance: issued.issuance, reason }).collect();
        self.record_ended(ended);
    }

    fn changed(&self, why: NotAttested) -> StreamEvent {
        match why {
            // It is who it was, in other circumstances: whether they give it the same has to be decided again.
            NotAttested::No(why) if why.leaves_the_image() => StreamEvent::Woken,
            why => self.refused(self.subject.node().refuse_unattested(self.subject.pinned(), why)),
        }
    }

    fn refused(&self, ended: Ended) -> StreamEvent {
        match ended {
            Ended::Denied(id) => StreamEvent::Denied(id),
            Ended::Undecided(id) => StreamEvent::Undecided { id, spread: self.spread() },
            Ended::Stopping => StreamEvent::Woken,
        }
    }

    /// Without random bytes everyone renews in the middle: less spread, nothing unsafe.
    fn spread(&self) -> f64 {
        fraction(&*self.subject.node().parts.randomness).unwrap_or(0.5)
    }
}

impl Drop for Driver {
    /// A stream that is dropped before its end was closed by its caller.
    fn drop(&mut self) {
        self.record_underway("closed");
        let ended = self.state.close("closed");
        self.record_ended(ended);
    }
}

impl From<&HeldSvid> for LiveSvid {
    fn from(held: &HeldSvid) -> Self {
        Self {
            id: held.svid.id.clone(),
            serial: held.svid.serial.clone(),
            signed_by: held.issuance.signed_by,
            not_after: held.svid.not_after,
            renew_at: held.renew_at,
        }
    }
}
