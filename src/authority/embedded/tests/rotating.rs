//! How keys take turns: by themselves, for an operator, through clocks that step, disks that fail, and starts at any point.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::HOUR;
use super::keeping::data_dir;
use super::order;
use super::release;
use super::settings;
use super::sign;
use crate::authority::Authority;
use crate::authority::Chain;
use crate::authority::EmbeddedSettings;
use crate::authority::KeyKind;
use crate::authority::KeyStatus;
use crate::authority::NotRotated;
use crate::authority::Note;
use crate::authority::RotationOrder;
use crate::authority::Served;
use crate::authority::Stage;
use crate::authority::Validity;
use crate::authority::embedded::Embedded;
use crate::durable::simulated_disk::SimulatedDisk;
use crate::durable::simulated_disk::Trouble;
use crate::durable::simulated_disk::Unsynced;
use crate::identity::Bundle;
use crate::randomness::SystemRandomness;
use crate::time::Moment;

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const TICK: Duration = Duration::from_millis(500);

/// Where the machine is: its clocks, its disk, and the daemon on it, whose bundle everybody is served.
pub(super) struct Machine {
    pub(super) ca_ttl: Duration,
    pub(super) disk: SimulatedDisk,
    pub(super) now: Moment,
    pub(super) authority: Embedded,
    /// What everybody is served, where that is not the newest bundle.
    pub(super) served: Option<Arc<Bundle>>,
    /// Whether somebody holds what a tainted key signed.
    pub(super) holds_tainted: bool,
}

impl Machine {
    pub(super) fn new(ca_ttl: Duration) -> Self {
        let disk = SimulatedDisk::default();
        let now = Moment { wall: release() + 1000 * HOUR, since_boot: 100 * SECOND };
        let authority = open(&disk, ca_ttl, now);
        Self { ca_ttl, disk, now, authority, served: None, holds_tainted: false }
    }

    pub(super) fn bundle(&self) -> Arc<Bundle> {
        self.authority.bundle().borrow().clone()
    }

    pub(super) fn served(&self) -> Arc<Bundle> {
        self.served.clone().unwrap_or_else(|| self.bundle())
    }

    /// Time passes, and twice a second what is due is done. Returns what was.
    pub(super) fn pass(&mut self, time: Duration) -> Vec<Note> {
        self.wait(time);
        self.maintain()
    }

    pub(super) fn maintain(&self) -> Vec<Note> {
        let served = Served { sequence: self.served().sequence, holds_tainted: self.holds_tainted };
        assert!(self.authority.is_due(self.now, served) || self.maintained(served).is_empty());
        let notes = self.maintained(served);
        self.begin_leads();
        notes
    }

    /// As the next look of the upkeep does, half a second later.
    fn begin_leads(&self) {
        let served = Served { sequence: self.served().sequence, holds_tainted: true };
        self.authority.keeper().as_mut().unwrap().begin_leads(self.now, served);
    }

    pub(super) fn maintained(&self, served: Served) -> Vec<Note> {
        self.authority.maintain(self.now, served).unwrap().notes
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.now.wall += time;
        self.now.since_boot += time;
    }

    pub(super) fn postponed(&self) -> Option<String> {
        let served = Served { sequence: self.served().sequence, holds_tainted: false };
        self.authority.maintain(self.now, served).unwrap().postponed
    }

    /// The machine starts again on what its disk holds.
    pub(super) fn start_again(&mut self, unsynced: Unsynced) {
        self.disk = self.disk.after_power_cut(unsynced);
        self.authority = open(&self.disk, self.ca_ttl, self.now);
        self.served = None;
        self.holds_tainted = false;
    }

    pub(super) fn keys(&self, kind: KeyKind) -> Vec<KeyStatus> {
        self.authority.keys(self.now.wall).into_iter().filter(|key| key.kind == kind).collect()
    }

    pub(super) fn stages(&self, kind: KeyKind) -> Vec<Stage> {
        self.keys(kind).iter().map(|key| key.stage).collect()
    }

    pub(super) fn active(&self, kind: KeyKind) -> String {
        self.keys(kind).into_iter().find(|key| key.stage == Stage::Active).unwrap().id
    }

    pub(super) async fn leaf(&self, ttl: Duration) -> Chain {
        sign(&self.authority, order(self.now.wall, ttl)).await.unwrap()
    }

