//! What all callers share: how they are attested and decided, who issues, which bundles there are, and who is connected.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::time::Instant;
use tokio::time::interval;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::attestation::Attestation;
use crate::attestation::Attestor;
use crate::attestation::Epoch;
use crate::attestation::NotAttested;
use crate::attestation::PinnedProcess;
use crate::attestation::source::Change;
use crate::attestation::source::Changes;
use crate::audit;
use crate::authority::Authority;
use crate::authority::Served;
use crate::entitlement::door::Ended;
use crate::entitlement::images::Images;
use crate::entitlement::ledger::latencies::Latencies;
use crate::entitlement::ledger::live::Live;
use crate::entitlement::ledger::live::LiveSvid;
use crate::entitlement::ledger::outbound::DecisionBasis;
use crate::entitlement::ledger::refusals::RefusalCause;
use crate::entitlement::ledger::refusals::Refusals;
use crate::entitlement::liveness::CheckedProcess;
use crate::entitlement::liveness::Standing;
use crate::entitlement::published::BundleSet;
use crate::evidence::EvidenceSet;
use crate::evidence::Providers;
use crate::evidence::Undecided;
use crate::identity::SpiffeId;
use crate::issuance::EntriesInForce;
use crate::issuance::Issuer;
use crate::issuance::metrics::IssuanceMetrics;
use crate::policy::Decision;
use crate::policy::DecisionId;
use crate::policy::OpenGrant;
use crate::policy::Outcome;
use crate::policy::Permit;
use crate::policy::Rulebook;
use crate::policy::Trace;
use crate::policy::decide;
use crate::policy::is_affected;
use crate::policy::redecide;
use crate::randomness::Randomness;
use crate::time::Clock;

/// How often images are dropped that nobody needs.
const SWEEP: Duration = Duration::from_secs(10);

/// What the wiring gives.
#[derive(Debug)]
pub struct Parts {
    /// Attests.
    pub attestor: Attestor,
    /// Signs.
    pub authority: Arc<dyn Authority>,
    /// Where records go.
    pub audit: Arc<dyn audit::Sink>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Names refusals and spreads renewals.
    pub randomness: Arc<dyn Randomness>,
    /// Ends every stream.
    pub stop: CancellationToken,
}

/// The shared state of all callers.
#[derive(Debug)]
pub struct NodeState {
    pub(in crate::entitlement) parts: Parts,
    pub(in crate::entitlement) issuer: Issuer,
    pub(in crate::entitlement) live: Arc<Live>,
    pub(in crate::entitlement) images: Arc<Images>,
    pub(in crate::entitlement) refusals: Refusals,
    latencies: Latencies,
    rulebook: Arc<ArcSwap<Rulebook>>,
    /// Notified after every swap of the rulebook, for single calls that wait for an open name.
    rulebook_swaps: Changes,
    bundles: ArcSwap<BundleSet>,
    /// Grows with every change of rulebook or board, before anyone is woken for it.
    generation: AtomicU64,
}

/// A decision about a process as it is now, with no completed "no".
#[derive(Debug)]
pub(in crate::entitlement) struct LiveDecision {
    /// Default identity first; empty where something is open.
    pub(in crate::entitlement) permits: Vec<Permit>,
    pub(in crate::entitlement) open: Vec<OpenGrant>,
    /// The pending providers that a first answer waits for.
    pub(in crate::entitlement) awaits: Providers,
    pub(in crate::entitlement) basis: DecisionBasis,
    /// When a source would answer otherwise.
    pub(in crate::entitlement) changes: Vec<Change>,
}

/// Nothing is decided before there is an authority.
pub(in crate::entitlement) const NO_AUTHORITY: RefusalCause = RefusalCause::Undecided(Undecided::Authority);

/// Why there is no decision, and the evidence where there is any.
pub(in crate::entitlement) type Undecidable = (RefusalCause, Option<Arc<Trace>>);

impl NodeState {
    /// Everything is decided by `rulebook` and served from `bundles` until they are replaced; the daemon may open so many
    /// `descriptors`.
    #[must_use]
    pub fn new(parts: Parts, rulebook: Rulebook, bundles: BundleSet, descriptors: u64) -> Self {
        let rulebook = Arc::new(ArcSwap::from_pointee(rulebook));
        let in_force = Arc::clone(&rulebook);
        let current_epoch = Box::new(move || in_force.load().epoch());
        Self {
            issuer: Issuer::new(
                Arc::clone(&parts.authority),
                current_epoch,
                Arc::clone(&parts.clock),
                Arc::clone(&parts.randomness),
            ),
            parts,
            live: Arc::default(),
            images: Arc::new(Images::for_descriptors(descriptors)),
            refusals: Refusals::default(),
            latencies: Latencies::default(),
            rulebook,
            rulebook_swaps: Changes::default(),
            bundles: ArcSwap::from_pointee(bundles),
            generation: AtomicU64::new(0),
        }
    }

    /// What is decided by now.
    #[must_use]
    pub fn rulebook(&self) -> Arc<Rulebook> {
        self.rulebook.load_full()
    }

