//! Issuance by a remote signer with one key per entry.

use futures_util::future::FutureExt;
use futures_util::future::join_all;
use tokio::time::sleep_until;

use super::*;

fn world() -> (World, Arc<NetworkSigner>) {
    World::remote(KeySharing::PerEntry, 500)
}

async fn svid(world: &World, path: &str) -> Result<IssuedX509Svid, IssueError> {
    issue(world, CALLER, permit(path)).await
}

/// Sleeps until the wall clock shows `at`.
async fn until(world: &World, at: SystemTime) {
    sleep_until(Instant::now() + at.duration_since(world.clock.now()).unwrap_or_default()).await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_callers_of_one_entry_share_one_svid_of_one_call() {
    let (world, signer) = world();
    let answers = join_all((0..1000).map(|_| svid(&world, "/web"))).await;
    assert_eq!(signer.calls(), [1]);
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|answer| answer.issuance == answers[0].issuance));
    assert!(answers.iter().all(|answer| answer.svid.serial == answers[0].svid.serial));
    assert_eq!(answers.iter().filter(|answer| answer.first).count(), 1);
    assert_eq!(world.issuer.metrics().issued(), 1);
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_before_the_half_gets_the_same_svid_and_the_same_time() {
    let (world, signer) = world();
    let first = svid(&world, "/web").await.unwrap();
    until(&world, first.renew_at - Duration::from_secs(2)).await;
    let second = svid(&world, "/web").await.unwrap();
    assert_eq!((&second.issuance, second.renew_at), (&first.issuance, first.renew_at));
    until(&world, first.renew_at).await;
    let third = svid(&world, "/web").await.unwrap();
    assert_ne!(third.issuance.id, first.issuance.id);
    assert!(third.first);
    assert_eq!(signer.calls(), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_just_before_the_half_asks_again_in_a_second() {
    let (world, _) = world();
    let first = svid(&world, "/web").await.unwrap();
    until(&world, first.renew_at - Duration::from_millis(100)).await;
    let second = svid(&world, "/web").await.unwrap();
    assert_eq!(second.issuance, first.issuance);
    assert_eq!(second.renew_at, world.clock.now() + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn entries_share_nothing_and_an_entry_on_other_terms_is_another() {
    let (world, signer) = world();
    let mut other_terms = entry("/web");
    other_terms.terms.dns = vec!["web.internal".to_owned()];
    let mut moved = entry("/web");
    moved.order = crate::registration::entry::EntryOrder { source: 0, place: 9 };
    let mut serials = Vec::new();
    for entry in [entry("/web"), entry("/db"), other_terms, moved] {
        serials.push(issue(&world, CALLER, permit_by(entry)).await.unwrap().svid.serial);
    }
    assert_eq!(serials[0], serials[3]);
    serials.truncate(3);
    serials.sort();
    serials.dedup();
    assert_eq!((serials.len(), signer.calls().len()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_serves_the_earlier_svid_until_its_end() {
    let (world, signer) = world();
    let first = svid(&world, "/web").await.unwrap();
    signer.begins_to(Behaves::Refuses);
    let (mut asked, mut again) = (0, first.renew_at);
    // A try whose answer comes after the end has nothing to serve.
    while again + ROUND_TRIP < first.svid.not_after {
        until(&world, again).await;
        let before = world.clock.now();
        let answer = svid(&world, "/web").await.unwrap();
        assert_eq!(answer.issuance, first.issuance);
        assert!(answer.renew_at >= before + Duration::from_secs(1));
        (asked, again) = (asked + 1, answer.renew_at);
    }
    assert!((10..60).contains(&asked), "{asked}");
    assert_eq!(signer.calls().len(), asked + 1);
    assert_eq!(world.issuer.metrics().failed(), asked as u64);
    until(&world, first.svid.not_after).await;
    assert!(matches!(svid(&world, "/web").await, Err(IssueError::Refused(_))));
    signer.begins_to(Behaves::Signs);
    assert!(svid(&world, "/web").await.unwrap().first);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_callers_of_a_failing_signer_try_once_for_all() {
    let (world, signer) = world();
    let first = svid(&world, "/web").await.unwrap();
    signer.begins_to(Behaves::Refuses);
    until(&world, first.renew_at).await;
    let answers = join_all((0..1000).map(|_| svid(&world, "/web"))).await;
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap().issuance == first.issuance));
    svid(&world, "/web").await.unwrap();
    assert_eq!(signer.calls(), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_signer_that_hangs_delays_a_renewal_by_a_second() {
    let (world, signer) = world();
    let first = svid(&world, "/web").await.unwrap();
    signer.begins_to(Behaves::Hangs);
    until(&world, first.renew_at).await;
    let begun = Instant::now();
    let answer = svid(&world, "/web").await.unwrap();
    assert_eq!((begun.elapsed().as_secs(), answer.issuance), (1, first.issuance));
    assert_eq!(answer.renew_at, world.clock.now() + Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_goes_on_although_whoever_began_it_has_gone() {
    let (world, signer) = world();
    let mut first = Box::pin(svid(&world, "/web"));
    assert!((&mut first).now_or_never().is_none());
    let mut second = Box::pin(svid(&world, "/web"));
    assert!((&mut second).now_or_never().is_none());
    drop(first);
    assert!(second.await.unwrap().first);
    assert_eq!(signer.calls(), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_hint_is_the_permits_own() {
    let (world, _) = world();
    let mut hinted = entry("/web");
    hinted.hint = Some("internal".to_owned());
    let without = svid(&world, "/web").await.unwrap().svid;
    let with = issue(&world, CALLER, permit_by(hinted)).await.unwrap().svid;
    assert_eq!(without.serial, with.serial);
    assert_eq!((without.hint, with.hint.as_deref()), (None, Some("internal")));
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_was_gone_gets_a_new_key_when_it_comes_back() {
    let (world, _) = world();
    let first = svid(&world, "/web").await.unwrap().svid;
    world.issuer.retain(&EntriesInForce::of(&EntryIndex::new(vec![entry("/db"), entry("/web")])));
    assert_eq!(svid(&world, "/web").await.unwrap().svid.serial, first.serial);
    world.issuer.retain(&EntriesInForce::of(&EntryIndex::new(vec![entry("/db")])));
    let second = svid(&world, "/web").await.unwrap().svid;
    assert_ne!(first.key.expose_pkcs8(), second.key.expose_pkcs8());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_before_the_issue_has_it_renewed() {
    let (world, _) = world();
    sleep(HOUR / 60).await;
    let first = svid(&world, "/web").await.unwrap();
    world.clock.set_back(HOUR / 60);
    assert_ne!(svid(&world, "/web").await.unwrap().issuance.id, first.issuance.id);
}

#[tokio::test(start_paused = true)]
async fn a_stale_permit_gets_nothing_of_what_is_held() {
    let (world, _) = world();
    svid(&world, "/web").await.unwrap();
    world.change_rulebook();
    assert_eq!(svid(&world, "/web").await.unwrap_err(), IssueError::StalePermit);
}