    pub(super) fn rotate(&self, kind: Option<KeyKind>, taint: bool) -> Result<(), NotRotated> {
        self.authority.rotate(RotationOrder { kind, taint }, self.now)?;
        self.begin_leads();
        Ok(())
    }
}

fn open(disk: &SimulatedDisk, ca_ttl: Duration, now: Moment) -> Embedded {
    let settings = EmbeddedSettings { ca_ttl, ..settings() };
    Embedded::open(data_dir(disk), settings, now, Arc::new(SystemRandomness)).unwrap().0
}

fn x509_ids(bundle: &Bundle) -> BTreeSet<Vec<u8>> {
    bundle.x509_authorities.iter().map(|der| der.to_vec()).collect()
}

#[tokio::test]
async fn an_authority_rotates_by_itself_at_half_of_its_life_and_forgets_a_key_when_its_last_svid_has_ended() {
    let mut machine = Machine::new(168 * HOUR);
    let first = machine.active(KeyKind::X509);
    machine.pass(83 * HOUR);
    assert_eq!(machine.stages(KeyKind::X509), [Stage::Active]);
    machine.pass(HOUR / 2 + HOUR / 60);
    assert_eq!(machine.stages(KeyKind::X509), [Stage::Active, Stage::Prepared]);
    assert_eq!(machine.bundle().x509_authorities.len(), 1, "nobody knows a prepared key");
    machine.pass(5 * HOUR / 60);
    assert_eq!(machine.stages(KeyKind::X509), [Stage::Active, Stage::Published]);
    assert_eq!(machine.bundle().x509_authorities.len(), 2);
    assert_eq!(machine.active(KeyKind::X509), first);
    machine.pass(20 * HOUR / 60 - TICK);
    let last = machine.leaf(2 * HOUR).await;
    machine.pass(TICK);
    machine.pass(TICK);
    assert_eq!(machine.stages(KeyKind::X509), [Stage::Retired, Stage::Active]);
    assert_eq!(machine.stages(KeyKind::Jwt), [Stage::Active], "it signed nothing that has not ended");
    assert_ne!(machine.leaf(HOUR).await.issuer, last.issuer);
    machine.pass(last.not_after.duration_since(machine.now.wall).unwrap() - SECOND);
    assert_eq!(machine.bundle().x509_authorities.len(), 2);
    machine.pass(5 * SECOND);
    assert_eq!(machine.stages(KeyKind::X509), [Stage::Active]);
    assert_ne!(machine.active(KeyKind::X509), first);
}

#[test]
fn a_key_is_not_used_before_those_who_are_served_have_its_bundle() {
    let mut machine = Machine::new(168 * HOUR);
    let first = machine.active(KeyKind::X509);
    machine.served = Some(machine.bundle());
    machine.rotate(None, false).unwrap();
    for _ in 0..3 {
        machine.pass(HOUR);
        assert_eq!(machine.active(KeyKind::X509), first);
    }
    machine.served = None;
    machine.maintain();
    assert_eq!(machine.active(KeyKind::X509), first);
    machine.pass(10 * SECOND);
    assert_ne!(machine.active(KeyKind::X509), first);
}

/// The process before may have ended between the disk and the streams.
#[test]
fn a_key_that_was_published_before_a_start_is_not_used_before_clients_have_come_back() {
    for (ca_ttl, lead) in [(168 * HOUR, 60), (45 * SECOND, 15)] {
        let mut machine = Machine::new(ca_ttl);
        let first = machine.active(KeyKind::X509);
        machine.rotate(None, false).unwrap();
        machine.wait(15 * SECOND);
        machine.start_again(Unsynced::Lost);
        machine.maintain();
        let next = machine.keys(KeyKind::X509).into_iter().find(|key| key.stage == Stage::Published).unwrap();
        assert_eq!(next.next_stage_at, machine.now.wall + lead * SECOND);
        machine.pass(lead * SECOND - TICK);
        assert_eq!(machine.active(KeyKind::X509), first);
        machine.pass(TICK);
        assert_ne!(machine.active(KeyKind::X509), first);
    }
}

