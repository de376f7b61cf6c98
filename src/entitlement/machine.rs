//! What one stream of one process holds, and what has to happen next. Pure: [`StreamState::on`] takes what happened and the
//! time, and says what to do; a driver does it and comes back with what happened then. Refuses to know how anything is
//! attested, issued or sent.

use std::time::Duration;
use std::time::SystemTime;

use crate::authority::KeyId;
use crate::entitlement::door::Ended;
use crate::entitlement::published::VisibleBundles;
use crate::entitlement::steps::Decided;
use crate::entitlement::steps::Delivers;
use crate::entitlement::steps::Effects;
use crate::entitlement::steps::EndedSvid;
use crate::entitlement::steps::HeldSvid;
use crate::entitlement::steps::IssueAnswer;
use crate::entitlement::steps::Step;
use crate::entitlement::steps::StreamEvent;
use crate::entitlement::steps::SvidPlace;
use crate::entitlement::steps::Update;
use crate::identity::SpiffeId;
use crate::issuance::IssuedX509Svid;
use crate::issuance::renewal;
use crate::policy::DecisionId;
use crate::policy::Grant;
use crate::policy::OpenGrant;
use crate::policy::Permit;

/// A stream waits this long when nothing it holds ends: long enough to cost nothing, short enough that a timer of the
/// runtime can hold it.
const NOTHING_DUE: Duration = Duration::from_secs(24 * 60 * 60);

/// What one stream holds.
#[derive(Debug)]
pub struct StreamState {
    delivers: Delivers,
    /// Until when the first answer waits for pending evidence.
    patience_ends: SystemTime,
    /// INVARIANT: in the order of their places, at most one per SPIFFE ID.
    held: Vec<HeldSvid>,
    bundles: Option<VisibleBundles>,
    pending: Vec<PendingSvid>,
    /// Whether the door has not been given all of this yet.
    unserved: bool,
    /// The default identity of the last update.
    served_default: Option<SpiffeId>,
    failures: u32,
    retry_at: Option<SystemTime>,
}

/// An identity that is being issued for.
#[derive(Debug)]
struct PendingSvid {
    grant: Grant,
    place: SvidPlace,
    /// Whether an earlier SVID of this identity is held.
    renews: bool,
}

impl StreamState {
    /// A stream that was just opened, whose first answer waits for pending evidence until `patience_ends`.
    #[must_use]
    pub fn new(delivers: Delivers, patience_ends: SystemTime) -> Self {
        Self {
            delivers,
            patience_ends,
            held: Vec::new(),
            bundles: None,
            pending: Vec::new(),
            unserved: false,
            served_default: None,
            failures: 0,
            retry_at: None,
        }
    }

    /// What is held now, default identity first.
    #[must_use]
    pub fn svids(&self) -> &[HeldSvid] {
        &self.held
    }

    /// Whether it is to deliver a default identity, and holds none yet.
    #[must_use]
    pub fn awaits_default(&self) -> bool {
        self.delivers == Delivers::X509Svids && self.held.is_empty()
    }

    /// How many tries in a row have failed.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Ends everything that is held, because the stream has ended.
    #[must_use]
    pub fn close(&mut self, reason: &'static str) -> Vec<EndedSvid> {
        ended(std::mem::take(&mut self.held), reason)
    }

    /// Takes in what happened and says what to do next.
    pub fn on(&mut self, event: StreamEvent, now: SystemTime) -> Effects {
        match event {
            StreamEvent::Woken => Step::Decide.into(),
            StreamEvent::Decided(decided) => self.decided(decided, now),
            StreamEvent::Denied(id) => Step::End(Ended::Denied(id)).into(),
            StreamEvent::Undecided { id, spread } => self.undecided(id, spread, now).into(),
            StreamEvent::Issued(answers) => self.issued(answers, now),
            StreamEvent::Served => {
                self.unserved = false;
                self.served_default = self.held.first().map(|held| held.svid.id.clone());
                self.wait(now).into()
            }
        }
    }

