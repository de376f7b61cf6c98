//! What the authority keeps: through restarts, power cuts, and disks that take nothing more.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::CA_TTL;
use super::HOUR;
use super::moment;
use super::order;
use super::release;
use super::settings;
use super::sign;
use crate::authority::Authority;
use crate::authority::EmbeddedSettings;
use crate::authority::NoAuthority;
use crate::authority::Note;
use crate::authority::Served;
use crate::authority::Stage;
use crate::authority::embedded::Embedded;
use crate::authority::embedded::stored::StoredState;
use crate::authority::embedded::stored::StoredX509Key;
use crate::durable::DataDir;
use crate::durable::Name;
use crate::durable::simulated_disk::SimulatedDisk;
use crate::durable::simulated_disk::Trouble;
use crate::durable::simulated_disk::Unsynced;
use crate::identity::Bundle;
use crate::randomness::SystemRandomness;

/// Nobody is served.
const NOBODY: Served = Served { sequence: None, holds_tainted: false };

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

pub(super) fn data_dir(disk: &SimulatedDisk) -> Arc<DataDir> {
    Arc::new(DataDir::over(Path::new("/data"), Box::new(disk.clone())))
}

pub(super) fn open(disk: &SimulatedDisk) -> Result<(Embedded, Vec<Note>), NoAuthority> {
    Embedded::open(data_dir(disk), settings(), moment(release()), Arc::new(SystemRandomness))
}

pub(super) fn stored(disk: &SimulatedDisk) -> StoredState {
    StoredState::from_bytes(&data_dir(disk).load(Name::Authority).unwrap().unwrap()).unwrap()
}

pub(super) fn keep(disk: &SimulatedDisk, state: &StoredState) {
    data_dir(disk).store(Name::Authority, &state.to_bytes().unwrap()).unwrap();
}

async fn leaf(authority: &Embedded) -> Bytes {
    sign(authority, order(release(), HOUR)).await.unwrap().certificates.remove(0)
}

fn verifies(leaf: &[u8], bundle: &Bundle) -> bool {
    bundle.x509_authorities.iter().any(|root| verifies_by(leaf, root))
}

pub(super) fn verifies_by(leaf: &[u8], root: &[u8]) -> bool {
    let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
    let (_, root) = X509Certificate::from_der(root).unwrap();
    leaf.verify_signature(Some(root.public_key())).is_ok()
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

#[tokio::test]
async fn a_first_start_before_the_clock_is_set_makes_its_keys_once_when_it_is() {
    let disk = SimulatedDisk::default();
    let wrong = moment(SystemTime::UNIX_EPOCH);
    let (authority, notes) = Embedded::open(data_dir(&disk), settings(), wrong, Arc::new(SystemRandomness)).unwrap();
    assert_eq!(notes, [Note::AwaitsClock]);
    assert!(authority.bundle().borrow().x509_authorities.is_empty());
    assert!(matches!(authority.maintain(wrong, NOBODY), Err(NoAuthority::ClockBeforeRelease)));
    let made = authority.maintain(moment(release()), NOBODY).unwrap();
    assert_eq!(made.notes, [Note::New { trust_domain: "example.org".to_owned() }]);
    let bundle = authority.bundle().borrow().clone();
    assert!(verifies(&leaf(&authority).await, &bundle));
    assert!(authority.maintain(moment(release() + HOUR), NOBODY).unwrap().notes.is_empty());
    assert_eq!(authority.bundle().borrow().clone(), bundle, "keys were made again");
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
    let error = Embedded::open(data_dir(&disk), other, moment(release()), Arc::new(SystemRandomness)).unwrap_err();
    assert!(matches!(error, NoAuthority::ForeignTrustDomain { .. }));
    let text = error.to_string();
    assert!(text.contains("\"example.org\"") && text.contains("\"other.test\""), "{text}");
}

#[test]
fn state_whose_parts_do_not_fit_together_is_refused() {
    let contradicts = |change: fn(&mut StoredState, StoredState)| {
        let disk = SimulatedDisk::default();
        open(&disk).unwrap();
        let other = SimulatedDisk::default();
        open(&other).unwrap();
        let mut state = stored(&disk);
        change(&mut state, stored(&other));
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
    let two_next = contradicts(|state, mut other| {
        for stage in [Stage::Prepared, Stage::Published] {
            let mut key = other.x509.remove(0);
            key.stage = stage;
            other.x509.push(StoredX509Key { stage, ..copy(&key) });
            state.x509.push(key);
        }
    });
    assert_eq!(two_next, "more than one key is to follow the active one");
    let exchanged = contradicts(|state, mut other| state.x509[0].certificate = other.x509.remove(0).certificate);
    assert_eq!(exchanged, "a certificate of the authority is not of its key");
    let broken = contradicts(|state, _| *state.x509[0].certificate.last_mut().unwrap() ^= 1);
    assert_eq!(broken, "a certificate of the authority is not signed by its key");
    let without_key = contradicts(|state, _| state.x509[0].private_key = None);
    assert_eq!(without_key, "a key that is not retired has no private key");
    let foreign_key = contradicts(|state, mut other| state.jwt[0].public_key = other.jwt.remove(0).public_key);
    assert_eq!(foreign_key, "a public JWT key of the authority is not of its private key");
}

pub(super) fn copy(key: &StoredX509Key) -> StoredX509Key {
    let StoredX509Key { stage, made, certificate, private_key, used_from, needed_until, tainted } = key;
    let (certificate, private_key) = (certificate.clone(), private_key.clone());
    StoredX509Key {
        stage: *stage,
        made: *made,
        certificate,
        private_key,
        used_from: *used_from,
        needed_until: *needed_until,
        tainted: *tainted,
    }
}

/// The form of the release before keys took turns: no public JWT key, and no field that came later.
#[tokio::test]
async fn the_state_of_a_release_that_rotated_nothing_opens() {
    let disk = SimulatedDisk::default();
    let (first, _) = open(&disk).unwrap();
    let bytes = data_dir(&disk).load(Name::Authority).unwrap().unwrap();
    let mut state: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    state["jwt"][0].as_object_mut().unwrap().remove("public_key").unwrap();
    for kind in ["x509", "jwt"] {
        let mut fields: Vec<_> = state[kind][0].as_object().unwrap().keys().map(String::as_str).collect();
        fields.sort_unstable();
        let times: &[&str] = if kind == "jwt" { &["not_after", "not_before"] } else { &["certificate"] };
        assert_eq!(fields, [times, &["private_key", "stage"]].concat());
    }
    data_dir(&disk).store(Name::Authority, &serde_json::to_vec(&state).unwrap()).unwrap();
    let (again, _) = open(&disk).unwrap();
    assert_eq!(*again.bundle().borrow(), *first.bundle().borrow());
}

/// F9 to F11: an end that the clock has passed changes nothing that is kept.
#[tokio::test]
async fn an_authority_outside_its_life_opens_and_keeps_its_keys() {
    let disk = SimulatedDisk::default();
    let (first, _) = open(&disk).unwrap();
    for now in [release() + 2 * CA_TTL, release() - 2 * CA_TTL] {
        let (later, _) = Embedded::open(data_dir(&disk), settings(), moment(now), Arc::new(SystemRandomness)).unwrap();
        assert_eq!(*later.bundle().borrow(), *first.bundle().borrow());
        assert!(sign(&later, order(now, HOUR)).await.is_err());
        assert!(verifies(&leaf(&later).await, &first.bundle().borrow()));
    }
}
