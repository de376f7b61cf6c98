//! What happens to a stream, what the machine says to do then, and what a stream holds: the words between the pure
//! machine and its driver.

use std::sync::Arc;
use std::time::SystemTime;

use crate::authority::KeyId;
use crate::entitlement::door::Ended;
use crate::entitlement::published::VisibleBundles;
use crate::evidence::Providers;
use crate::identity::SpiffeId;
use crate::identity::X509Svid;
use crate::issuance::Issuance;
use crate::issuance::IssuedX509Svid;
use crate::issuance::renewal;
use crate::policy::DecisionId;
use crate::policy::OpenGrant;
use crate::policy::Permit;
use crate::registration::entry::Terms;

/// What a stream delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivers {
    /// X509-SVIDs with the bundles that go with them.
    X509Svids,
    /// Bundles alone.
    Bundles,
}

/// What happened.
#[derive(Debug)]
pub enum StreamEvent {
    /// The stream was opened, or something may have changed: an entry, a bundle, evidence, the clock, or the time that was
    /// waited for has come.
    Woken,
    /// The process was attested, and no completed "no" came of it.
    Decided(Decided),
    /// A completed "no".
    Denied(DecisionId),
    /// A check could not be completed. `spread` draws the wait for the next try apart.
    Undecided {
        /// The name of the record.
        id: DecisionId,
        /// `0.0 ..= 1.0`
        spread: f64,
    },
    /// What became of the permits of [`Step::Issue`].
    Issued(Vec<IssueAnswer>),
    /// The update of [`Step::Serve`] was handed to the door.
    Served,
}

/// What a process is entitled to.
#[derive(Debug)]
pub struct Decided {
    /// Default identity first.
    pub permits: Vec<Permit>,
    /// What providers without an answer could still give.
    pub open: Vec<OpenGrant>,
    /// The pending providers that a first answer waits for.
    pub awaits: Providers,
    /// The bundles that it may see.
    pub bundles: VisibleBundles,
    /// The keys of the authority that may have leaked: what they signed is renewed.
    pub tainted: Arc<Vec<KeyId>>,
}

/// What became of one permit.
#[derive(Debug)]
pub struct IssueAnswer {
    /// The identity that was permitted.
    pub id: SpiffeId,
    /// An SVID: a new one, or, where it is shared and was not renewed, the one that is held. Or the name of the record
    /// that says why there is none, for a cause on our side.
    pub result: Result<IssuedX509Svid, DecisionId>,
    /// Draws the next try apart from that of its neighbours: `0.0 ..= 1.0`
    pub spread: f64,
}

/// What follows from an event.
#[derive(Debug)]
#[must_use]
pub struct Effects {
    /// SVIDs that are not held any more, or never were. INVARIANT: every SVID that comes in by [`StreamEvent::Issued`]
    /// comes out once, here or by `StreamState::close`.
    pub ended: Vec<EndedSvid>,
    /// What to do then.
    pub next: Step,
}

/// What to do.
#[derive(Debug)]
pub enum Step {
    /// Attest the process and decide.
    Decide,
    /// Wait for one of these providers, a change, or this time; then decide again.
    AwaitEvidence {
        /// The providers.
        providers: Providers,
        /// The end of the wait.
        until: SystemTime,
    },
    /// Record that nothing can be given because these providers have not answered.
    RecordUndecided(Providers),
    /// Issue for these permits.
    Issue(Vec<Permit>),
    /// Hand this to the door.
    Serve(Update),
    /// Wait for a change, at the longest until then.
    Wait(SystemTime),
    /// End the stream.
    End(Ended),
}

/// The whole state of a stream, as the door is to have it.
#[derive(Debug, Clone)]
pub struct Update {
    /// Default identity first.
    pub svids: Vec<HeldSvid>,
    /// The bundles that go with them.
    pub bundles: VisibleBundles,
    /// The default identity of the update before, where it was another one.
    pub default_before: Option<SpiffeId>,
}

/// One SVID that a stream holds.
#[derive(Debug, Clone)]
pub struct HeldSvid {
    /// The SVID as it is served.
    pub svid: X509Svid,
    /// Its issuance.
    pub issuance: Arc<Issuance>,
    /// When it is to be renewed.
    pub renew_at: SystemTime,
    /// The terms that it was issued on.
    pub(in crate::entitlement) terms: Terms,
    pub(in crate::entitlement) place: SvidPlace,
    /// Its entry is not known to match now, for a provider has not answered: it is kept and not renewed.
    pub(in crate::entitlement) is_open: bool,
}

/// A place among the identities: behind so many permits, and there what is open comes before what is permitted.
pub(in crate::entitlement) type SvidPlace = (usize, bool);

impl HeldSvid {
    /// Whether it needs no renewal yet. A clock that was set back before its issue has made it one of the future.
    pub(in crate::entitlement) fn is_current(&self, now: SystemTime) -> bool {
        renewal::has_begun(self.svid.issued, now) && now < self.renew_at
    }
}

/// An SVID that was issued for a stream and is not, or never was, held by it any more.
#[derive(Debug)]
pub struct EndedSvid {
    /// Its issuance.
    pub issuance: Arc<Issuance>,
    /// A word for the audit log.
    pub reason: &'static str,
}

impl From<Step> for Effects {
    fn from(next: Step) -> Self {
        Self { ended: Vec::new(), next }
    }
}
