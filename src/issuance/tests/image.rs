//! The SVIDs of one process image, issued by a local signer.

use futures_util::future::join_all;
use tokio::time::advance;

use super::*;
use crate::issuance::IssuanceId;

/// A process image that asks.
#[derive(Default)]
struct Asking {
    svids: ImageSvids,
}

impl Asking {
    async fn svid(&self, world: &World, held: &[IssuanceId], permit: Permit) -> Result<IssuedX509Svid, IssueError> {
        world.issuer.x509_svid(Holder { principal: CALLER, svids: &self.svids, held }, permit).await
    }
}

#[tokio::test(start_paused = true)]
async fn connections_of_an_image_share_one_svid_per_entry_until_its_renewal_is_due() {
    let (world, image) = (World::local(HOUR * 168), Asking::default());
    let first = image.svid(&world, &[], permit("/web")).await.unwrap();
    let others = join_all((0..10).map(|_| image.svid(&world, &[], permit("/web")))).await;
    assert!(others.iter().all(|other| {
        other
            .as_ref()
            .is_ok_and(|other| other.issuance == first.issuance && other.renew_at == first.renew_at && !other.first)
    }));
    let other_entry = image.svid(&world, &[], permit("/db")).await.unwrap();
    assert!(other_entry.first && other_entry.svid.serial != first.svid.serial);
    advance(first.renew_at.duration_since(world.clock.now()).unwrap()).await;
    let held = [first.issuance.id];
    let renewed = join_all((0..10).map(|_| image.svid(&world, &held, permit("/web")))).await;
    let renewed: Vec<_> = renewed.into_iter().map(Result::unwrap).collect();
    assert!(renewed.iter().all(|one| one.issuance == renewed[0].issuance && one.issuance != first.issuance));
    assert_eq!((renewed.iter().filter(|one| one.first).count(), world.issuer.metrics().issued()), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn another_image_and_other_terms_have_another_key() {
    let (world, image) = (World::local(HOUR * 168), Asking::default());
    let first = image.svid(&world, &[], permit("/web")).await.unwrap();
    let mut other_terms = entry("/web");
    other_terms.terms.dns = vec!["web.internal".to_owned()];
    let changed = image.svid(&world, &[], permit_by(other_terms)).await.unwrap();
    let other_image = Asking::default().svid(&world, &[], permit("/web")).await.unwrap();
    let keys = [first, changed, other_image].map(|issued| issued.svid.key.expose_pkcs8().to_vec());
    assert!(keys[0] != keys[1] && keys[0] != keys[2] && keys[1] != keys[2]);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_was_gone_gets_a_new_key_when_it_comes_back() {
    let (world, image) = (World::local(HOUR * 168), Asking::default());
    let first = image.svid(&world, &[], permit("/web")).await.unwrap();
    image.svids.retain(&EntriesInForce::of(&EntryIndex::new(vec![entry("/web"), entry("/db")])));
    assert_eq!(image.svid(&world, &[], permit("/web")).await.unwrap().issuance, first.issuance);
    image.svids.retain(&EntriesInForce::of(&EntryIndex::new(vec![entry("/db")])));
    assert_ne!(image.svid(&world, &[], permit("/web")).await.unwrap().svid.serial, first.svid.serial);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_is_told_to_the_holder_and_the_newcomer_gets_the_earlier_svid() {
    let (world, image) = (World::local(2 * HOUR), Asking::default());
    advance(HOUR * 3 / 4).await;
    let first = image.svid(&world, &[], permit("/web")).await.unwrap();
    world.clock.set_back(world.clock.now().duration_since(release()).unwrap() + HOUR);
    // Now the authority signs nothing, and the SVID is one of the future.
    let refused = image.svid(&world, &[first.issuance.id], permit("/web")).await.unwrap_err();
    assert!(matches!(refused, IssueError::Refused(Refused::OutsideLife(_))), "{refused}");
    let newcomer = image.svid(&world, &[], permit("/web")).await.unwrap();
    assert_eq!((newcomer.issuance, newcomer.renew_at), (first.issuance, world.clock.now() + Duration::from_secs(1)));
}
