//! The driver of one stream: does what the machine says and tells it what came of it. Runs only when the door asks for
//! the next update, so that a slow reader costs one pending update.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::Stream;
use futures_util::stream;
use tokio::time::sleep;

use crate::attestation::Contradiction;
use crate::attestation::NotAttested;
use crate::audit::Event;
use crate::entitlement::door::EncodedBundles;
use crate::entitlement::door::Ended;
use crate::entitlement::door::Secret;
use crate::entitlement::door::X509Update;
use crate::entitlement::ledger::live::LiveSvid;
use crate::entitlement::ledger::live::StreamHandle;
use crate::entitlement::ledger::outbound::DecisionBasis;
use crate::entitlement::ledger::records::Credential;
use crate::entitlement::machine::Delivers;
use crate::entitlement::machine::Effect;
use crate::entitlement::machine::EndedSvid;
use crate::entitlement::machine::HeldSvid;
use crate::entitlement::machine::Issued;
use crate::entitlement::machine::StreamEvent;
use crate::entitlement::machine::StreamState;
use crate::entitlement::published::VisibleBundles;
use crate::entitlement::session::NotIssued;
use crate::entitlement::session::SessionSubject;
use crate::policy::Permit;
use crate::randomness::fraction;

/// The caller's X.509 identities: now, and whenever they change.
pub(in crate::entitlement) fn x509_svids(
    subject: Arc<SessionSubject>,
) -> impl Stream<Item = Result<Secret<X509Update>, Ended>> + Send {
    updates(subject, Delivers::X509Svids, |state| {
        state.view().map(|view| {
            Secret::new(X509Update {
                svids: state.svids().iter().map(|held| held.svid.clone()).collect(),
                bundle: view.own_x509(),
                federated: view.foreign_x509(),
            })
        })
    })
}

/// The bundles that the caller may see: now, and whenever they change.
pub(in crate::entitlement) fn bundles(
    subject: Arc<SessionSubject>,
    encode: impl Fn(&VisibleBundles) -> EncodedBundles + Send,
) -> impl Stream<Item = Result<EncodedBundles, Ended>> + Send {
    updates(subject, Delivers::Bundles, move |state| state.view().map(&encode))
}

fn updates<T>(
    subject: Arc<SessionSubject>,
    delivers: Delivers,
    update: impl Fn(&StreamState) -> Option<T> + Send,
) -> impl Stream<Item = Result<T, Ended>> + Send {
    let driver = Driver::new(subject, delivers);
    stream::unfold(Some((driver, update)), async |state| {
        let (mut driver, update) = state?;
        match driver.next_update().await {
            Ok(()) => update(&driver.state).map(|next| (Ok(next), Some((driver, update)))),
            Err(ended) => {
                driver.record_end(ended);
                Some((Err(ended), None))
            }
        }
    })
}

struct Driver {
    subject: Arc<SessionSubject>,
    state: StreamState,
    handle: StreamHandle,
    /// What the latest permits rest on.
    basis: Option<DecisionBasis>,
    /// What happened since the door was given the last update.
    next: StreamEvent,
    /// The generation of rulebook and board that the last decision was made in.
    generation: u64,
    /// The answers so far to the permits that are being issued for.
    underway: Vec<Issued>,
    /// It ended with a "no": what it handed over last may not have left yet, and must not leave any more.
    denied: bool,
}

impl Driver {
    fn new(subject: Arc<SessionSubject>, delivers: Delivers) -> Self {
        let handle = subject.node().live.register();
        Self {
            subject,
            state: StreamState::new(delivers),
            handle,
            basis: None,
            next: StreamEvent::Opened,
            generation: 0,
            underway: Vec::new(),
            denied: false,
        }
    }

    /// Works until there is something to hand over.
    async fn next_update(&mut self) -> Result<(), Ended> {
        loop {
            let event = std::mem::replace(&mut self.next, StreamEvent::Served);
            let effect = self.state.on(event, self.subject.node().now());
            self.record_ended();
            self.next = match effect {
                Effect::Attest => self.decide().await,
                Effect::Issue(permits) => self.issue(permits).await,
                Effect::Wait(until) => self.wait(until).await?,
                Effect::End(ended) => return Err(ended),
                Effect::Serve => match self.hand_over() {
                    Ok(()) => return Ok(()),
                    Err(event) => event,
                },
            };
        }
    }

