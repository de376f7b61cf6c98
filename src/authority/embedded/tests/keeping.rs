//! What the authority keeps: through restarts, power cuts, and disks that take nothing more.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::CA_TTL;
use super::HOUR;
use super::order;
use super::release;
use super::settings;
use super::sign;
use crate::authority::Authority;
use crate::authority::EmbeddedSettings;
use crate::authority::NoAuthority;
use crate::authority::Note;
use crate::authority::embedded::Embedded;
use crate::authority::embedded::state::AuthorityState;
use crate::authority::embedded::state::Stage;
use crate::durable::DataDir;
use crate::durable::Name;
use crate::durable::simulated_disk::SimulatedDisk;
use crate::durable::simulated_disk::Trouble;
use crate::durable::simulated_disk::Unsynced;
use crate::identity::Bundle;
use crate::randomness::SystemRandomness;

const POWER_CUTS: [Unsynced; 8] = [
    Unsynced::Lost,
    Unsynced::Kept,
    Unsynced::Zeroed,
    Unsynced::TornAt(0),
    Unsynced::TornAt(512),
    Unsynced::TornAt(1024),
    Unsynced::TornAt(1536),
    Unsynced::TornAt(2048),
];

fn data_dir(disk: &SimulatedDisk) -> Arc<DataDir> {
    Arc::new(DataDir::over(Path::new("/data"), Box::new(disk.clone())))
}

fn open(disk: &SimulatedDisk) -> Result<(Embedded, Vec<Note>), NoAuthority> {
    Embedded::open(data_dir(disk), settings(), release(), Arc::new(SystemRandomness))
}

fn state_of(disk: &SimulatedDisk) -> AuthorityState {
    AuthorityState::parse(&data_dir(disk).load(Name::Authority).unwrap().unwrap()).unwrap()
}

fn keep(disk: &SimulatedDisk, state: &AuthorityState) {
    data_dir(disk).store(Name::Authority, &state.to_bytes().unwrap()).unwrap();
}

async fn leaf(authority: &Embedded) -> Bytes {
    sign(authority, order(release(), HOUR)).await.unwrap().certificates.remove(0)
}

fn verifies(leaf: &[u8], bundle: &Bundle) -> bool {
    let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
    bundle.x509_authorities.iter().any(|root| {
        let (_, root) = X509Certificate::from_der(root).unwrap();
        leaf.verify_signature(Some(root.public_key())).is_ok()
    })
}

#[tokio::test]
async fn a_restart_finds_the_same_authority() {
    let disk = SimulatedDisk::default();
    let (first, notes) = open(&disk).unwrap();
    assert_eq!(notes, [Note::New { trust_domain: "example.org".to_owned() }]);
    let (second, notes) = open(&disk).unwrap();
    assert_eq!(notes, []);
    assert_eq!(*first.bundle().borrow(), *second.bundle().borrow());
    assert!(verifies(&leaf(&second).await, &first.bundle().borrow()));
}

/// Faults F1, F3 and F4: a machine that loses power at any step of the first start comes up again, and everything that
/// was handed out before verifies after.
#[tokio::test]
async fn a_power_cut_during_the_first_start_loses_no_identity_handed_out() {
    for step in 0.. {
        let disk = SimulatedDisk::default();
        disk.expect(Trouble::PowerFailsAt(step));
        let before = open(&disk).map(|(authority, _)| authority);
        let handed_out = match &before {
            Ok(authority) => Some((leaf(authority).await, authority.bundle().borrow().sequence)),
            Err(error) => {
                assert!(matches!(error, NoAuthority::Store(_)), "{error}");
                None
            }
        };
        for unsynced in POWER_CUTS {
            let (after, _) = open(&disk.after_power_cut(unsynced)).unwrap();
            if let Some((leaf, sequence)) = &handed_out {
                assert!(verifies(leaf, &after.bundle().borrow()), "step {step}, {unsynced:?}");
                assert!(after.bundle().borrow().sequence >= *sequence);
            }
        }
        if before.is_ok() {
            return;
        }
    }
}

/// The same for a change of what is kept: a retired key stays in the bundle, and the sequence never goes back behind
/// what was published.
#[tokio::test]
async fn a_power_cut_during_a_change_leaves_one_active_key_and_valid_leaves() {
    for step in 0.. {
        let disk = SimulatedDisk::default();
        let (first, _) = open(&disk).unwrap();
        let mut changed = state_of(&disk);
        changed.x509[0].stage = Stage::Retired;
        changed.x509.append(&mut AuthorityState::make(&settings(), release() + HOUR, &SystemRandomness).unwrap().x509);
        changed.sequence += 1;

        disk.expect(Trouble::PowerFailsAt(step));
        let stored = data_dir(&disk).store(Name::Authority, &changed.to_bytes().unwrap()).is_ok();
        let old_leaf = leaf(&first).await;
        for unsynced in POWER_CUTS {
            let disk = disk.after_power_cut(unsynced);
            let (after, _) = open(&disk).unwrap();
            let active = state_of(&disk).x509.iter().filter(|key| key.stage == Stage::Active).count();
            assert_eq!(active, 1, "step {step}, {unsynced:?}");
            assert!(verifies(&old_leaf, &after.bundle().borrow()), "step {step}, {unsynced:?}");
            assert!(verifies(&leaf(&after).await, &after.bundle().borrow()));
            let published = if stored { changed.sequence } else { changed.sequence - 1 };
            assert!(after.bundle().borrow().sequence >= Some(published), "step {step}, {unsynced:?}");
        }
        if stored {
            return;
        }
    }
}

