//! What one stream of one caller holds, and what has to happen next. Pure: [`StreamState::on`] takes what happened and
//! the time, and says what to do; a driver does it and comes back with what happened then. Refuses to know how anything
//! is attested, issued or sent.

use std::time::Duration;
use std::time::SystemTime;

use crate::entitlement::door::Ended;
use crate::entitlement::published::VisibleBundles;
use crate::identity::SpiffeId;
use crate::identity::X509Svid;
use crate::issuance::renewal;
use crate::policy::DecisionId;
use crate::policy::Grant;
use crate::policy::Permit;
use crate::registration::entry::Terms;

/// What a stream delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivers {
    /// X509-SVIDs with the bundles that go with them.
    X509Svids,
    /// EncodedBundles alone.
    Bundles,
}

/// What happened.
#[derive(Debug)]
pub enum StreamEvent {
    /// The stream was opened.
    Opened,
    /// Something may have changed: an entry, a bundle, the clock, or the time that was waited for has come.
    Woken,
    /// The caller was attested, and is entitled to this.
    Permitted {
        /// Default identity first; never empty.
        permits: Vec<Permit>,
        /// The bundles that it may see.
        view: VisibleBundles,
    },
    /// A completed "no".
    Denied(DecisionId),
    /// A check could not be completed. `spread` draws the wait for the next try apart.
    Undecided {
        /// The name of the record.
        id: DecisionId,
        /// `0.0 ..= 1.0`
        spread: f64,
    },
    /// The answers to the permits of [`Effect::Issue`], in their order.
    Issued(Vec<Issued>),
    /// The update of [`Effect::Serve`] was handed to the door.
    Served,
}

/// The answer to one permit.
#[derive(Debug)]
pub enum Issued {
    /// An SVID: a new one, or, where it is shared and was not renewed, the one that is held.
    Svid {
        /// The SVID.
        svid: X509Svid,
        /// When to ask for it again.
        renew_at: SystemTime,
    },
    /// None, for a cause on our side; `spread` draws the wait for the next try apart.
    Failed {
        /// The name of the record.
        id: DecisionId,
        /// `0.0 ..= 1.0`
        spread: f64,
    },
}

/// What to do.
#[derive(Debug)]
pub enum Effect {
    /// Attest the caller and decide.
    Attest,
    /// Issue for these permits.
    Issue(Vec<Permit>),
    /// Hand [`StreamState::svids`] and [`StreamState::view`] to the door.
    Serve,
    /// Wait for a change, at the longest until then.
    Wait(SystemTime),
    /// End the stream.
    End(Ended),
}

/// One SVID that a stream holds.
#[derive(Debug, Clone)]
pub struct HeldSvid {
    /// The SVID as it is served.
    pub svid: X509Svid,
    /// When it is to be renewed.
    pub renew_at: SystemTime,
    terms: Terms,
    /// Its place among the latest permits.
    place: usize,
}

impl HeldSvid {
    /// Whether it needs no renewal yet. A clock that was set back before its issue has made it one of the future.
    fn is_current(&self, now: SystemTime) -> bool {
        renewal::has_begun(self.svid.issued, now) && now < self.renew_at
    }
}

/// An SVID that was issued for a stream and is not, or never was, held by it any more.
#[derive(Debug)]
pub struct EndedSvid {
    /// The SVID.
    pub svid: X509Svid,
    /// A word for the audit log.
    pub why: &'static str,
}

/// A stream waits this long when nothing it holds ends: long enough to cost nothing, short enough that a timer of the
/// runtime can hold it.
const NOTHING_DUE: Duration = Duration::from_secs(24 * 60 * 60);

/// What one stream holds.
#[derive(Debug)]
pub struct StreamState {
    delivers: Delivers,
    /// INVARIANT: in the order of the latest permits, at most one per SPIFFE ID.
    held: Vec<HeldSvid>,
    /// What was issued and is not held any more, since it was last asked for.
    take_ended: Vec<EndedSvid>,
    view: Option<VisibleBundles>,
    /// What the permits that are being issued for are to become; parallel to the permits of [`Effect::Issue`].
    awaited: Vec<PendingSvid>,
    /// What the door has not been given yet.
    unserved: bool,
    failures: u32,
    retry_at: Option<SystemTime>,
}