    async fn decide(&mut self) -> StreamEvent {
        let node = self.subject.node();
        self.generation = node.generation();
        let bundles = node.bundles();
        match node.decide(self.subject.pinned()).await {
            Ok(granted) => {
                self.handle.rests_on(Arc::clone(&granted.trace));
                let basis = DecisionBasis { trace: granted.trace, image: granted.image };
                self.subject.session.outbound().decided_again(&self.subject.process, &basis);
                self.basis = Some(basis);
                let view =
                    bundles.view(granted.permits.iter().flat_map(|permit| permit.grant().entry.federates_with.iter()));
                StreamEvent::Permitted { permits: granted.permits, view }
            }
            Err(ended) => self.refused(ended),
        }
    }

    /// RACE: entries that change after the decision make its permits worthless; nothing is wrong with the caller then, and
    /// it is decided again.
    async fn issue(&mut self, permits: Vec<Permit>) -> StreamEvent {
        for permit in permits {
            let answer = match self.subject.issue_x509(permit).await {
                Ok(issued) => Issued::Svid { svid: issued.svid, renew_at: issued.renew_at },
                Err(NotIssued::Failed(id)) => Issued::Failed { id, spread: self.spread() },
                Err(NotIssued::Stale) => {
                    self.record_underway("stale");
                    return StreamEvent::Woken;
                }
            };
            self.underway.push(answer);
        }
        StreamEvent::Issued(std::mem::take(&mut self.underway))
    }

    fn hand_over(&self) -> Result<(), StreamEvent> {
        let subject = &self.subject;
        let Some(basis) = &self.basis else { return Err(StreamEvent::Woken) };
        let ids = self.state.svids().iter().map(|held| held.svid.id.clone()).collect();
        subject.hand_over(self.handle.number(), basis, ids).map_err(|why| self.changed(why))?;
        let identities = self.state.svids().iter().map(LiveSvid::from).collect();
        self.handle.serves(identities, self.state.failures());
        Ok(())
    }

    /// RACE: whatever was replaced after the last decision began may have found no trace of it to wake by; the number
    /// tells, and the decision is made again. Whatever is replaced after this comparison finds the trace.
    async fn wait(&self, until: SystemTime) -> Result<StreamEvent, Ended> {
        let node = self.subject.node();
        if node.generation() != self.generation {
            return Ok(StreamEvent::Woken);
        }
        let identities = self.state.svids().iter().map(LiveSvid::from).collect();
        self.handle.serves(identities, self.state.failures());
        let process = self.subject.pinned();
        let mut exited = process.process().exited();
        let image = self.basis.as_ref().map_or_else(|| process.epoch(), |basis| basis.image);
        let mut time_left = until.duration_since(node.now()).unwrap_or_default();
        loop {
            let nap = time_left.min(self.subject.process.next_check_in(image, self.spread()));
            tokio::select! {
                biased;
                () = node.parts.stop.cancelled() => return Err(Ended::Stopping),
                () = &mut exited => return Err(node.gone()),
                () = self.handle.woken() => return Ok(StreamEvent::Woken),
                () = sleep(nap) => time_left -= nap,
            }
            if time_left.is_zero() {
                return Ok(StreamEvent::Woken);
            }
            // What cannot be found out now takes nothing away; it is asked again at the next look.
            if let Err(why @ NotAttested::No(_)) = self.subject.process.check_shared(image) {
                return Ok(self.changed(why));
            }
        }
    }

    /// Writes down that what was held has ended, and with it why.
    fn record_end(&mut self, ended: Ended) {
        self.denied = matches!(ended, Ended::Denied(_));
        self.state.release(match ended {
            Ended::Denied(_) => "denied",
            Ended::Undecided(_) => "undecided",
            Ended::Stopping => "stopping",
        });
        self.record_ended();
    }

    fn record_ended(&mut self) {
        for EndedSvid { svid, why } in self.state.take_ended() {
            self.subject.record(Event::Ended, &Credential::of(&svid, None), Some(why));
        }
    }

    /// What was issued, and never got as far as to be held, has ended, too.
    fn record_underway(&mut self, why: &str) {
        for answer in self.underway.drain(..) {
            if let Issued::Svid { svid, .. } = answer {
                self.subject.record(Event::Ended, &Credential::of(&svid, None), Some(why));
            }
        }
    }

    fn changed(&self, why: NotAttested) -> StreamEvent {
        match why {
            // It is who it was, in another place: whether that gives it the same has to be decided again.
            NotAttested::No(Contradiction::Moved) => StreamEvent::Woken,
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
        if !self.denied {
            self.subject.session.outbound().forget(self.handle.number());
        }
        self.record_underway("closed");
        self.state.release("closed");
        self.record_ended();
    }
}

impl From<&HeldSvid> for LiveSvid {
    fn from(held: &HeldSvid) -> Self {
        Self {
            id: held.svid.id.clone(),
            serial: held.svid.serial.clone(),
            not_after: held.svid.not_after,
            renew_at: held.renew_at,
        }
    }
}
