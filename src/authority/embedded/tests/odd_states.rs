//! States that this release never writes: each works, or is refused by name, and none is a panic.

use std::time::Duration;

use super::HOUR;
use super::keeping::copy;
use super::keeping::data_dir;
use super::keeping::keep;
use super::keeping::open;
use super::keeping::stored;
use super::moment;
use super::release;
use crate::authority::Authority;
use crate::authority::KeyKind;
use crate::authority::NoAuthority;
use crate::authority::Served;
use crate::authority::Stage;
use crate::authority::embedded::Embedded;
use crate::authority::embedded::stored::StoredState;
use crate::authority::embedded::stored::StoredX509Key;
use crate::durable::Name;
use crate::durable::simulated_disk::SimulatedDisk;

/// What becomes of an authority whose state was changed so, by another one's.
fn changed(change: impl Fn(&mut StoredState, StoredState)) -> (SimulatedDisk, Result<Embedded, NoAuthority>) {
    let (disk, other) = (SimulatedDisk::default(), SimulatedDisk::default());
    open(&disk).unwrap();
    open(&other).unwrap();
    let mut state = stored(&disk);
    change(&mut state, stored(&other));
    keep(&disk, &state);
    let opened = open(&disk).map(|(authority, _)| authority);
    (disk, opened)
}

fn contradiction(opened: Result<Embedded, NoAuthority>) -> &'static str {
    match opened {
        Err(NoAuthority::Contradiction { why, .. }) => why,
        Err(why) => panic!("{why}"),
        Ok(_) => panic!("it opened"),
    }
}

/// Everything that is asked of an authority, after so long.
fn used(authority: &Embedded, after: Duration) {
    let now = moment(release() + after);
    let served = Served { sequence: authority.bundle().borrow().sequence, holds_tainted: true };
    for _ in 0..4 {
        authority.maintain(now, served).unwrap();
        for key in authority.keys(now.wall) {
            drop(crate::time::date::rfc3339(key.next_stage_at));
        }
        drop(authority.validity(now.wall).map(|validity| validity.to_string()));
    }
}

#[test]
fn a_number_that_cannot_grow_is_refused() {
    for sequence in [u64::MAX, u64::MAX - 1, i64::MAX as u64] {
        let (_, opened) = changed(|state, _| state.sequence = sequence);
        assert_eq!(contradiction(opened), "its sequence number is out of range");
    }
}

#[test]
fn a_time_that_no_calendar_has_is_refused() {
    for time in [u64::MAX, i64::MAX as u64, i64::MAX as u64 - 30, 300_000_000_000] {
        let changes: [&dyn Fn(&mut StoredState); 4] = [
            &|state| state.x509[0].used_from = Some(time),
            &|state| state.jwt[0].needed_until = Some(time),
            &|state| state.jwt[0].not_before = time,
            &|state| state.jwt[0].not_after = time,
        ];
        for change in changes {
            let (_, opened) = changed(|state, _| change(state));
            assert_eq!(contradiction(opened), "a time is out of range");
        }
    }
}

#[test]
fn a_key_that_is_there_twice_is_refused() {
    let (_, opened) = changed(|state, _| {
        let key = copy(&state.x509[0]);
        state.x509.insert(0, StoredX509Key { stage: Stage::Retired, private_key: None, ..key });
    });
    assert_eq!(contradiction(opened), "a key is there twice");
    let (_, opened) = changed(|state, _| {
        let key = copy(&state.x509[0]);
        state.x509.push(StoredX509Key { stage: Stage::Published, ..key });
    });
    assert_eq!(contradiction(opened), "a key is there twice");
}

#[test]
fn a_retired_key_of_which_nothing_else_is_known_stays_until_its_own_end_and_without_its_private_half() {
    let (disk, opened) = changed(|state, mut other| {
        let key = other.x509.remove(0);
        state.x509.insert(0, StoredX509Key { stage: Stage::Retired, ..key });
    });
    let authority = opened.unwrap();
    used(&authority, 50 * HOUR);
    assert_eq!(authority.bundle().borrow().x509_authorities.len(), 2);
    used(&authority, 100 * HOUR);
    let text = data_dir(&disk).load(Name::Authority).unwrap().unwrap();
    let state: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let retired = state["x509"].as_array().unwrap().iter().filter(|key| key["stage"] == "retired");
    let with_private_half = retired.filter(|key| key.get("private_key").is_some()).count();
    assert_eq!(with_private_half, 0);
}

#[test]
fn a_published_key_of_which_nothing_else_is_known_has_its_whole_lead_before_it() {
    let (_, opened) = changed(|state, mut other| {
        let key = other.x509.remove(0);
        state.x509.push(StoredX509Key { stage: Stage::Published, used_from: None, ..key });
    });
    let authority = opened.unwrap();
    let active = |authority: &Embedded| {
        let keys = authority.keys(release()).into_iter();
        keys.filter(|key| key.kind == KeyKind::X509).find(|key| key.stage == Stage::Active).unwrap().id
    };
    let first = active(&authority);
    used(&authority, Duration::from_secs(1199));
    assert_eq!(active(&authority), first);
    used(&authority, Duration::from_secs(1201));
    assert_ne!(active(&authority), first);
}
