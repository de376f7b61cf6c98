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
use crate::entitlement::caller::LiveCaller;
use crate::entitlement::caller::NotIssued;
use crate::entitlement::door::EncodedBundles;
use crate::entitlement::door::Ended;
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
use crate::policy::decide::Permit;
use crate::randomness::fraction;

/// The caller's X.509 identities: now, and whenever they change.
pub(in crate::entitlement) fn x509_svids(
    caller: Arc<LiveCaller>,
) -> impl Stream<Item = Result<X509Update, Ended>> + Send {
    updates(caller, Delivers::X509Svids, |state| {
        state.view().map(|view| X509Update {
            svids: state.svids().iter().map(|held| held.svid.clone()).collect(),
            bundle: view.own_x509(),
            federated: view.foreign_x509(),
        })
    })
}

/// The bundles that the caller may see: now, and whenever they change.
pub(in crate::entitlement) fn bundles(
    caller: Arc<LiveCaller>,
    encode: impl Fn(&VisibleBundles) -> EncodedBundles + Send,
) -> impl Stream<Item = Result<EncodedBundles, Ended>> + Send {
    updates(caller, Delivers::Bundles, move |state| state.view().map(&encode))
}

fn updates<T>(
    caller: Arc<LiveCaller>,
    delivers: Delivers,
    update: impl Fn(&StreamState) -> Option<T> + Send,
) -> impl Stream<Item = Result<T, Ended>> + Send {
    let driver = Driver::new(caller, delivers);
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
    caller: Arc<LiveCaller>,
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
    fn new(caller: Arc<LiveCaller>, delivers: Delivers) -> Self {
        let handle = caller.shared.live.register();
        Self {
            caller,
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
            let effect = self.state.on(event, self.caller.shared.now());
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
        let shared = &self.caller.shared;
        self.generation = shared.generation();
        let bundles = shared.bundles();
        match shared.decide(&self.caller.process).await {
            Ok(granted) => {
                self.handle.rests_on(Arc::clone(&granted.trace));
                let basis = DecisionBasis { trace: granted.trace, image: granted.image };
                self.caller.outbound().decided_again(&basis);
                self.basis = Some(basis);
                let view = bundles.view(granted.permits.iter().flat_map(|permit| permit.entry().federates_with.iter()));
                StreamEvent::Permitted { permits: granted.permits, view }
            }
            Err(ended) => self.refused(ended),
        }
    }

    /// RACE: entries that change after the decision make its permits worthless; nothing is wrong with the caller then, and
    /// it is decided again.
    async fn issue(&mut self, permits: Vec<Permit>) -> StreamEvent {
        for permit in permits {
            let answer = match self.caller.issue_x509(permit).await {
                Ok(svid) => Issued::Svid { svid, spread: self.spread() },
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
        let caller = &self.caller;
        let Some(basis) = &self.basis else { return Err(StreamEvent::Woken) };
        let ids = self.state.svids().iter().map(|held| held.svid.id.clone()).collect();
        caller.hand_over(self.handle.number(), basis, ids).map_err(|why| self.changed(why))?;
        let identities = self.state.svids().iter().map(LiveSvid::from).collect();
        self.handle.serves(identities, self.state.failures());
        Ok(())
    }

    /// RACE: whatever was replaced after the last decision began may have found no trace of it to wake by; the number
    /// tells, and the decision is made again. Whatever is replaced after this comparison finds the trace.
    async fn wait(&self, until: SystemTime) -> Result<StreamEvent, Ended> {
        let shared = &self.caller.shared;
        if shared.generation() != self.generation {
            return Ok(StreamEvent::Woken);
        }
        let identities = self.state.svids().iter().map(LiveSvid::from).collect();
        self.handle.serves(identities, self.state.failures());
        let process = &self.caller.process;
        let mut exited = process.process().exited();
        let image = self.basis.as_ref().map_or_else(|| process.epoch(), |basis| basis.image);
        let mut time_left = until.duration_since(shared.now()).unwrap_or_default();
        loop {
            let nap = time_left.min(self.caller.next_look(image, self.spread()));
            tokio::select! {
                biased;
                () = shared.parts.stop.cancelled() => return Err(Ended::Stopping),
                () = &mut exited => return Err(shared.gone()),
                () = self.handle.woken() => return Ok(StreamEvent::Woken),
                () = sleep(nap) => time_left -= nap,
            }
            if time_left.is_zero() {
                return Ok(StreamEvent::Woken);
            }
            // What cannot be found out now takes nothing away; it is asked again at the next look.
            if let Err(why @ NotAttested::No(_)) = self.caller.look_in_turn(image) {
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
            self.caller.record(Event::Ended, &Credential::of(&svid, None), Some(why));
        }
    }

    /// What was issued, and never got as far as to be held, has ended, too.
    fn record_underway(&mut self, why: &str) {
        for answer in self.underway.drain(..) {
            if let Issued::Svid { svid, .. } = answer {
                self.caller.record(Event::Ended, &Credential::of(&svid, None), Some(why));
            }
        }
    }

    fn changed(&self, why: NotAttested) -> StreamEvent {
        match why {
            // It is who it was, in another place: whether that gives it the same has to be decided again.
            NotAttested::No(Contradiction::Moved) => StreamEvent::Woken,
            why => self.refused(self.caller.shared.refuse_unattested(&self.caller.process, why)),
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
        fraction(&*self.caller.shared.parts.randomness).unwrap_or(0.5)
    }
}

impl Drop for Driver {
    /// A stream that is dropped before its end was closed by its caller.
    fn drop(&mut self) {
        if !self.denied {
            self.caller.outbound().forget(self.handle.number());
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
