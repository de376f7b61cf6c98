//! JWT-SVIDs: newly signed for every request, and verified for whoever was handed one.

use std::sync::Arc;

use crate::attestation::NotAttested;
use crate::audit::Event;
use crate::entitlement::door::Ended;
use crate::entitlement::door::NotValidated;
use crate::entitlement::door::Secret;
use crate::entitlement::door::ValidToken;
use crate::entitlement::ledger::refusals::RefusalCause;
use crate::entitlement::node_state::LiveDecision;
use crate::entitlement::published::BundleSet;
use crate::entitlement::published::VisibleBundles;
use crate::entitlement::session::NotIssued;
use crate::entitlement::session::SessionSubject;
use crate::evidence::Providers;
use crate::evidence::Undecided;
use crate::identity::JwtSvid;
use crate::identity::SpiffeId;
use crate::identity::jose::jws;
use crate::issuance::IssuedJwtSvid;
use crate::policy::Denial;
use crate::policy::Permit;
use crate::policy::Trace;
use crate::policy::permits_for_tokens;

/// How often a request is decided again because the entries change, or the caller moves, meanwhile.
const TRIES: usize = 8;

/// Signs a token for `id`, or for every identity of the caller.
pub(in crate::entitlement) async fn issue(
    subject: &SessionSubject,
    audiences: Vec<String>,
    id: Option<SpiffeId>,
) -> Result<Secret<Vec<JwtSvid>>, Ended> {
    let node = subject.node();
    for _ in 0..TRIES {
        let decision = node.decide_patiently(subject.process(), id.as_ref()).await;
        let decision = decision.inspect_err(|ended| subject.note_denial(*ended))?;
        subject.session.outbound().decided_again(subject.process(), &decision.basis);
        let trace = Arc::clone(&decision.basis.trace);
        let changes_default = id.is_none() && node.changes_default(subject.pinned(), &decision);
        if let Some(providers) = missing(&decision, id.as_ref(), changes_default) {
            return Err(node.refuse(subject.pinned(), RefusalCause::Awaiting(providers), Some(&trace)));
        }
        let permits = permits_for_tokens(decision.permits, id.as_ref(), &audiences)
            .map_err(|denial| node.refuse(subject.pinned(), RefusalCause::Denied(denial), Some(&trace)))?;
        let svids = match sign_all(subject, permits, &audiences, &trace).await {
            Ok(svids) => svids,
            Err(NotIssued::Failed(id)) => return Err(Ended::Undecided(id)),
            Err(NotIssued::Stale) => continue,
        };
        let ids = svids.iter().map(|svid| svid.id.clone()).collect();
        match subject.hand_over(&decision.basis, ids) {
            Ok(on_its_way) => return Ok(Secret::new(svids, on_its_way)),
            Err(NotAttested::No(why)) if why.leaves_the_image() => {}
            Err(why) => return Err(node.refuse_unattested(subject.pinned(), why)),
        }
    }
    Err(node.refuse(subject.pinned(), RefusalCause::Undecided(Undecided::KeptChanging), None))
}

/// The providers without an answer on which the tokens that were asked for depend: those of the identity asked for, or of
/// all where nothing is permitted, or nothing that keeps the default identity.
fn missing(decision: &LiveDecision, id: Option<&SpiffeId>, changes_default: bool) -> Option<Providers> {
    let permitted = |permit: &Permit| id.is_none_or(|id| permit.grant().id == *id);
    if decision.permits.iter().any(permitted) && !changes_default {
        return None;
    }
    let open = decision.open.iter().filter(|open| id.is_none_or(|id| open.id == *id));
    let providers: Providers = open.flat_map(|open| open.awaits.iter().cloned()).collect();
    (!providers.is_empty()).then_some(providers)
}

/// Signs for each permit and writes it down, before anything of it can leave.
async fn sign_all(
    subject: &SessionSubject,
    permits: Vec<Permit>,
    audiences: &[String],
    trace: &Trace,
) -> Result<Vec<JwtSvid>, NotIssued> {
    let mut svids = Vec::with_capacity(permits.len());
    for permit in permits {
        let signed = subject.node().issuer.jwt_svid(subject.session.principal, permit, audiences.to_vec()).await;
        let IssuedJwtSvid { issuance, svid } = signed.map_err(|why| subject.not_issued(&why))?;
        subject.record(Event::Issued, &issuance, trace, None);
        svids.push(svid);
    }
    Ok(svids)
}

/// Verifies a token against the bundle of its subject's own trust domain: the own one for every live caller, a foreign
/// one for those who federate with it.
pub(in crate::entitlement) async fn validate(
    subject: &SessionSubject,
    audience: &str,
    token: &str,
) -> Result<ValidToken, NotValidated> {
    let node = subject.node();
    let visible = may_see(subject, &node.bundles()).map_err(NotValidated::Ended)?;
    let verified = jws::verify(token, audience, |trust_domain| visible.bundle_of(trust_domain), node.now())
        .map_err(|invalid| NotValidated::Invalid(invalid.to_string()))?;
    let own = visible.is_own(verified.id.trust_domain());
    let mut claims = verified.claims;
    if !own {
        // SPEC: SPIFFE-ID §4: what a foreign issuer claims beyond the standard is only as good as that issuer.
        claims.retain(|name, _| matches!(name.as_str(), "sub" | "aud" | "exp"));
    }
    Ok(ValidToken { id: verified.id, claims })
}

/// Whoever has no identity may still have tokens of the own trust domain verified: verifying needs public keys alone.
fn may_see(subject: &SessionSubject, bundles: &BundleSet) -> Result<VisibleBundles, Ended> {
    let visible =
        |permits: &[Permit]| bundles.view(permits.iter().flat_map(|permit| permit.grant().entry.federates_with.iter()));
    if let Some(standing) = subject.process().standing_for_validation(subject.node().rulebook().epoch()) {
        return Ok(visible(&standing.decision.permits()));
    }
    match subject.node().decide_quietly(subject.process()) {
        Ok(granted) => Ok(visible(&granted.permits)),
        Err((RefusalCause::Denied(Denial::NoEntry), _)) => Ok(bundles.view(std::iter::empty())),
        Err((verdict, trace)) => Err(subject.node().refuse(subject.pinned(), verdict, trace.as_ref())),
    }
}