#[derive(Debug)]
struct PendingSvid {
    id: SpiffeId,
    place: usize,
    hint: Option<String>,
    terms: Terms,
    /// Whether an earlier SVID of this identity is held.
    renews: bool,
}

impl StreamState {
    /// A stream that was not opened yet.
    #[must_use]
    pub fn new(delivers: Delivers) -> Self {
        Self {
            delivers,
            held: Vec::new(),
            take_ended: Vec::new(),
            view: None,
            awaited: Vec::new(),
            unserved: false,
            failures: 0,
            retry_at: None,
        }
    }

    /// What is held now, default identity first.
    #[must_use]
    pub fn svids(&self) -> &[HeldSvid] {
        &self.held
    }

    /// What was let go since this was last asked. INVARIANT: every SVID that comes in by [`StreamEvent::Issued`] comes out here
    /// once, at the latest when the stream has ended and [`StreamState::release`] was called.
    pub fn take_ended(&mut self) -> Vec<EndedSvid> {
        std::mem::take(&mut self.take_ended)
    }

    /// Lets go of everything held, because the stream has ended.
    pub fn release(&mut self, why: &'static str) {
        let all = std::mem::take(&mut self.held);
        self.end(all, why);
    }

    /// The bundles to serve with it.
    #[must_use]
    pub fn view(&self) -> Option<&VisibleBundles> {
        self.view.as_ref()
    }

    /// How many tries in a row have failed.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Takes in what happened and says what to do next.
    pub fn on(&mut self, event: StreamEvent, now: SystemTime) -> Effect {
        match event {
            StreamEvent::Opened | StreamEvent::Woken => Effect::Attest,
            StreamEvent::Permitted { permits, view } => self.permitted(permits, view, now),
            StreamEvent::Denied(id) => Effect::End(Ended::Denied(id)),
            StreamEvent::Undecided { id, spread } => self.undecided(id, spread, now),
            StreamEvent::Issued(answers) => self.issued(answers, now),
            StreamEvent::Served => {
                self.unserved = false;
                self.wait(now)
            }
        }
    }

    /// Keeps what still fits its permit and is not due, and asks for the rest.
    fn permitted(&mut self, permits: Vec<Permit>, view: VisibleBundles, now: SystemTime) -> Effect {
        if self.view.as_ref() != Some(&view) {
            self.view = Some(view);
            self.unserved = true;
        }
        if self.delivers == Delivers::Bundles {
            self.recovered();
            return self.settle(now);
        }
        let mut before = std::mem::replace(&mut self.held, Vec::with_capacity(permits.len()));
        let order_before: Vec<SpiffeId> = before.iter().map(|held| held.svid.id.clone()).collect();
        self.unserved |= !order_before.iter().eq(permits.iter().map(|permit| &permit.grant().id));
        self.awaited.clear();
        let mut to_issue = Vec::new();
        for (place, permit) in permits.into_iter().enumerate() {
            let Grant { id, entry, hint } = permit.grant().clone();
            let terms = entry.terms.clone();
            let mut kept = before.iter().position(|held| held.svid.id == id).map(|at| before.swap_remove(at));
            let fresh = kept.as_ref().is_some_and(|held| held.terms == terms && held.is_current(now));
            if !fresh {
                let renews = kept.is_some();
                self.awaited.push(PendingSvid { id, place, hint: hint.clone(), terms, renews });
                to_issue.push(permit);
            }
            if let Some(held) = &mut kept {
                self.unserved |= held.svid.hint != hint;
                held.svid.hint = hint;
                held.place = place;
            }
            self.held.extend(kept);
        }
        self.end(before, "denied");
        if to_issue.is_empty() {
            self.recovered();
            return self.settle(now);
        }
        Effect::Issue(to_issue)
    }