    /// Waits for evidence where a first answer must; else keeps what still fits its permit and is not due, and asks for
    /// the rest.
    fn decided(&mut self, decided: Decided, now: SystemTime) -> Effects {
        let Decided { permits, open, awaits, bundles, tainted } = decided;
        let nothing_served = match self.delivers {
            Delivers::X509Svids => self.held.is_empty(),
            Delivers::Bundles => self.bundles.is_none(),
        };
        if nothing_served && !awaits.is_empty() && now < self.patience_ends {
            return Step::AwaitEvidence { providers: awaits, until: self.patience_ends }.into();
        }
        let (to_issue, lost) = self.keep(permits, &open);
        let ended = ended(lost, "denied");
        let awaited = || open.iter().flat_map(|open| open.awaits.iter().cloned()).collect();
        let permitted = !to_issue.is_empty() || self.held.iter().any(|held| !held.is_open);
        if !permitted && (self.delivers == Delivers::Bundles || self.held.is_empty()) {
            return Effects { ended, next: Step::RecordUndecided(awaited()) };
        }
        let is_shown = self.bundles.as_ref().is_some_and(|before| match self.delivers {
            Delivers::X509Svids => before.has_same_x509(&bundles),
            Delivers::Bundles => *before == bundles,
        });
        self.unserved |= !is_shown;
        self.bundles = Some(bundles);
        if self.is_open_past_its_end(now) {
            return Effects { ended, next: Step::RecordUndecided(awaited()) };
        }
        let due = self.due(to_issue, &tainted, now);
        let next = if !due.is_empty() {
            Step::Issue(due)
        } else if self.unserved {
            self.settle(now)
        } else if self.held.iter().any(|held| held.is_open && !held.is_current(now)) {
            Step::RecordUndecided(awaited())
        } else {
            self.recovered();
            self.settle(now)
        };
        Effects { ended, next }
    }

    /// Keeps the SVIDs whose identity is still permitted or open, in their new places. Returns the permits with their
    /// places, and what is neither.
    fn keep(&mut self, permits: Vec<Permit>, open: &[OpenGrant]) -> (Vec<(Permit, SvidPlace)>, Vec<HeldSvid>) {
        if self.delivers == Delivers::Bundles {
            let placed = permits.into_iter().enumerate().map(|(place, permit)| (permit, (place, true)));
            return (placed.collect(), Vec::new());
        }
        let placed = self.places(permits, open);
        let before = std::mem::take(&mut self.held);
        let order_before: Vec<_> = before.iter().map(|held| held.svid.id.clone()).collect();
        let mut lost = Vec::new();
        for mut held in before {
            let id = &held.svid.id;
            if let Some((permit, place)) = placed.iter().find(|(permit, _)| permit.grant().id == *id) {
                let hint = permit.grant().hint.clone();
                self.unserved |= held.svid.hint != hint;
                held.svid.hint = hint;
                (held.place, held.is_open) = (*place, false);
                self.held.push(held);
            } else if let Some(grant) = open.iter().find(|open| open.id == *id) {
                (held.place, held.is_open) = ((grant.place, false), true);
                self.held.push(held);
            } else {
                lost.push(held);
            }
        }
        self.held.sort_by_key(|held| held.place);
        self.unserved |= !order_before.iter().eq(self.held.iter().map(|held| &held.svid.id));
        (placed, lost)
    }

    /// The permits with their places. The default identity of the last update stays before what an entry that may still
    /// match would come before, although a later entry permits it now.
    fn places(&self, permits: Vec<Permit>, open: &[OpenGrant]) -> Vec<(Permit, SvidPlace)> {
        let placed = permits.into_iter().enumerate().map(|(place, permit)| {
            let id = &permit.grant().id;
            let was_default =
                self.served_default.as_ref() == Some(id) && self.held.iter().any(|held| held.svid.id == *id);
            let earlier = open.iter().find(|open| was_default && open.id == *id && open.place <= place);
            let place = earlier.map_or((place, true), |open| (open.place, false));
            (permit, place)
        });
        placed.collect()
    }

