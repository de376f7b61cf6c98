//! Random lives of an authority: whatever its clocks, its disk, its starts and its operator do, what was handed out verifies
//! until its end.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;

use super::HOUR;
use super::order;
use super::release;
use super::rotating::Machine;
use super::rotating::SECOND;
use super::sign;
use super::token;
use crate::authority::Authority;
use crate::authority::KeyKind;
use crate::authority::Note;
use crate::authority::RotationOrder;
use crate::authority::Stage;
use crate::durable::simulated_disk::Trouble;
use crate::durable::simulated_disk::Unsynced;
use crate::identity::Bundle;
use crate::identity::jose::Algorithm;

/// A random number generator (xorshift) from a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    fn seconds(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.below(most * 1000 + 1))
    }
}

/// Something that was handed out.
struct HandedOut {
    kind: KeyKind,
    /// The certificate of the authority, or the key id of the token.
    verified_by: Vec<u8>,
    key: String,
    not_after: SystemTime,
    /// When as much time has passed as it was to live.
    lived: Duration,
}

struct Life {
    machine: Machine,
    chance: Chance,
    handed_out: Vec<HandedOut>,
    tainted: BTreeSet<String>,
    latest: Arc<Bundle>,
    rotations: usize,
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut chance = Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let ca_ttl = [40 * SECOND, HOUR, 168 * HOUR][chance.below(3) as usize];
        let machine = Machine::new(ca_ttl);
        let latest = machine.bundle();
        Self { machine, chance, handed_out: Vec::new(), tainted: BTreeSet::new(), latest, rotations: 0 }
    }

    async fn step(&mut self) {
        let life = self.machine.ca_ttl.as_secs();
        match self.chance.below(20) {
            0..=5 => self.hand_out().await,
            6..=7 => self.machine.wait(self.chance.seconds(life / 8)),
            8 => self.machine.now.wall += self.chance.seconds(2 * life),
            9 => {
                let back = self.chance.seconds(2 * life);
                self.machine.now.wall = (self.machine.now.wall - back).max(release());
            }
            10 => {
                let slept = self.chance.seconds(2 * life);
                self.machine.wait(slept);
            }
            11 => {
                let at = self.chance.below(12) as usize;
                let kind = io::ErrorKind::StorageFull;
                let trouble = [Trouble::StepFails(at, kind), Trouble::NoWrites(kind), Trouble::PowerFailsAt(at)];
                self.machine.disk.expect(trouble[self.chance.below(3) as usize]);
            }
            12 => self.machine.disk.expect(Trouble::StepFails(usize::MAX, io::ErrorKind::Other)),
            13 => {
                let torn = self.chance.below(4096) as usize;
                let unsynced = [Unsynced::Lost, Unsynced::Kept, Unsynced::Zeroed, Unsynced::TornAt(torn)];
                self.machine.start_again(unsynced[self.chance.below(4) as usize]);
            }
            14 => self.order(false),
            15 => self.order(true),
            16 => self.machine.served = Some(self.machine.served()),
            17 => self.machine.served = None,
            18 => self.machine.holds_tainted = self.chance.below(2) == 0,
            _ => self.machine.wait(10 * SECOND),
        }
        self.judge();
        let notes = self.machine.maintain();
        self.rotations += notes.iter().filter(|note| matches!(note, Note::Used { .. })).count();
        self.judge();
    }

    fn order(&mut self, taint: bool) {
        let kind = [None, Some(KeyKind::X509), Some(KeyKind::Jwt)][self.chance.below(3) as usize];
        let order = RotationOrder { kind, taint };
        // Where it could not be stored, the disk may have it all the same, and the next start goes by that.
        let meant: Vec<_> = order.kinds().flat_map(|kind| self.machine.keys(kind)).map(|key| key.id).collect();
        match self.machine.authority.rotate(order, self.machine.now) {
            Ok(begun) => self.tainted.extend(begun.tainted.into_iter().map(|key| key.id)),
            Err(_) if taint => self.tainted.extend(meant),
            Err(_) => {}
        }
    }

    /// Signs an SVID and a token, each of which verifies by the bundle that those have who are served.
    async fn hand_out(&mut self) {
        let most = (self.machine.ca_ttl / 2).min(HOUR).as_secs();
        let (now, ttl) = (self.machine.now.wall, SECOND + self.chance.seconds(most - 1));
        let (served, lived) = (self.machine.served(), self.machine.now.since_boot + ttl);
        if let Ok(chain) = sign(&self.machine.authority, order(now, ttl)).await {
            let root =
                served.x509_authorities.iter().find(|root| super::keeping::verifies_by(&chain.certificates[0], root));
            let root = root.expect("an SVID before the bundle that verifies it").to_vec();
            let (key, not_after) = (chain.issuer.to_string(), chain.not_after);
            self.handed_out.push(HandedOut { kind: KeyKind::X509, verified_by: root, key, not_after, lived });
        }
        if let Ok(token) = self.machine.authority.jwt(token(now, ttl)).await {
            let (signed, signature) = token.compact.rsplit_once('.').unwrap();
            let signature = BASE64URL.decode(signature).unwrap();
            let key = served
                .jwt_authorities
                .iter()
                .find(|key| key.key().verifies(Algorithm::Es256, signed.as_bytes(), &signature));
            let key = key.expect("a token before the bundle that verifies it").key_id().to_owned();
            let not_after = token.not_after;
            self.handed_out.push(HandedOut {
                kind: KeyKind::Jwt,
                verified_by: key.clone().into(),
                key,
                not_after,
                lived,
            });
        }
    }

    fn judge(&mut self) {
        let (bundle, now) = (self.machine.bundle(), self.machine.now);
        assert!(bundle.sequence >= self.latest.sequence, "the sequence went back");
        let content = |bundle: &Bundle| (bundle.x509_authorities.clone(), bundle.jwks_for_workload_api());
        assert!(
            bundle.sequence > self.latest.sequence || content(&bundle) == content(&self.latest),
            "changed unnumbered"
        );
        self.latest = bundle;
        for kind in KeyKind::ALL {
            let active = self.machine.stages(kind).into_iter().filter(|stage| *stage == Stage::Active).count();
            assert_eq!(active, 1);
        }
        for handed_out in self
            .handed_out
            .iter()
            .filter(|it| it.not_after > now.wall && it.lived > now.since_boot && !self.tainted.contains(&it.key))
        {
            let verifies = match handed_out.kind {
                KeyKind::X509 => self.latest.x509_authorities.iter().any(|root| **root == handed_out.verified_by),
                KeyKind::Jwt => {
                    self.latest.jwt_authorities.iter().any(|key| key.key_id().as_bytes() == handed_out.verified_by)
                }
            };
            assert!(
                verifies,
                "{:?} {} is not in the bundle, and something it signed has not ended",
                handed_out.kind, handed_out.key
            );
        }
    }
}

#[tokio::test]
async fn everything_handed_out_verifies_until_its_end_through_any_life() {
    let (mut handed_out, mut rotations) = (0, 0);
    for seed in 0..150 {
        let mut life = Life::new(seed);
        for _ in 0..120 {
            life.step().await;
        }
        handed_out += life.handed_out.len();
        rotations += life.rotations;
    }
    assert!(
        handed_out > 1500 && rotations > 300,
        "{handed_out} handed out in {rotations} rotations: that proves nothing"
    );
}