    /// Puts new SVIDs in their places. Where one failed, what was held before stays until its own end.
    fn issued(&mut self, answers: Vec<Issued>, now: SystemTime) -> Effect {
        let mut failed = None;
        let mut first_missing = usize::MAX;
        let mut new = Vec::new();
        for (awaited, answer) in std::mem::take(&mut self.awaited).into_iter().zip(answers) {
            if !awaited.renews {
                new.push(awaited.id.clone());
            }
            match answer {
                Issued::Svid { svid, renew_at } if self.renewed_by_itself(&svid, renew_at) => {}
                Issued::Svid { mut svid, renew_at } => {
                    svid.hint = awaited.hint;
                    let earlier = self.held.extract_if(.., |held| held.svid.id == awaited.id).collect();
                    self.end(earlier, "renewed");
                    self.held.push(HeldSvid { svid, renew_at, terms: awaited.terms, place: awaited.place });
                    self.unserved = true;
                }
                Issued::Failed { id, spread } => {
                    failed = Some((id, spread));
                    if !awaited.renews {
                        first_missing = first_missing.min(awaited.place);
                    }
                }
            }
        }
        // A client takes the first identity as its default: nothing new is served behind one that is still missing.
        let behind = |held: &mut HeldSvid| held.place >= first_missing && new.contains(&held.svid.id);
        let withheld = self.held.extract_if(.., behind).collect();
        self.end(withheld, "withheld");
        self.held.sort_by_key(|held| held.place);
        match failed {
            Some((id, spread)) => {
                let next = self.undecided(id, spread, now);
                if self.unserved && matches!(next, Effect::Wait(_)) { Effect::Serve } else { next }
            }
            None => {
                self.recovered();
                self.settle(now)
            }
        }
    }

    /// Whether `svid` is one that is held: then only the time has changed at which to ask again, and nothing is served.
    fn renewed_by_itself(&mut self, svid: &X509Svid, renew_at: SystemTime) -> bool {
        let is_held = |held: &&mut HeldSvid| held.svid.id == svid.id && held.svid.serial == svid.serial;
        self.held.iter_mut().find(is_held).map(|held| held.renew_at = renew_at).is_some()
    }

    /// Keeps what is held, tries again later, and ends once anything held has ended: what could not be checked gives
    /// nothing new, and nothing past its end is ever served.
    fn undecided(&mut self, id: DecisionId, spread: f64, now: SystemTime) -> Effect {
        let holds_nothing = match self.delivers {
            Delivers::X509Svids => self.held.is_empty(),
            Delivers::Bundles => self.view.is_none(),
        };
        let first_end = self.held.iter().map(|held| held.svid.not_after).min().unwrap_or(now + NOTHING_DUE);
        if holds_nothing || !renewal::is_servable(first_end, now) {
            return Effect::End(Ended::Undecided(id));
        }
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(renewal::retry_at(now, first_end, self.failures, spread));
        self.wait(now)
    }

    fn end(&mut self, held: Vec<HeldSvid>, why: &'static str) {
        self.take_ended.extend(held.into_iter().map(|held| EndedSvid { svid: held.svid, why }));
    }

    fn recovered(&mut self) {
        self.failures = 0;
        self.retry_at = None;
    }

    fn settle(&self, now: SystemTime) -> Effect {
        if self.unserved { Effect::Serve } else { self.wait(now) }
    }