#[test]
fn an_operator_rotates_one_kind_or_both_with_ten_seconds_of_lead() {
    for (kind, rotated) in
        [(None, [true, true]), (Some(KeyKind::X509), [true, false]), (Some(KeyKind::Jwt), [false, true])]
    {
        let mut machine = Machine::new(168 * HOUR);
        let before = KeyKind::ALL.map(|kind| machine.active(kind));
        let (sequence, begun) = (machine.bundle().sequence, machine.now.wall);
        machine.rotate(kind, false).unwrap();
        assert!(machine.bundle().sequence > sequence, "published at once");
        let published = machine.authority.keys(begun).into_iter().filter(|key| key.stage == Stage::Published);
        assert!(published.map(|key| key.next_stage_at).all(|at| at == begun + 10 * SECOND));
        machine.pass(9 * SECOND);
        assert_eq!(KeyKind::ALL.map(|kind| machine.active(kind)), before);
        machine.pass(SECOND);
        assert_eq!(
            KeyKind::ALL.map(|kind| machine.active(kind)).iter().zip(&before).map(|(a, b)| a != b).collect::<Vec<_>>(),
            rotated
        );
    }
}

#[tokio::test]
async fn a_tainted_key_leaves_the_bundle_when_nobody_holds_what_it_signed_and_after_a_minute_at_the_latest() {
    for is_held in [false, true] {
        let mut machine = Machine::new(168 * HOUR);
        let old = machine.leaf(HOUR).await;
        machine.rotate(None, true).unwrap();
        assert_eq!(*machine.authority.tainted(), [], "it signs until the next one does");
        machine.pass(2 * SECOND);
        assert_eq!(*machine.authority.tainted(), [old.issuer]);
        assert_ne!(machine.leaf(HOUR).await.issuer, old.issuer);
        assert_eq!(machine.bundle().x509_authorities.len(), 2);
        machine.holds_tainted = is_held;
        machine.pass(59 * SECOND);
        assert_eq!(machine.bundle().x509_authorities.len(), if is_held { 2 } else { 1 });
        machine.pass(SECOND);
        assert_eq!((machine.bundle().x509_authorities.len(), machine.bundle().jwt_authorities.len()), (1, 1));
        assert_eq!(*machine.authority.tainted(), [old.issuer], "what it signed may still be held");
    }
}

/// Nobody holds what it signed after a start, so nothing is lost by it.
#[test]
fn a_tainted_key_is_not_believed_after_a_start() {
    let mut machine = Machine::new(168 * HOUR);
    machine.rotate(None, true).unwrap();
    machine.pass(2 * SECOND);
    machine.holds_tainted = true;
    machine.pass(SECOND);
    let before = machine.bundle();
    assert_eq!(before.x509_authorities.len(), 2);
    machine.start_again(Unsynced::Lost);
    assert_eq!(machine.bundle().x509_authorities.len(), 1);
    assert!(machine.bundle().sequence > before.sequence);
}

#[test]
fn a_tainted_key_leaves_the_bundle_of_a_daemon_whose_disk_takes_nothing_more() {
    let mut machine = Machine::new(168 * HOUR);
    let first = machine.active(KeyKind::X509);
    machine.rotate(None, true).unwrap();
    machine.disk.expect(Trouble::NoWrites(io::ErrorKind::StorageFull));
    machine.pass(2 * SECOND);
    assert_ne!(machine.active(KeyKind::X509), first, "its first use needs no disk");
    let sequence = machine.bundle().sequence;
    machine.pass(SECOND);
    let gone = machine.bundle();
    assert_eq!((gone.x509_authorities.len(), gone.jwt_authorities.len()), (1, 1));
    assert!(gone.sequence > sequence);
    for _ in 0..2 {
        machine.start_again(Unsynced::Lost);
        machine.disk.expect(Trouble::NoWrites(io::ErrorKind::StorageFull));
        assert!(machine.bundle().sequence >= gone.sequence, "the number was stored before");
        assert_eq!(machine.bundle().x509_authorities, gone.x509_authorities);
        machine.pass(SECOND);
    }
}

