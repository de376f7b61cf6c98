//! What could stop a rotation for ever: a next key that is of no use any more, a taint that is cut off or refused.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::future::FutureExt;
use tokio::sync::Semaphore;

use super::HOUR;
use super::keeping::verifies_by;
use super::rotating::Machine;
use super::rotating::SECOND;
use super::rotating::TICK;
use crate::authority::Authority;
use crate::authority::KeyKind;
use crate::authority::NotRotated;
use crate::authority::RotationOrder;
use crate::authority::Served;
use crate::authority::Stage;
use crate::authority::Validity;
use crate::authority::embedded::usage::ActiveKey;
use crate::authority::embedded::usage::Signed;
use crate::authority::signing::key::KeyFailed;
use crate::authority::signing::key::LocalKey;
use crate::authority::signing::key::SignatureForm;
use crate::authority::signing::key::SigningKey;
use crate::authority::signing::tokens::JwtSigner;
use crate::durable::simulated_disk::Trouble;
use crate::durable::simulated_disk::Unsynced;
use crate::identity::KeyType;

const MINUTE: Duration = Duration::from_secs(60);
const WEEK: Duration = Duration::from_secs(168 * 3600);

fn validity(machine: &Machine) -> Option<Validity> {
    machine.authority.validity(machine.now.wall)
}

fn ticks(machine: &mut Machine) {
    (0..6).for_each(|_| drop(machine.pass(TICK)));
}

/// Time passes in small steps until the next X.509 key is there at this stage.
fn pass_until(machine: &mut Machine, stage: Stage) {
    while !machine.stages(KeyKind::X509).contains(&stage) {
        machine.pass(MINUTE / 2);
    }
}

#[test]
fn a_machine_that_slept_past_the_end_of_the_next_key_too_makes_another() {
    for stage in [Stage::Prepared, Stage::Published] {
        let mut machine = Machine::new(12 * HOUR);
        pass_until(&mut machine, stage);
        machine.wait(30 * HOUR);
        ticks(&mut machine);
        assert_eq!(validity(&machine), Some(Validity::Valid), "the next key was {stage:?}");
        assert_eq!(machine.bundle().x509_authorities.len(), 1, "the one that was never used has left");
    }
}

#[test]
fn a_disk_that_was_full_for_longer_than_a_key_lives_ends_nothing_for_ever() {
    for stage in [Stage::Prepared, Stage::Published] {
        let mut machine = Machine::new(HOUR);
        pass_until(&mut machine, stage);
        machine.disk.expect(Trouble::NoWrites(io::ErrorKind::StorageFull));
        for _ in 0..300 {
            machine.wait(MINUTE);
            machine.postponed();
        }
        assert!(matches!(validity(&machine), Some(Validity::Over { .. })));
        machine.disk.expect(Trouble::StepFails(usize::MAX, io::ErrorKind::Other));
        machine.pass(2 * SECOND);
        ticks(&mut machine);
        assert_eq!(validity(&machine), Some(Validity::Valid), "the next key was {stage:?}");
    }
}

#[test]
fn a_life_that_was_shortened_stops_no_rotation() {
    for ca_ttl in [40 * SECOND, 6 * MINUTE, 20 * MINUTE, HOUR] {
        let mut machine = Machine::new(WEEK);
        let first = machine.active(KeyKind::X509);
        machine.authority.set_key_life(ca_ttl);
        machine.pass(83 * HOUR);
        for _ in 0..1500 {
            machine.pass(4 * SECOND);
        }
        assert_ne!(machine.active(KeyKind::X509), first, "{ca_ttl:?}");
        assert_eq!(validity(&machine), Some(Validity::Valid), "{ca_ttl:?}");
    }
}

#[test]
fn a_next_key_that_a_wrong_clock_has_made_is_replaced_in_its_time_and_when_an_operator_asks() {
    for is_asked in [false, true] {
        for year in [8760 * HOUR, 1000 * HOUR] {
            for is_early in [false, true] {
                let mut machine = Machine::new(WEEK);
                machine.pass(400 * SECOND);
                let first = machine.active(KeyKind::X509);
                let right = machine.now.wall;
                machine.now.wall = if is_early { right - year.min(900 * HOUR) } else { right + year };
                machine.authority.rotate(RotationOrder { kind: None, taint: false }, machine.now).unwrap();
                machine.now.wall = right;
                ticks(&mut machine);
                assert_eq!(machine.active(KeyKind::X509), first);
                if is_asked {
                    machine.rotate(None, false).unwrap();
                    machine.pass(10 * SECOND);
                } else {
                    (0..170).for_each(|_| drop(machine.pass(HOUR / 2)));
                }
                assert_ne!(machine.active(KeyKind::X509), first);
                assert_eq!(validity(&machine), Some(Validity::Valid));
            }
        }
    }
}

#[test]
fn a_taint_that_a_power_cut_interrupts_goes_on_at_once_after_a_start_with_a_late_clock() {
    let mut machine = Machine::new(WEEK);
    let first = machine.active(KeyKind::X509);
    machine.rotate(None, true).unwrap();
    machine.now.wall -= HOUR;
    machine.start_again(Unsynced::Lost);
    machine.maintain();
    assert_ne!(machine.active(KeyKind::X509), first);
    ticks(&mut machine);
    assert_eq!((machine.bundle().x509_authorities.len(), machine.bundle().jwt_authorities.len()), (1, 1));
}

