//! Issuance by a remote signer with one key per caller.

use futures_util::future::FutureExt;
use futures_util::future::join_all;
use proptest::prelude::*;
use tokio::time::timeout;

use super::*;

fn world(max_batch: usize) -> (World, Arc<NetworkSigner>) {
    World::remote(KeySharing::PerImage, max_batch)
}

async fn svid(world: &World, path: &str) -> Result<IssuedX509Svid, IssueError> {
    issue(world, CALLER, permit(path)).await
}

fn unanswered() -> IssueError {
    IssueError::Refused(Refused::Unavailable("it has not answered".to_owned()))
}

#[tokio::test(start_paused = true)]
async fn a_thousand_orders_at_once_travel_in_two_full_calls() {
    let (world, signer) = world(500);
    let begun = Instant::now();
    let answers = join_all((0..1000).map(|n| issue(&world, CALLER, permit(&format!("/{n}"))))).await;
    assert_eq!(signer.calls(), [500, 500]);
    assert_eq!(begun.elapsed(), ROUND_TRIP);
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.unwrap().svid.id.path(), format!("/{n}"), "each has its own answer");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lone_order_waits_two_milliseconds_for_company() {
    let (world, _) = world(500);
    let begun = Instant::now();
    svid(&world, "/web").await.unwrap();
    assert_eq!(begun.elapsed(), Duration::from_millis(2) + ROUND_TRIP);
}

#[tokio::test(start_paused = true)]
async fn orders_that_come_while_a_call_is_away_go_together_in_the_next() {
    let (world, signer) = world(500);
    let later = |after: u64| {
        let world = &world;
        async move {
            sleep(Duration::from_millis(after)).await;
            svid(world, "/web").await.unwrap();
        }
    };
    join_all([0, 5, 10, 15, 20].map(later)).await;
    assert_eq!(signer.calls(), [1, 4]);
}

#[tokio::test(start_paused = true)]
async fn an_order_that_is_away_holds_no_core() {
    let (world, signer) = world(500);
    let mut away: Vec<_> = (0..20).map(|_| Box::pin(svid(&world, "/web"))).collect();
    for order in &mut away {
        assert!(order.now_or_never().is_none());
    }
    sleep(ROUND_TRIP / 2).await;
    assert_eq!(signer.calls(), [20]);
    assert!(world.issuer.context.cores.enter(CALLER).now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_has_gone_is_not_ordered_for_and_delays_nobody() {
    let (world, signer) = world(2);
    let mut gone: Vec<_> = (0..3).map(|_| Box::pin(svid(&world, "/gone"))).collect();
    for order in &mut gone {
        assert!(order.now_or_never().is_none());
    }
    let mut other = Box::pin(svid(&world, "/web"));
    assert!((&mut other).now_or_never().is_none());
    drop(gone);
    other.await.unwrap();
    assert_eq!(*signer.seen.lock().unwrap(), [["spiffe://example.org/web"]]);
}

#[tokio::test(start_paused = true)]
async fn a_principal_with_many_orders_leaves_room_for_another() {
    let (world, signer) = world(10);
    signer.begins_to(Behaves::Hangs);
    let mut crowd: Vec<_> = (0..1000).map(|_| Box::pin(svid(&world, "/crowd"))).collect();
    for order in &mut crowd {
        assert!(order.now_or_never().is_none());
    }
    let stranger = Principal { uid: 1001, cgroup: 0 };
    let mut strangers = Box::pin(issue(&world, stranger, permit("/stranger")));
    assert!((&mut strangers).now_or_never().is_none());
    sleep(ROUND_TRIP * 2).await;
    assert_eq!(signer.calls(), [10, 10, 1]);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_four_calls_are_away_at_once() {
    let (world, signer) = world(1);
    let strangers = (0..8).map(|uid| issue(&world, Principal { uid, cgroup: 0 }, permit("/web")));
    let mut orders: Vec<_> = strangers.map(Box::pin).collect();
    for order in &mut orders {
        assert!(order.now_or_never().is_none());
    }
    sleep(ROUND_TRIP / 2).await;
    assert_eq!(signer.calls().len(), 4);
    join_all(orders).await;
    assert_eq!(signer.calls().len(), 8);
}

#[tokio::test(start_paused = true)]
async fn orders_wait_for_a_call_to_end_while_four_are_away() {
    let (world, signer) = world(10);
    signer.begins_to(Behaves::Hangs);
    let orders = (0..10).map(async |n| {
        sleep(ROUND_TRIP * 2 * n).await;
        svid(&world, "/web").await
    });
    let begun = Instant::now();
    assert!(join_all(orders).await.iter().all(Result::is_err));
    assert_eq!(signer.calls(), [1, 1, 1, 1, 6]);
    assert_eq!(begun.elapsed().as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_not_answered_fails_after_ten_seconds_and_makes_room() {
    let (world, signer) = world(500);
    signer.begins_to(Behaves::Hangs);
    let begun = Instant::now();
    assert_eq!(svid(&world, "/web").await.unwrap_err(), unanswered());
    let token = world.issuer.jwt_svid(CALLER, permit("/web"), vec!["ledger".to_owned()]).await;
    assert_eq!(token.unwrap_err(), unanswered());
    assert_eq!(begun.elapsed().as_secs(), 20);
    signer.begins_to(Behaves::AnswersNothing);
    assert_eq!(svid(&world, "/web").await.unwrap_err(), unanswered());
    assert_eq!(world.issuer.metrics().failed(), 3);
    signer.begins_to(Behaves::Signs);
    svid(&world, "/web").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_after_the_rulebook_changed_is_stale() {
    let (world, _) = world(500);
    let mut order = Box::pin(svid(&world, "/web"));
    let mut token = Box::pin(world.issuer.jwt_svid(CALLER, permit("/web"), vec!["ledger".to_owned()]));
    assert!((&mut order).now_or_never().is_none() && (&mut token).now_or_never().is_none());
    sleep(ROUND_TRIP / 2).await;
    world.change_rulebook();
    assert_eq!(order.await.unwrap_err(), IssueError::StalePermit);
    assert_eq!(token.await.unwrap_err(), IssueError::StalePermit);
}

#[tokio::test(start_paused = true)]
async fn an_svid_is_dated_by_when_its_order_left() {
    let (world, _) = world(500);
    let begun = world.clock.now();
    let svid = svid(&world, "/web").await.unwrap().svid;
    assert_eq!(svid.issued, begun + Duration::from_millis(2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Callers arrive at random times, and some give up.
    #[test]
    fn every_waiting_caller_is_answered_in_calls_within_the_limits(
        callers in prop::collection::vec((0_u64..120, prop::option::of(0_u64..60)), 1..40), max_batch in 1_usize..6,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (world, signer) = world(max_batch);
            let answers = callers.iter().map(async |(comes, goes)| {
                sleep(Duration::from_millis(*comes)).await;
                let stays = goes.map_or(HOUR, Duration::from_millis);
                timeout(stays, svid(&world, "/web")).await.ok()
            });
            for ((_, goes), answer) in callers.iter().zip(join_all(answers).await) {
                let answered = answer.is_some_and(|answer| answer.is_ok());
                assert!(answered || goes.is_some());
            }
            let calls = signer.calls();
            assert!(calls.iter().all(|orders| (1..=max_batch).contains(orders)), "{calls:?}");
            assert!(calls.iter().sum::<usize>() <= callers.len());
            assert!(signer.most_at_once.load(Ordering::Relaxed) <= 4);
        });
    }
}