/// Faults F5 and F6.
#[tokio::test]
async fn an_authority_opens_from_a_full_or_read_only_directory_with_a_note() {
    for trouble in [io::ErrorKind::StorageFull, io::ErrorKind::ReadOnlyFilesystem] {
        let disk = SimulatedDisk::default();
        let (first, _) = open(&disk).unwrap();
        disk.expect(Trouble::NoWrites(trouble));
        let (second, notes) = open(&disk).unwrap();
        assert!(matches!(notes.as_slice(), [Note::NotWritable { .. }]), "{notes:?}");
        assert!(verifies(&leaf(&second).await, &first.bundle().borrow()));
    }
}

#[test]
fn an_authority_that_cannot_be_kept_is_not_made() {
    let disk = SimulatedDisk::default();
    disk.expect(Trouble::NoWrites(io::ErrorKind::StorageFull));
    let error = open(&disk).unwrap_err();
    assert!(error.to_string().contains("make room"), "{error}");
}

/// Faults F7 and F8: nothing that is there and cannot be read is ever replaced by something new.
#[test]
fn damaged_state_is_refused_with_its_repair_and_stays_as_it_is() {
    let disk = SimulatedDisk::default();
    open(&disk).unwrap();
    let damaged: [&[u8]; 3] = [b"", b"something else altogether", &[0; 4096]];
    for damaged in damaged {
        disk.overwrite("authority.state", damaged);
        for _ in 0..2 {
            let error = open(&disk).unwrap_err().to_string();
            assert!(error.contains("mv /data/authority.state /data/authority.state.damaged"), "{error}");
        }
    }
}

#[test]
fn state_of_another_trust_domain_is_refused_and_names_both() {
    let disk = SimulatedDisk::default();
    open(&disk).unwrap();
    let other = EmbeddedSettings { trust_domain: "other.test".parse().unwrap(), ..settings() };
    let error = Embedded::open(data_dir(&disk), other, release(), Arc::new(SystemRandomness)).unwrap_err();
    assert!(matches!(error, NoAuthority::ForeignTrustDomain { .. }));
    let text = error.to_string();
    assert!(text.contains("\"example.org\"") && text.contains("\"other.test\""), "{text}");
}

#[test]
fn state_whose_parts_do_not_fit_together_is_refused() {
    let contradicts = |change: fn(&mut AuthorityState, AuthorityState)| {
        let disk = SimulatedDisk::default();
        open(&disk).unwrap();
        let mut state = state_of(&disk);
        change(&mut state, AuthorityState::make(&settings(), release(), &SystemRandomness).unwrap());
        keep(&disk, &state);
        match open(&disk) {
            Err(NoAuthority::Contradiction { why, .. }) => why,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(contradicts(|state, _| state.x509.clear()), "there is not exactly one active X.509 key");
    assert_eq!(contradicts(|state, _| state.jwt[0].stage = Stage::Retired), "there is not exactly one active JWT key");
    let two_active = contradicts(|state, mut other| state.x509.append(&mut other.x509));
    assert_eq!(two_active, "there is not exactly one active X.509 key");
    let exchanged = contradicts(|state, mut other| state.x509[0].certificate = other.x509.remove(0).certificate);
    assert_eq!(exchanged, "a certificate of the authority is not of its key");
    let broken = contradicts(|state, _| *state.x509[0].certificate.last_mut().unwrap() ^= 1);
    assert_eq!(broken, "a certificate of the authority is not signed by its key");
}

#[test]
fn a_prepared_key_is_not_in_the_bundle_and_a_published_or_retired_one_is() {
    let mut state = AuthorityState::make(&settings(), release(), &SystemRandomness).unwrap();
    for stage in [Stage::Prepared, Stage::Published, Stage::Retired] {
        let mut other = AuthorityState::make(&settings(), release(), &SystemRandomness).unwrap();
        other.x509[0].stage = stage;
        other.jwt[0].stage = stage;
        state.x509.append(&mut other.x509);
        state.jwt.append(&mut other.jwt);
    }
    let bundle = state.bundle(settings().trust_domain).unwrap();
    assert_eq!((bundle.x509_authorities.len(), bundle.jwt_authorities.len()), (3, 3));
}

/// F9 to F11: an end that the clock has passed changes nothing that is kept.
#[tokio::test]
async fn an_authority_outside_its_life_opens_and_keeps_its_keys() {
    let disk = SimulatedDisk::default();
    let (first, _) = open(&disk).unwrap();
    for now in [release() + 2 * CA_TTL, release() - 2 * CA_TTL] {
        let (later, _) = Embedded::open(data_dir(&disk), settings(), now, Arc::new(SystemRandomness)).unwrap();
        assert_eq!(*later.bundle().borrow(), *first.bundle().borrow());
        assert!(sign(&later, order(now, HOUR)).await.is_err());
        assert!(verifies(&leaf(&later).await, &first.bundle().borrow()));
    }
}