    /// The permits of which no current SVID on the same terms is held, signed by a key that nobody else has.
    fn due(&mut self, permits: Vec<(Permit, SvidPlace)>, tainted: &[KeyId], now: SystemTime) -> Vec<Permit> {
        self.pending.clear();
        if self.delivers == Delivers::Bundles {
            return Vec::new();
        }
        let mut due = Vec::new();
        for (permit, place) in permits {
            let grant = permit.grant();
            let held = self.held.iter().find(|held| held.svid.id == grant.id);
            let (_, is_decided) = place;
            let is_fit = |held: &HeldSvid| {
                (held.terms == grant.entry.terms || !is_decided)
                    && held.is_current(now)
                    && !held.issuance.is_of(tainted)
            };
            if held.is_some_and(is_fit) {
                continue;
            }
            self.pending.push(PendingSvid { grant: grant.clone(), place, renews: held.is_some() });
            due.push(permit);
        }
        due
    }

    /// Puts new SVIDs in their places. Where one failed, what was held before stays until its own end.
    fn issued(&mut self, answers: Vec<IssueAnswer>, now: SystemTime) -> Effects {
        let mut failed = None;
        let mut first_missing = None;
        let mut new = Vec::new();
        let mut ended = Vec::new();
        let mut pending = std::mem::take(&mut self.pending);
        for IssueAnswer { id, result, spread } in answers {
            let Some(at) = pending.iter().position(|pending| pending.grant.id == id) else { continue };
            let PendingSvid { grant, place, renews } = pending.swap_remove(at);
            if !renews {
                new.push(id.clone());
            }
            match result {
                Ok(issued) if self.is_held(&issued) => {}
                Ok(issued) => ended.extend(self.take_in(issued, grant, place)),
                Err(record) => {
                    failed = Some((record, spread));
                    if !renews && first_missing.is_none_or(|first| place < first) {
                        first_missing = Some(place);
                    }
                }
            }
        }
        // A client takes the first identity as its default: nothing new is served behind one that is still missing.
        let behind = |held: &mut HeldSvid| {
            first_missing.is_some_and(|missing| held.place > missing) && new.contains(&held.svid.id)
        };
        ended.extend(self::ended(self.held.extract_if(.., behind).collect(), "withheld"));
        self.held.sort_by_key(|held| held.place);
        let next = match failed {
            Some((id, spread)) => {
                let next = self.undecided(id, spread, now);
                if self.unserved && matches!(next, Step::Wait(_)) { self.settle(now) } else { next }
            }
            None => {
                self.recovered();
                self.settle(now)
            }
        };
        Effects { ended, next }
    }

    /// Holds a new SVID. Returns the one before it.
    fn take_in(&mut self, issued: IssuedX509Svid, grant: Grant, place: SvidPlace) -> Vec<EndedSvid> {
        let IssuedX509Svid { issuance, mut svid, renew_at, .. } = issued;
        svid.hint = grant.hint;
        let earlier = self.held.extract_if(.., |held| held.svid.id == grant.id).collect();
        let terms = grant.entry.terms.clone();
        self.held.push(HeldSvid { svid, issuance, renew_at, terms, place, is_open: false });
        self.unserved = true;
        ended(earlier, "renewed")
    }

    /// Whether this SVID is held already: then only the time has changed at which to ask again, and nothing is served.
    fn is_held(&mut self, issued: &IssuedX509Svid) -> bool {
        let same = |held: &&mut HeldSvid| held.issuance.id == issued.issuance.id;
        self.held.iter_mut().find(same).map(|held| held.renew_at = issued.renew_at).is_some()
    }

    /// Keeps what is held, tries again later, and ends once anything held has ended: what could not be checked gives
    /// nothing new, and nothing past its end is ever served.
    fn undecided(&mut self, id: DecisionId, spread: f64, now: SystemTime) -> Step {
        let holds_nothing = match self.delivers {
            Delivers::X509Svids => self.held.is_empty(),
            Delivers::Bundles => self.bundles.is_none(),
        };
        let first_end = self.held.iter().map(|held| held.svid.not_after).min().unwrap_or(now + NOTHING_DUE);
        if holds_nothing || !renewal::is_servable(first_end, now) {
            return Step::End(Ended::Undecided(id));
        }
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(renewal::retry_at(now, first_end, self.failures, spread));
        self.wait(now)
    }