#[test]
fn a_taint_is_not_refused_because_many_keys_are_needed() {
    let mut machine = Machine::new(WEEK);
    let refused = loop {
        machine.start_again(Unsynced::Kept);
        match machine.rotate(None, false) {
            Ok(()) => drop(machine.pass(10 * SECOND)),
            Err(why) => break why,
        }
    };
    assert!(matches!(refused, NotRotated::TooManyKeys { .. }), "{refused}");
    machine.rotate(None, true).unwrap();
    machine.pass(2 * SECOND);
    ticks(&mut machine);
    assert_eq!((machine.bundle().x509_authorities.len(), machine.bundle().jwt_authorities.len()), (1, 1));
}

#[test]
fn a_bundle_with_another_refresh_hint_has_another_number() {
    let mut machine = Machine::new(WEEK);
    machine.authority.set_key_life(HOUR);
    machine.rotate(Some(KeyKind::X509), false).unwrap();
    let before = machine.bundle();
    machine.pass(10 * SECOND);
    let after = machine.bundle();
    assert_ne!(after.refresh_hint, before.refresh_hint);
    assert!(after.sequence > before.sequence);
}

#[test]
fn a_disk_that_took_its_time_makes_no_lead_shorter() {
    let mut machine = Machine::new(WEEK);
    let (first, begun) = (machine.active(KeyKind::X509), machine.now);
    machine.wait(MINUTE);
    machine.authority.rotate(RotationOrder { kind: None, taint: false }, begun).unwrap();
    machine.pass(TICK);
    machine.pass(10 * SECOND - TICK);
    assert_eq!(machine.active(KeyKind::X509), first);
    machine.pass(TICK);
    assert_ne!(machine.active(KeyKind::X509), first);
}

#[test]
fn a_step_that_panicked_is_not_the_last_one() {
    let mut machine = Machine::new(WEEK);
    let first = machine.active(KeyKind::X509);
    let panicking = std::panic::AssertUnwindSafe(|| {
        let _keeper = machine.authority.keeper();
        panic!("a bug");
    });
    std::panic::catch_unwind(panicking).unwrap_err();
    (0..170).for_each(|_| drop(machine.pass(HOUR / 2)));
    assert_ne!(machine.active(KeyKind::X509), first);
}

/// A key that signs when it may.
#[derive(Debug)]
struct Slow(LocalKey, Arc<Semaphore>);

impl SigningKey for Slow {
    fn public_key(&self) -> &Bytes {
        self.0.public_key()
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, KeyFailed>> {
        async {
            self.1.acquire().await.unwrap().forget();
            self.0.sign(message).await
        }
        .boxed()
    }
}

#[tokio::test]
async fn a_token_that_the_next_key_overtook_is_signed_by_the_next_key() {
    let (authority, now) = (super::authority(), super::moment(super::release()));
    let (private_key, _) = KeyType::P256.generate().unwrap();
    let may_sign = Arc::new(Semaphore::new(0));
    let slow = Slow(LocalKey::new(&private_key, SignatureForm::FixedWidth).unwrap(), Arc::clone(&may_sign));
    let life = authority.jwt.load_full().unwrap().life;
    let signer = JwtSigner::new(Arc::new(slow), None, life).unwrap();
    authority.jwt.store(Some(Arc::new(ActiveKey::new(signer, (life, life.not_before), Signed::NOTHING))));

    let mut signing = authority.jwt(super::token(now.wall, HOUR));
    assert!((&mut signing).now_or_never().is_none());
    let kind = Some(KeyKind::Jwt);
    let new = authority.rotate(RotationOrder { kind, taint: true }, now).unwrap().published.remove(0).id;
    let served = Served { sequence: authority.bundle().borrow().sequence, holds_tainted: false };
    authority.maintain(now, served).unwrap();
    authority.maintain(super::moment(now.wall + 2 * SECOND), served).unwrap();
    may_sign.add_permits(1);
    let token = signing.await.unwrap();
    let header = BASE64URL.decode(token.compact.split('.').next().unwrap()).unwrap();
    assert!(String::from_utf8(header).unwrap().contains(&new));
}

/// The default life is long enough for keys to take turns within it by a clock that is days ahead.
#[tokio::test]
async fn an_authority_signs_again_once_a_clock_that_ran_ahead_is_right() {
    let mut machine = Machine::new(168 * HOUR);
    let (first, ahead) = (machine.active(KeyKind::X509), 160 * HOUR);
    machine.pass(HOUR);
    machine.now.wall += ahead;
    for _ in 0..60 {
        machine.pass(HOUR / 60);
    }
    assert_ne!(machine.active(KeyKind::X509), first, "the clock was ahead for long enough");
    machine.now.wall -= ahead;
    assert_eq!(machine.authority.validity(machine.now.wall), Some(Validity::Valid));
    let leaf = machine.leaf(HOUR).await;
    assert!(verifies_by(&leaf.certificates[0], machine.bundle().x509_authorities.last().unwrap()));
    machine.start_again(Unsynced::Kept);
    assert_eq!(machine.authority.validity(machine.now.wall), Some(Validity::Valid));
    let made = machine.keys(KeyKind::X509).into_iter().find(|key| key.stage == Stage::Active).unwrap().made;
    assert!(made > machine.now.wall, "when it was made is kept");
}