    /// The bundles that are served now.
    #[must_use]
    pub fn bundles(&self) -> Arc<BundleSet> {
        self.bundles.load_full()
    }

    /// The open streams.
    #[must_use]
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// How much was issued, and how much was not.
    #[must_use]
    pub fn issuance(&self) -> &IssuanceMetrics {
        self.issuer.metrics()
    }

    /// How long the last attestations took.
    #[must_use]
    pub fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// The last refusals.
    #[must_use]
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Decides by `rulebook` from now on, and wakes the streams for which that makes a difference. Returns how many.
    pub fn replace_rulebook(&self, rulebook: Rulebook) -> usize {
        let after = Arc::new(rulebook);
        let swap = || {
            let before = self.rulebook.swap(Arc::clone(&after));
            let in_force = EntriesInForce::of(after.entries());
            self.issuer.retain(&in_force);
            self.images.retain(&in_force);
            self.rulebook_swaps.happened();
            before
        };
        self.changed(swap, |before, trace| is_affected(trace, before, &after))
    }

    /// Serves these bundles from now on, and wakes the streams that see a difference. Returns how many.
    pub fn replace_bundles(&self, bundles: BundleSet) -> usize {
        let after = Arc::new(bundles);
        let rulebook = self.rulebook();
        let swap = || self.bundles.swap(Arc::clone(&after));
        self.changed(swap, |before, trace| {
            let grants = redecide(trace, &rulebook).grants;
            let federates_with = || grants.iter().flat_map(|grant| grant.entry.federates_with.iter());
            before.view(federates_with()) != after.view(federates_with())
        })
    }

    /// What the authority has to know of those who are served.
    #[must_use]
    pub fn served(&self) -> Served {
        let tainted = self.parts.authority.tainted();
        let is_tainted = |svid: &LiveSvid| svid.signed_by.is_some_and(|key| tainted.contains(&key));
        let holds_tainted = || self.live.snapshot().iter().any(|stream| stream.identities.iter().any(is_tainted));
        Served {
            sequence: self.bundles().own().bundle().sequence,
            holds_tainted: !tainted.is_empty() && holds_tainted(),
        }
    }

    /// Wakes every stream, because a key of the authority may have leaked. Returns how many.
    pub fn key_was_tainted(&self) -> usize {
        self.changed(|| (), |(), _| true)
    }

    /// Wakes every stream, because the clock has stepped. Returns how many.
    pub fn clock_stepped(&self) -> usize {
        self.changed(|| (), |(), _| true)
    }

    /// Swaps something that decisions depend on, and wakes the streams whose last decision it concerns. Returns how many.
    ///
    /// RACE: swap, count, wake, in this order. A stream that decides meanwhile decides by the old value and has read the
    /// old count, so it decides again before it waits; or it is registered with its trace, and is woken.
    fn changed<T>(&self, swap: impl FnOnce() -> T, concerns: impl Fn(&T, &Trace) -> bool) -> usize {
        let before = swap();
        self.generation.fetch_add(1, Ordering::SeqCst);
        let mut known = HashMap::new(); // the streams of a process share their trace
        let mut is_concerned =
            |trace: &Arc<Trace>| *known.entry(Arc::as_ptr(trace)).or_insert_with(|| concerns(&before, trace));
        self.live.wake(|stream| stream.trace.as_ref().is_none_or(&mut is_concerned))
    }

    /// Sends orders to a signer on the network, in batches. Never ends; a local signer needs none.
    pub async fn send_orders(&self) {
        self.issuer.run().await;
    }

    /// Drops process images that nobody needs, and SVIDs that have ended. Never ends.
    pub async fn sweep_images(&self) {
        let mut ticks = interval(SWEEP);
        loop {
            ticks.tick().await;
            self.images.sweep(self.now());
        }
    }

    /// The next swap of the rulebook. Call this before a decision that it may follow.
    pub(in crate::entitlement) fn next_rulebook(&self) -> Change {
        self.rulebook_swaps.next()
    }

    /// A number that differs from an earlier one if anything was replaced in between.
    pub(in crate::entitlement) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    pub(in crate::entitlement) fn now(&self) -> SystemTime {
        self.parts.clock.now()
    }

    /// Attests a process now and decides; a refusal is kept and logged.
    pub(in crate::entitlement) fn decide(&self, process: &CheckedProcess) -> Result<LiveDecision, Ended> {
        self.decide_for(process, None)
    }

    fn decide_for(&self, process: &CheckedProcess, wanted: Option<&SpiffeId>) -> Result<LiveDecision, Ended> {
        let decided = self.decide_wanting(process, wanted);
        decided.map_err(|(cause, trace)| self.refuse(&process.pinned, cause, trace.as_ref()))
    }

    /// Attests a process now and decides; records nothing.
    pub(in crate::entitlement) fn decide_quietly(&self, process: &CheckedProcess) -> Result<LiveDecision, Undecidable> {
        self.decide_wanting(process, None)
    }