    fn recovered(&mut self) {
        self.failures = 0;
        self.retry_at = None;
    }

    /// Whether something has ended that is not renewed, because a provider has not answered.
    fn is_open_past_its_end(&self, now: SystemTime) -> bool {
        self.held.iter().any(|held| held.is_open && !renewal::is_servable(held.svid.not_after, now))
    }

    fn settle(&self, now: SystemTime) -> Step {
        if self.is_open_past_its_end(now) {
            return Step::Decide; // issuing took until then
        }
        let Some(bundles) = self.bundles.as_ref().filter(|_| self.unserved) else { return self.wait(now) };
        let default = self.held.first().map(|held| &held.svid.id);
        let default_before = self.served_default.clone().filter(|before| Some(before) != default);
        Step::Serve(Update { svids: self.held.clone(), bundles: bundles.clone(), default_before })
    }

    /// Until the next renewal, or the next try and the first end; what is kept without being permitted has no renewal.
    fn wait(&self, now: SystemTime) -> Step {
        let ends = || self.held.iter().map(|held| held.svid.not_after);
        let due = match self.retry_at {
            Some(retry_at) => ends().chain([retry_at]).min(),
            None => self.held.iter().map(|held| held.renew_at).min(),
        };
        Step::Wait(due.unwrap_or(now + NOTHING_DUE))
    }
}