#[test]
fn every_key_that_there_is_can_be_tainted_and_none_of_them_is_used_again() {
    let mut machine = Machine::new(168 * HOUR);
    machine.rotate(Some(KeyKind::X509), false).unwrap();
    machine.pass(10 * SECOND);
    machine.rotate(Some(KeyKind::X509), false).unwrap();
    let known = x509_ids(&machine.bundle());
    machine.rotate(Some(KeyKind::X509), true).unwrap();
    let gone_by = machine.now.wall + 62 * SECOND;
    assert!(
        machine
            .keys(KeyKind::X509)
            .iter()
            .filter(|key| key.tainted && key.stage == Stage::Retired)
            .all(|key| key.next_stage_at == gone_by)
    );
    machine.holds_tainted = true;
    machine.pass(2 * SECOND);
    assert!(machine.keys(KeyKind::X509).iter().filter(|key| key.tainted).all(|key| key.next_stage_at == gone_by));
    machine.holds_tainted = false;
    machine.pass(SECOND);
    let left = x509_ids(&machine.bundle());
    assert_eq!(left.len(), 1);
    assert!(left.is_disjoint(&known));
}

#[test]
fn a_rotation_that_cannot_be_made_durable_is_not_begun_and_is_tried_again() {
    for trouble in [io::ErrorKind::StorageFull, io::ErrorKind::ReadOnlyFilesystem] {
        let mut machine = Machine::new(168 * HOUR);
        let before = machine.bundle();
        machine.disk.expect(Trouble::NoWrites(trouble));
        let refused = machine.rotate(None, false).unwrap_err();
        assert!(matches!(refused, NotRotated::NotKept(_)), "{refused}");
        machine.wait(100 * HOUR);
        let why = machine.postponed().unwrap();
        assert!(why.contains("/data/authority.state") && why.contains("make room"), "{why}");
        assert_eq!(machine.bundle(), before);
        machine.disk.expect(Trouble::StepFails(usize::MAX, trouble));
        machine.wait(2 * SECOND);
        assert_eq!(machine.postponed(), None);
        machine.pass(TICK);
        assert_ne!(machine.bundle().sequence, before.sequence);
    }
}

#[test]
fn keys_that_are_still_needed_are_not_piled_up_without_end() {
    let mut machine = Machine::new(168 * HOUR);
    machine.start_again(Unsynced::Kept);
    for _ in 0..40 {
        match machine.rotate(Some(KeyKind::Jwt), false) {
            Ok(()) => drop(machine.pass(10 * SECOND)),
            Err(NotRotated::TooManyKeys { kind: KeyKind::Jwt, count, .. }) => {
                assert!((8..=16).contains(&count));
                assert!(machine.bundle().jwt_authorities.len() <= 16);
                return;
            }
            Err(why) => panic!("{why}"),
        }
    }
    assert!(machine.bundle().jwt_authorities.len() <= 3, "keys that signed nothing are not needed");
}

#[test]
fn a_changed_life_counts_from_the_next_key_on() {
    let mut machine = Machine::new(168 * HOUR);
    let end = machine.authority.not_after();
    machine.authority.set_key_life(10 * HOUR);
    machine.pass(HOUR);
    assert_eq!(machine.authority.not_after(), end);
    let made = machine.now.wall;
    machine.rotate(None, false).unwrap();
    machine.pass(10 * SECOND);
    assert_eq!(machine.authority.not_after(), Some(made + 10 * HOUR));
}

#[test]
fn a_machine_that_slept_past_the_end_rotates_and_a_clock_that_was_set_past_it_does_not() {
    for slept in [true, false] {
        let mut machine = Machine::new(10 * HOUR);
        let first = machine.active(KeyKind::X509);
        machine.pass(SECOND);
        machine.now.wall += 20 * HOUR;
        if slept {
            machine.now.since_boot += 20 * HOUR;
        }
        (0..3).for_each(|_| drop(machine.pass(TICK)));
        let validity = machine.authority.validity(machine.now.wall).unwrap();
        if slept {
            assert_eq!(validity, Validity::Valid);
        } else {
            assert!(matches!(validity, Validity::Over { .. }), "{validity}");
            machine.now.wall -= 20 * HOUR;
            assert_eq!(machine.authority.validity(machine.now.wall), Some(Validity::Valid));
            assert_eq!(machine.active(KeyKind::X509), first);
        }
    }
}

#[test]
fn an_operator_rotates_an_authority_that_is_over_at_once() {
    let mut machine = Machine::new(10 * HOUR);
    machine.now.wall += 1000 * HOUR;
    machine.rotate(None, false).unwrap();
    machine.pass(TICK);
    assert_eq!(machine.authority.validity(machine.now.wall), Some(Validity::Valid));
}