    /// Attests and decides, or takes the latest decision while it stands, for a caller who wants one identity alone or
    /// whatever there is. Before the authority has its first key there is nothing to decide about: an empty bundle would
    /// tell a workload to trust nobody.
    fn decide_wanting(&self, process: &CheckedProcess, wanted: Option<&SpiffeId>) -> Result<LiveDecision, Undecidable> {
        if self.is_without_authority() {
            return Err((NO_AUTHORITY, None));
        }
        let rulebook = self.rulebook();
        let (standing, changes) = match process.standing(rulebook.epoch()) {
            Some(standing) => (standing, Vec::new()),
            None => self.attest_and_decide(process, &rulebook)?,
        };
        let Standing { decision, epoch, .. } = standing;
        let ages = changes.iter().filter_map(Change::age).collect();
        let basis = DecisionBasis { trace: Arc::clone(&decision.trace), epoch, rests_on: decision.rests_on, ages };
        let awaits = decision.worth_waiting_for(wanted);
        Ok(LiveDecision { permits: decision.permits(), open: decision.open.clone(), awaits, basis, changes })
    }

    /// A decision that depends on no source which can change its answer stands for a while.
    fn attest_and_decide(
        &self,
        process: &CheckedProcess,
        rulebook: &Rulebook,
    ) -> Result<(Standing, Vec<Change>), Undecidable> {
        process.decide_anew();
        let begun = Instant::now();
        let decided = self.decide_by(&process.pinned, rulebook, &Providers::new());
        let (decision, epoch, changes) = decided.map_err(|why| (RefusalCause::from(why), None))?;
        let is_so_still = process.attested(&epoch, begun);
        if let Outcome::Denied(denial) = decision.outcome {
            return Err((RefusalCause::Denied(denial), Some(decision.trace)));
        }
        let standing = Standing::new(decision, epoch);
        if changes.is_empty() && is_so_still {
            process.stands(standing.clone());
        }
        Ok((standing, changes))
    }

    pub(in crate::entitlement) fn is_without_authority(&self) -> bool {
        self.bundles().own().bundle().x509_authorities.is_empty()
    }

    /// Attests by what entries could use and by what `further` providers say, and decides.
    pub(in crate::entitlement) fn decide_by(
        &self,
        process: &PinnedProcess,
        rulebook: &Rulebook,
        further: &Providers,
    ) -> Result<(Decision, Epoch, Vec<Change>), NotAttested> {
        let (entries, begun) = (rulebook.entries(), Instant::now());
        let wants = |known: &EvidenceSet| {
            let unasked = further.iter().filter(|provider| known.answer_of(provider).is_none());
            entries.wants(known).into_iter().chain(unasked.cloned()).collect()
        };
        let Attestation { proof, changes } = self.parts.attestor.attest(process, &wants, entries.accounts())?;
        self.latencies.took(begun.elapsed());
        let mut decision = decide(&proof, rulebook, self.name(), self.now());
        if !further.is_empty() {
            // Whoever asks for everything sees the groups that no entry can use, too.
            let evidence = proof.evidence().clone();
            decision.trace = Arc::new(Trace { evidence, ..Trace::clone(&decision.trace) });
        }
        Ok((decision, proof.epoch(), changes))
    }

    /// Decides for a single call, which waits for pending evidence as a first answer does; of a request for one identity,
    /// for that one alone.
    pub(in crate::entitlement) async fn decide_patiently(
        &self,
        process: &CheckedProcess,
        wanted: Option<&SpiffeId>,
    ) -> Result<LiveDecision, Ended> {
        let mut patience = pin!(sleep(self.rulebook().rules().wait));
        loop {
            let swapped = self.next_rulebook();
            let mut decision = self.decide_for(process, wanted)?;
            if decision.awaits.is_empty() {
                return Ok(decision);
            }
            tokio::select! {
                biased;
                () = &mut patience => {
                    self.parts.attestor.gave_up(&process.pinned, &decision.awaits);
                    return Ok(decision);
                }
                () = Change::any(std::mem::take(&mut decision.changes)) => {}
                () = swapped => {}
            }
        }
    }

    /// Whether a new stream or a token would have another default identity than this image has on a stream, only because a
    /// provider has not answered (SPEC: product contract §5, rule 7).
    pub(in crate::entitlement) fn changes_default(&self, process: &PinnedProcess, decision: &LiveDecision) -> bool {
        let mut first = decision.open.iter().filter(|open| open.place == 0);
        first.any(|open| self.live.is_default(process.id(), &open.id))
    }

    /// What the streams of a process end with that has exited. There is nobody left to explain it to, so only the end of
    /// what it held is written down.
    pub(in crate::entitlement) fn gone(&self) -> Ended {
        Ended::Denied(self.name())
    }

    /// A random name for a decision. Without random bytes it repeats, and `explain` finds the latest of that name;
    /// nothing is handed out by it.
    pub(in crate::entitlement) fn name(&self) -> DecisionId {
        let mut id = [0; 6];
        if self.parts.randomness.fill(&mut id).is_err() {
            tracing::error!("the kernel gave no random bytes; refusals share one name");
        }
        DecisionId(id)
    }
}