fn ended(held: Vec<HeldSvid>, reason: &'static str) -> Vec<EndedSvid> {
    held.into_iter().map(|held| EndedSvid { issuance: held.issuance, reason }).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicU8;
    use std::sync::atomic::Ordering;

    use proptest::prelude::*;

    use super::*;
    use crate::attestation::Attested;
    use crate::entitlement::published::BundleSet;
    use crate::evidence::Answer;
    use crate::evidence::EvidenceSet;
    use crate::evidence::Level;
    use crate::evidence::Provider;
    use crate::evidence::Selector;
    use crate::evidence::Undecided;
    use crate::identity::Bundle;
    use crate::identity::PrivateKey;
    use crate::identity::X509Svid;
    use crate::issuance::CredentialKind;
    use crate::issuance::Issuance;
    use crate::issuance::IssuanceId;
    use crate::policy::Outcome;
    use crate::policy::Rulebook;
    use crate::policy::decide;
    use crate::registration::Entry;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;
    const HOUR: Duration = Duration::from_secs(3600);

    /// What `entries` come to for a process of uid 1, of which `docker` says what it says.
    fn decided(entries: Vec<Entry>, docker: Option<Answer>, now: SystemTime) -> StreamEvent {
        let mut evidence = EvidenceSet::example(&["unix:uid:1"]);
        if let Some(answer) = docker {
            evidence.answered(Provider::new("docker"), answer);
        }
        let decision =
            decide(&Attested::example(Level::Full, evidence), &Rulebook::example(entries), DecisionId([0; 6]), now);
        let awaits = decision.worth_waiting_for(None);
        let permits = match decision.outcome {
            Outcome::Permits(permits) => permits,
            _ => Vec::new(),
        };
        let own = Arc::new(Bundle::empty("example.org".parse().unwrap()));
        let bundles = BundleSet::new(None, own, &BTreeMap::new()).view(std::iter::empty());
        StreamEvent::Decided(Decided { permits, open: decision.open, awaits, bundles, tainted: Arc::default() })
    }

    fn plain(paths: &[&str]) -> Vec<Entry> {
        (0..).zip(paths).map(|(order, path)| Entry::example(order, path, &["unix:uid:1"])).collect()
    }

    fn permitted(paths: &[&str], now: SystemTime) -> StreamEvent {
        decided(plain(paths), None, now)
    }

    /// `/label` for a process with a label that `docker` knows, before `/plain` for every one.
    fn labelled() -> Vec<Entry> {
        let mut entries = plain(&["/label", "/plain"]);
        entries[0].selectors.push(Selector::try_from("docker:label:app:web".to_owned()).unwrap());
        entries
    }

    /// Issues for every permit but those of `failing`.
    fn answered(effects: Effects, failing: &[&str], now: SystemTime) -> StreamEvent {
        let Step::Issue(permits) = effects.next else { panic!("nothing to issue: {effects:?}") };
        let answer = |permit: Permit| {
            let id = permit.grant().id.clone();
            let (chain, key, serial) = (Vec::new(), Arc::new(PrivateKey::from_pkcs8(Vec::new())), String::new());
            let svid = X509Svid { id: id.clone(), chain, key, hint: None, serial, issued: now, not_after: now + HOUR };
            let issued = IssuedX509Svid { issuance: issuance(&svid), svid, renew_at: now + HOUR / 2, first: true };
            let result = if failing.contains(&id.path()) { Err(DecisionId([0; 6])) } else { Ok(issued) };
            IssueAnswer { id, result, spread: 0.5 }
        };
        StreamEvent::Issued(permits.into_iter().map(answer).collect())
    }

    /// A new issuance of this SVID.
    fn issuance(svid: &X509Svid) -> Arc<Issuance> {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        Arc::new(Issuance {
            id: IssuanceId([NEXT.fetch_add(1, Ordering::Relaxed); 6]),
            kind: CredentialKind::X509,
            spiffe_id: svid.id.clone(),
            signed_by: None,
            serial: String::new(),
            not_after: svid.not_after,
            entry: Entry::example(0, svid.id.path(), &[]).origin,
            decision: DecisionId([0; 6]),
        })
    }

    fn stream() -> StreamState {
        StreamState::new(Delivers::X509Svids, NOW + Duration::from_secs(5))
    }

    fn held(state: &StreamState) -> Vec<&str> {
        state.svids().iter().map(|held| held.svid.id.path()).collect()
    }

    /// A stream that holds `/label` and `/plain`, and has served them.
    fn serving() -> StreamState {
        let mut stream = stream();
        let mut entries = labelled();
        entries[0].selectors.pop();
        let first = stream.on(decided(entries, None, NOW), NOW);
        assert!(matches!(stream.on(answered(first, &[], NOW), NOW).next, Step::Serve(_)));
        let _ = stream.on(StreamEvent::Served, NOW);
        stream
    }

    #[test]
    fn a_failure_never_changes_the_order_of_the_identities_that_are_held() {
        let mut stream = stream();
        let first = stream.on(permitted(&["/a", "/b"], NOW), NOW);
        let _ = stream.on(answered(first, &[], NOW), NOW);
        assert_eq!(held(&stream), ["/a", "/b"]);
        let half = NOW + HOUR / 2;
        let later = stream.on(permitted(&["/new", "/a", "/b"], half), half);
        let _ = stream.on(answered(later, &["/new", "/b"], half), half);
        assert_eq!(held(&stream), ["/a", "/b"], "the default identity stays the default one");
        let again = stream.on(permitted(&["/new", "/a", "/b"], half), half);
        let _ = stream.on(answered(again, &[], half), half);
        assert_eq!(held(&stream), ["/new", "/a", "/b"]);
    }

    #[test]
    fn an_svid_that_comes_back_unchanged_is_not_served_again_and_not_asked_for_at_once() {
        let mut stream = stream();
        let first = stream.on(permitted(&["/a"], NOW), NOW);
        assert!(matches!(stream.on(answered(first, &[], NOW), NOW).next, Step::Serve(_)));
        let _ = stream.on(StreamEvent::Served, NOW);
        let half = NOW + HOUR / 2;
        assert!(matches!(stream.on(permitted(&["/a"], half), half).next, Step::Issue(_)));
        let (HeldSvid { svid, issuance, .. }, renew_at) = (stream.svids()[0].clone(), half + HOUR / 60);
        let id = svid.id.clone();
        let result = Ok(IssuedX509Svid { issuance, svid, renew_at, first: false });
        let Effects { ended, next } =
            stream.on(StreamEvent::Issued(vec![IssueAnswer { id, result, spread: 0.5 }]), half);
        assert!(matches!(next, Step::Wait(until) if until == renew_at), "{next:?}");
        assert!(ended.is_empty());
    }

    #[test]
    fn an_svid_that_begins_in_the_future_by_a_clock_that_was_set_back_is_renewed() {
        let late = NOW + 2 * HOUR;
        let mut stream = stream();
        let first = stream.on(permitted(&["/a"], late), late);
        let _ = stream.on(answered(first, &[], late), late);
        let slewed = late - Duration::from_secs(1);
        assert!(!matches!(stream.on(permitted(&["/a"], slewed), slewed).next, Step::Issue(_)));
        let set_back = late - HOUR;
        assert!(matches!(stream.on(permitted(&["/a"], set_back), set_back).next, Step::Issue(_)));
    }

    #[test]
    fn a_first_answer_waits_for_pending_evidence_no_longer_than_it_may() {
        let mut stream = stream();
        let pending = || decided(labelled(), Some(Answer::Pending), NOW);
        let Step::AwaitEvidence { until, .. } = stream.on(pending(), NOW).next else { panic!("it does not wait") };
        assert_eq!(until, NOW + Duration::from_secs(5));
        let served_then = stream.on(pending(), until);
        let _ = stream.on(answered(served_then, &[], until), until);
        assert_eq!(held(&stream), ["/plain"]);
        let arrived = stream.on(permitted(&["/label", "/plain"], until), until);
        let Step::Serve(update) = stream.on(answered(arrived, &[], until), until).next else { panic!("no update") };
        assert_eq!(update.svids.len(), 2);
    }

    #[test]
    fn a_source_that_is_down_keeps_the_default_identity_until_its_own_end() {
        let mut stream = serving();
        let down = |now| decided(labelled(), Some(Answer::Undecided(Undecided::TimedOut)), now);
        let early = stream.on(down(NOW), NOW);
        assert!(early.ended.is_empty() && matches!(early.next, Step::Wait(_)), "{early:?}");
        let half = NOW + HOUR * 2 / 3;
        let renewal = stream.on(down(half), half);
        let Step::Serve(update) = stream.on(answered(renewal, &[], half), half).next else { panic!("no update") };
        assert_eq!(update.svids[0].svid.id.path(), "/label", "the default identity stays");
        assert_eq!(update.svids[0].svid.issued, NOW, "and is not renewed");
        assert_eq!(update.svids[1].svid.issued, half);
        let _ = stream.on(StreamEvent::Served, half);
        assert!(matches!(stream.on(down(half), half).next, Step::RecordUndecided(_)));
        let undecided = || StreamEvent::Undecided { id: DecisionId([0; 6]), spread: 0.5 };
        let Step::Wait(until) = stream.on(undecided(), half).next else { panic!("it does not wait") };
        assert!(until > half, "a tight loop");
        let end = NOW + HOUR;
        assert!(matches!(stream.on(undecided(), end).next, Step::End(Ended::Undecided(_))));
    }

    #[test]
    fn an_answer_that_rules_an_identity_out_ends_it() {
        let mut stream = serving();
        let settled = stream.on(decided(labelled(), Some(Answer::Settled), NOW), NOW);
        assert_eq!(settled.ended.iter().map(|ended| ended.reason).collect::<Vec<_>>(), ["denied"]);
        let Step::Serve(update) = settled.next else { panic!("no update") };
        assert_eq!(update.default_before.as_ref().map(SpiffeId::path), Some("/label"));
        assert_eq!(held(&stream), ["/plain"]);
    }

    #[test]
    fn an_svid_past_its_end_is_in_no_update_while_its_provider_is_silent() {
        let end = NOW + HOUR;
        let down = || decided(labelled(), Some(Answer::Undecided(Undecided::TimedOut)), end);
        let mut stream = serving();
        let mut next = stream.on(down(), end);
        if matches!(next.next, Step::Issue(_)) {
            next = stream.on(answered(next, &[], end), end);
        }
        assert!(!matches!(next.next, Step::Serve(_)), "{:?}", held(&stream));
        let mut stream = serving();
        let just_before = end - Duration::from_secs(1);
        let renewal =
            stream.on(decided(labelled(), Some(Answer::Undecided(Undecided::TimedOut)), just_before), just_before);
        let late = stream.on(answered(renewal, &[], just_before), end);
        assert!(!matches!(late.next, Step::Serve(_)), "{:?}", held(&stream));
    }

    /// What `docker` says of the process in the random walk.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Docker {
        Yes,
        No,
        Silent(Answer),
    }

    #[derive(Debug, Clone)]
    struct Turn {
        docker: Docker,
        passes: u64,
        waits_to_the_end: bool,
        fails: [bool; 3],
        comes_back: bool,
        hand_over: bool,
    }

    fn turns() -> impl Strategy<Value = Vec<Turn>> {
        let docker = prop_oneof![
            3 => Just(Docker::Yes),
            1 => Just(Docker::No),
            2 => Just(Docker::Silent(Answer::Pending)),
            4 => Just(Docker::Silent(Answer::Undecided(Undecided::TimedOut))),
        ];
        let fails = prop::array::uniform3(prop::bool::weighted(0.15));
        let turn = (docker, 0_u64..3000, any::<bool>(), fails, prop::bool::weighted(0.2), prop::bool::weighted(0.9));
        let turn = turn.prop_map(|(docker, passes, waits_to_the_end, fails, comes_back, hand_over)| Turn {
            docker,
            passes,
            waits_to_the_end,
            fails,
            comes_back,
            hand_over,
        });
        prop::collection::vec(turn, 1..60)
    }

    fn walked_by(entries: &[Entry], docker: Docker, now: SystemTime) -> StreamEvent {
        let mut evidence = EvidenceSet::example(&["unix:uid:1"]);
        let label = Selector::try_from("docker:label:app:web".to_owned()).unwrap();
        let answer = match docker {
            Docker::Yes | Docker::No => Answer::Settled,
            Docker::Silent(answer) => answer,
        };
        evidence.answered(Provider::new("docker"), answer);
        if docker == Docker::Yes {
            evidence.prove(label, crate::evidence::Grade::Runtime, crate::evidence::Source::Runtime);
        }
        let rulebook = Rulebook::example(entries.to_vec());
        let decision = decide(&Attested::example(Level::Full, evidence), &rulebook, DecisionId([0; 6]), now);
        let awaits = decision.worth_waiting_for(None);
        let permits = match decision.outcome {
            Outcome::Permits(permits) => permits,
            Outcome::Awaiting(_) => Vec::new(),
            Outcome::Denied(_) => return StreamEvent::Denied(DecisionId([0; 6])),
        };
        let own = Arc::new(Bundle::empty("example.org".parse().unwrap()));
        let bundles = BundleSet::new(None, own, &BTreeMap::new()).view(std::iter::empty());
        StreamEvent::Decided(Decided { permits, open: decision.open, awaits, bundles, tainted: Arc::default() })
    }

    /// The driver of one stream, which checks what the machine promises.
    #[derive(Default)]
    struct Walk {
        /// By number, whether this SVID has ended.
        issued: Vec<bool>,
        default: Option<SpiffeId>,
        /// Whether `docker` has answered since the last update.
        answered: bool,
        /// How often the same moment was waited for that had passed.
        waited_in_vain: Option<(u32, SystemTime)>,
    }

    impl Walk {
        fn issue(&mut self, permits: Vec<Permit>, stream: &StreamState, turn: &Turn, now: SystemTime) -> StreamEvent {
            let mut answers = Vec::new();
            for (at, permit) in permits.into_iter().enumerate() {
                let id = permit.grant().id.clone();
                let held = stream.svids().iter().find(|held| held.svid.id == id && now < held.svid.not_after);
                let result = if turn.fails[at % 3] {
                    Err(DecisionId([0; 6]))
                } else if let Some(HeldSvid { svid, issuance, .. }) = held.filter(|_| turn.comes_back).cloned() {
                    Ok(IssuedX509Svid { issuance, svid, renew_at: now + Duration::from_secs(1), first: false })
                } else {
                    let number = u32::try_from(self.issued.len()).unwrap();
                    self.issued.push(false);
                    let not_after = now + HOUR;
                    let (chain, key) = (Vec::new(), Arc::new(PrivateKey::from_pkcs8(Vec::new())));
                    let serial = number.to_string();
                    let svid = X509Svid {
                        id: id.clone(),
                        chain,
                        key,
                        hint: None,
                        serial: serial.clone(),
                        issued: now,
                        not_after,
                    };
                    let [a, b, c, d] = number.to_be_bytes();
                    let mut issuance = Issuance::clone(&issuance(&svid));
                    issuance.id = IssuanceId([0, 1, a, b, c, d]);
                    issuance.serial = serial;
                    Ok(IssuedX509Svid { issuance: Arc::new(issuance), svid, renew_at: now + HOUR / 2, first: true })
                };
                answers.push(IssueAnswer { id, result, spread: 0.5 });
            }
            StreamEvent::Issued(answers)
        }

        fn ended(&mut self, ended: &[EndedSvid]) {
            for EndedSvid { issuance, .. } in ended {
                let number: usize = issuance.serial.parse().unwrap();
                assert!(!std::mem::replace(&mut self.issued[number], true), "{number} has ended twice");
            }
        }

        fn serve(&mut self, update: &Update, turn: &Turn, now: SystemTime) {
            assert!(!update.svids.is_empty());
            for held in &update.svids {
                assert!(now < held.svid.not_after, "{} is past its end", held.svid.id);
            }
            if !turn.hand_over {
                return;
            }
            let default = update.svids[0].svid.id.clone();
            if let Some(before) = self.default.replace(default.clone())
                && !self.answered
                && matches!(turn.docker, Docker::Silent(_))
            {
                assert_eq!(before, default, "the default identity changed although nobody said anything");
            }
            self.answered = false;
        }

        fn run(mut self, entries: &[Entry], turns: Vec<Turn>) {
            let mut now = NOW + 100 * HOUR;
            let mut stream = StreamState::new(Delivers::X509Svids, now + Duration::from_secs(5));
            let mut event = StreamEvent::Woken;
            let mut turns = turns.into_iter().peekable();
            let mut steps = 0;
            while let Some(turn) = turns.peek().cloned() {
                steps += 1;
                assert!(steps < 16, "it goes round in circles");
                let Effects { ended, next } = stream.on(event, now);
                self.ended(&ended);
                event = match next {
                    Step::Decide => {
                        self.answered |= !matches!(turn.docker, Docker::Silent(_));
                        walked_by(entries, turn.docker, now)
                    }
                    Step::RecordUndecided(_) => StreamEvent::Undecided { id: DecisionId([0; 6]), spread: 0.5 },
                    Step::Issue(permits) => {
                        now += Duration::from_secs(turn.passes / 300);
                        self.issue(permits, &stream, &turn, now)
                    }
                    Step::Serve(update) => {
                        let handed_over = turn.hand_over;
                        self.serve(&update, &turn, now);
                        self.waited_in_vain = None;
                        now += Duration::from_secs(if turn.waits_to_the_end { turn.passes } else { 0 });
                        turns.next();
                        steps = 0;
                        if handed_over { StreamEvent::Served } else { StreamEvent::Woken }
                    }
                    Step::Wait(until) | Step::AwaitEvidence { until, .. } => {
                        let again = until <= now && self.waited_in_vain.is_some_and(|(_, at)| at == now);
                        let times = self.waited_in_vain.filter(|_| again).map_or(1, |(times, _)| times + 1);
                        assert!(times < 3, "it spins");
                        self.waited_in_vain = (until <= now).then_some((times, now));
                        let passes = now + Duration::from_secs(turn.passes);
                        now = if turn.waits_to_the_end { until.max(now) } else { passes.min(until).max(now) };
                        turns.next();
                        steps = 0;
                        StreamEvent::Woken
                    }
                    Step::End(_) => break,
                };
            }
            self.ended(&stream.close("closed"));
            assert!(self.issued.iter().all(|ended| *ended), "an SVID was lost: {:?}", self.issued);
        }
    }

    proptest! {
        #[test]
        fn whatever_a_provider_says_a_stream_loses_no_svid_and_serves_none_that_ended(turns in turns()) {
            Walk::default().run(&labelled(), turns);
        }

        #[test]
        fn an_identity_that_two_entries_give_keeps_its_place_while_a_provider_is_silent(turns in turns()) {
            let mut entries = labelled();
            entries.push(Entry::example(2, "/label", &["unix:uid:1"]));
            Walk::default().run(&entries, turns);
        }
    }
}