    fn wait(&self, now: SystemTime) -> Effect {
        let due = match self.retry_at {
            Some(retry_at) => self.held.iter().map(|held| held.svid.not_after).chain([retry_at]).min(),
            None => self.held.iter().map(|held| held.renew_at).min(),
        };
        Effect::Wait(due.unwrap_or(now + NOTHING_DUE))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::attestation::Attested;
    use crate::entitlement::published::BundleSet;
    use crate::evidence::EvidenceSet;
    use crate::evidence::Grade;
    use crate::evidence::Level;
    use crate::evidence::Source;
    use crate::identity::Bundle;
    use crate::identity::PrivateKey;
    use crate::policy::Rulebook;
    use crate::policy::decide;
    use crate::registration::Entry;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;
    const HOUR: Duration = Duration::from_secs(3600);

    fn permitted(paths: &[&str], now: SystemTime) -> StreamEvent {
        let mut evidence = EvidenceSet::default();
        evidence.prove("unix:uid:1".parse().unwrap(), Grade::Kernel, Source::Credentials);
        let entries = (0..).zip(paths).map(|(order, path)| Entry::example(order, path, &["unix:uid:1"])).collect();
        let caller = Attested::example(Level::Full, evidence);
        let permits = decide(&caller, &Rulebook::example(entries), DecisionId([0; 6]), now).outcome.unwrap();
        let own = Arc::new(Bundle::empty("example.org".parse().unwrap()));
        StreamEvent::Permitted { permits, view: BundleSet::new(None, own, &BTreeMap::new()).view(std::iter::empty()) }
    }

    /// Issues for every permit but those of `failing`.
    fn answered(effect: Effect, failing: &[&str], now: SystemTime) -> StreamEvent {
        let Effect::Issue(permits) = effect else { panic!("nothing to issue: {effect:?}") };
        let answer = |permit: Permit| {
            let id = permit.grant().id.clone();
            if failing.contains(&id.path()) {
                return Issued::Failed { id: DecisionId([0; 6]), spread: 0.5 };
            }
            let (chain, key, serial) = (Vec::new(), Arc::new(PrivateKey::from_pkcs8(Vec::new())), String::new());
            let svid = X509Svid { id, chain, key, hint: None, serial, issued: now, not_after: now + HOUR };
            Issued::Svid { svid, renew_at: now + HOUR / 2 }
        };
        StreamEvent::Issued(permits.into_iter().map(answer).collect())
    }

    fn held(state: &StreamState) -> Vec<&str> {
        state.svids().iter().map(|held| held.svid.id.path()).collect()
    }

    #[test]
    fn a_failure_never_changes_the_order_of_the_identities_that_are_held() {
        let mut stream = StreamState::new(Delivers::X509Svids);
        let first = stream.on(permitted(&["/a", "/b"], NOW), NOW);
        stream.on(answered(first, &[], NOW), NOW);
        assert_eq!(held(&stream), ["/a", "/b"]);
        let half = NOW + HOUR / 2;
        let later = stream.on(permitted(&["/new", "/a", "/b"], half), half);
        stream.on(answered(later, &["/new", "/b"], half), half);
        assert_eq!(held(&stream), ["/a", "/b"], "the default identity stays the default one");
        let again = stream.on(permitted(&["/new", "/a", "/b"], half), half);
        stream.on(answered(again, &[], half), half);
        assert_eq!(held(&stream), ["/new", "/a", "/b"]);
    }

    #[test]
    fn an_svid_that_comes_back_unchanged_is_not_served_again_and_not_asked_for_at_once() {
        let mut stream = StreamState::new(Delivers::X509Svids);
        let first = stream.on(permitted(&["/a"], NOW), NOW);
        assert!(matches!(stream.on(answered(first, &[], NOW), NOW), Effect::Serve));
        stream.on(StreamEvent::Served, NOW);
        let half = NOW + HOUR / 2;
        assert!(matches!(stream.on(permitted(&["/a"], half), half), Effect::Issue(_)));
        let (svid, renew_at) = (stream.svids()[0].svid.clone(), half + HOUR / 60);
        let next = stream.on(StreamEvent::Issued(vec![Issued::Svid { svid, renew_at }]), half);
        assert!(matches!(next, Effect::Wait(until) if until == renew_at), "{next:?}");
        assert!(stream.take_ended().is_empty());
    }

    #[test]
    fn an_svid_that_begins_in_the_future_by_a_clock_that_was_set_back_is_renewed() {
        let late = NOW + 2 * HOUR;
        let mut stream = StreamState::new(Delivers::X509Svids);
        let first = stream.on(permitted(&["/a"], late), late);
        stream.on(answered(first, &[], late), late);
        let slewed = late - Duration::from_secs(1);
        assert!(!matches!(stream.on(permitted(&["/a"], slewed), slewed), Effect::Issue(_)));
        let set_back = late - HOUR;
        assert!(matches!(stream.on(permitted(&["/a"], set_back), set_back), Effect::Issue(_)));
    }
}
