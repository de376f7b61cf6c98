//! Issuance by a local signer.

use aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::KeyPair;
use futures_util::future::FutureExt;
use tokio::time::advance;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::*;
use crate::evidence::Undecided;
use crate::issuance::CredentialKind;

fn audiences() -> Vec<String> {
    vec!["ledger".to_owned()]
}

#[tokio::test(start_paused = true)]
async fn a_permit_becomes_an_svid_on_the_terms_of_its_entry() {
    let world = World::local(HOUR * 168);
    let mut entry = entry("/web");
    entry.hint = Some("internal".to_owned());
    entry.terms.dns = vec!["web.internal".to_owned()];
    let issued = issue(&world, CALLER, permit_by(entry)).await.unwrap();
    let (svid, now) = (issued.svid, world.clock.now());
    assert_eq!(svid.id.as_str(), "spiffe://example.org/web");
    assert_eq!(svid.hint.as_deref(), Some("internal"));
    assert_eq!((svid.issued, svid.not_after), (now, now + HOUR));
    assert!((now + HOUR * 9 / 20..=now + HOUR * 11 / 20).contains(&issued.renew_at));
    let (_, leaf) = X509Certificate::from_der(&svid.chain[0]).unwrap();
    assert!(format!("{:?}", leaf.subject_alternative_name().unwrap().unwrap().value).contains("web.internal"));
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, svid.key.expose_pkcs8()).unwrap();
    assert_eq!(leaf.public_key().subject_public_key.data.as_ref(), key.public_key().as_ref());
}

#[tokio::test(start_paused = true)]
async fn an_issuance_names_the_credential_its_entry_and_its_decision() {
    let world = World::local(HOUR * 168);
    let x509 = issue(&world, CALLER, permit("/web")).await.unwrap();
    let jwt = world.issuer.jwt_svid(CALLER, permit("/web"), audiences()).await.unwrap();
    assert!(x509.first);
    assert_ne!(x509.issuance.id, jwt.issuance.id);
    let serials = [x509.svid.serial, jwt.svid.token_id];
    let ends = [x509.svid.not_after, jwt.svid.not_after];
    for (at, issuance) in [x509.issuance, jwt.issuance].iter().enumerate() {
        assert_eq!(issuance.kind, [CredentialKind::X509, CredentialKind::Jwt][at]);
        assert_eq!((&issuance.serial, issuance.not_after), (&serials[at], ends[at]));
        assert_eq!(issuance.spiffe_id.path(), "/web");
        assert_eq!((&issuance.entry, issuance.decision), (&entry("/web").origin, DecisionId([3; 6])));
    }
}

#[tokio::test(start_paused = true)]
async fn no_two_svids_share_a_key_a_serial_or_a_token_id() {
    let world = World::local(HOUR * 168);
    let first = issue(&world, CALLER, permit("/web")).await.unwrap().svid;
    let second = issue(&world, CALLER, permit("/web")).await.unwrap().svid;
    assert_ne!(first.key.expose_pkcs8(), second.key.expose_pkcs8());
    assert_ne!(first.serial, second.serial);
    let first = world.issuer.jwt_svid(CALLER, permit("/web"), audiences()).await.unwrap().svid;
    let second = world.issuer.jwt_svid(CALLER, permit("/web"), audiences()).await.unwrap().svid;
    assert_ne!(first.token_id, second.token_id);
    assert_eq!(first.token_id.len(), 32);
    assert_eq!(first.not_after, world.clock.now() + Duration::from_secs(300));
}

#[tokio::test(start_paused = true)]
async fn a_stale_permit_issues_nothing_and_is_no_failure() {
    let world = World::local(HOUR * 168);
    world.change_rulebook();
    let refused = issue(&world, CALLER, permit("/web")).await.unwrap_err();
    assert_eq!(refused, IssueError::StalePermit);
    let refused = world.issuer.jwt_svid(CALLER, permit("/web"), audiences()).await.unwrap_err();
    assert_eq!(refused, IssueError::StalePermit);
    assert_eq!((world.issuer.metrics().issued(), world.issuer.metrics().failed()), (0, 0));
}

/// Takes every turn that one principal can get.
fn all_turns(world: &World) -> Vec<crate::fairness::Ticket> {
    std::iter::from_fn(|| world.issuer.context.cores.enter(CALLER).now_or_never()).collect()
}

#[tokio::test(start_paused = true)]
async fn entries_that_change_while_a_caller_waits_for_its_turn_count() {
    let world = World::local(HOUR * 168);
    let turns = all_turns(&world);
    let mut waiting = Box::pin(issue(&world, CALLER, permit("/web")));
    assert!((&mut waiting).now_or_never().is_none());
    world.change_rulebook();
    drop(turns);
    assert_eq!(waiting.await.unwrap_err(), IssueError::StalePermit);
}

#[tokio::test(start_paused = true)]
async fn a_credential_is_dated_by_when_its_turn_came() {
    let world = World::local(HOUR * 168);
    let turns = all_turns(&world);
    let mut svid = Box::pin(issue(&world, CALLER, permit("/web")));
    let mut token = Box::pin(world.issuer.jwt_svid(CALLER, permit("/web"), audiences()));
    assert!((&mut svid).now_or_never().is_none() && (&mut token).now_or_never().is_none());
    advance(Duration::from_secs(30)).await;
    drop(turns);
    let now = world.clock.now();
    assert_eq!(svid.await.unwrap().svid.issued, now);
    assert_eq!(token.await.unwrap().svid.not_after, now + Duration::from_secs(300));
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_cannot_sign_is_never_a_no_to_the_caller() {
    let world = World::local(HOUR * 168);
    world.clock.set_back(2 * HOUR);
    let refused = issue(&world, CALLER, permit("/web")).await.unwrap_err();
    assert!(matches!(refused, IssueError::Refused(Refused::OutsideLife(_))), "{refused}");
    assert_eq!(refused.undecided(), Undecided::Authority);
    assert_eq!(world.issuer.metrics().failed(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_svid_that_the_authoritys_end_cuts_short_is_counted() {
    let world = World::local(HOUR + Duration::from_secs(60));
    let svid = issue(&world, CALLER, permit("/web")).await.unwrap().svid;
    assert_eq!(svid.not_after, world.clock.now() + Duration::from_secs(60));
    assert_eq!((world.issuer.metrics().issued(), world.issuer.metrics().clamped()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn tokens_are_counted_per_entry_while_it_is_in_force() {
    let world = World::local(HOUR * 168);
    for path in ["/web", "/web", "/db"] {
        world.issuer.jwt_svid(CALLER, permit(path), audiences()).await.unwrap();
    }
    let counts = || ["/web", "/db"].map(|path| world.issuer.metrics().tokens_of(&Arc::new(entry(path))));
    assert_eq!(counts(), [2, 1]);
    world.issuer.retain(&EntriesInForce::of(&EntryIndex::new(vec![entry("/db")])));
    assert_eq!(counts(), [0, 1]);
}
