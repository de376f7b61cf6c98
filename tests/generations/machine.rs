//! A daemon whose keys live 40 s, on a disk of its own, and the circle of services that it gives identities to.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::circle;
use crate::circle::Circle;
use crate::daemon::Daemon;
use crate::small_disk::SmallDisk;
use crate::tools::skipped;
use crate::trust::Believed;
use crate::trust::Kept;

const LIVES: &str = "[svid]\nx509_ttl = \"20s\"\njwt_ttl = \"20s\"\n";
/// A generation lasts 14 s. A restart and a full disk delay it.
const NEXT_GENERATION: Duration = Duration::from_secs(40);
/// The longest time without a daemon, but for one. Clients in all four languages have connected again 2 s after it.
const DOWN: Duration = Duration::from_millis(1500);

/// Random numbers from a seed.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A time shorter than this one, to the millisecond.
    pub(crate) fn up_to(&mut self, most: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_millis(self.0 % u64::try_from(most.as_millis()).unwrap())
    }
}

pub(crate) struct Machine {
    // Dropped in this order: the directory of the daemon can be removed once nothing is mounted in it.
    pub(crate) circle: Circle,
    pub(crate) disk: Option<SmallDisk>,
    pub(crate) daemon: Daemon,
    pub(crate) chance: Chance,
    /// The keys of each kind that have signed, by what is public of them.
    generations: [Vec<String>; 2],
    begun: Instant,
    kills: u32,
}

impl Machine {
    /// A machine whose daemon has just made its first keys, and whose services have all met.
    pub(crate) fn begin(test: &str, seed: u64) -> Self {
        let programs = circle::programs(test);
        let mut daemon = Daemon::start(&(LIVES.to_owned() + &circle::entries(&programs)));
        daemon.kill();
        let data = daemon.folder().join("data");
        fs::remove_file(data.join("authority.state")).unwrap();
        let configuration = fs::read_to_string(daemon.configuration()).unwrap();
        fs::write(daemon.configuration(), configuration.replace("ca_ttl = \"1h\"", "ca_ttl = \"40s\"")).unwrap();
        let disk = SmallDisk::over(&data);
        if disk.is_none() {
            skipped(test, "the part with the full disk needs root and mount(8)");
        }
        daemon.restart();
        let begun = Instant::now();
        let circle = Circle::begin(&daemon, &programs);
        let (chance, generations) = (Chance::new(seed), Default::default());
        let mut machine = Self { circle, disk, daemon, chance, generations, begun, kills: 0 };
        machine.note_generation();
        machine
    }

    /// How many X.509 keys and how many JWT keys have signed so far.
    pub(crate) fn generations(&self) -> [usize; 2] {
        self.generations.each_ref().map(Vec::len)
    }

    /// How often the daemon was killed.
    pub(crate) fn kills(&self) -> u32 {
        self.kills
    }

    fn note_generation(&mut self) {
        for (kind, active) in self.generations.iter_mut().zip(Kept::by(&self.daemon).active()) {
            if !kind.contains(&active) {
                kind.push(active);
            }
        }
    }

    /// Tells on standard error, which is shown when the test fails.
    pub(crate) fn tell(&self, what: &str) {
        eprintln!("{}: {what}", self.when());
    }

    fn when(&self) -> String {
        format!("{:.1} s, generation {}", self.begun.elapsed().as_secs_f32(), self.generations[0].len())
    }

    /// Lets the circle go on for a while.
    pub(crate) fn live(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.circle.hear(&self.when());
            self.note_generation();
        }
    }

    /// Lets the circle go on until something is so.
    pub(crate) fn live_until(&mut self, what: &str, most: Duration, is_so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + most;
        while !is_so(self) {
            assert!(Instant::now() < end, "{}: not within {most:?}: {what}", self.when());
            self.circle.hear(&self.when());
            self.note_generation();
        }
    }

    /// Lets the circle go on until the next generation of X.509 keys signs.
    pub(crate) fn live_until_next_generation(&mut self) {
        let before = self.generations[0].len();
        let is_next = |machine: &Self| machine.generations[0].len() > before;
        self.live_until("the next generation", NEXT_GENERATION, is_next);
        self.tell("signs from now on");
        self.circle.judge();
    }

    /// Lets the circle go on until the next X.509 key is at this stage.
    pub(crate) fn live_until_next_key_is(&mut self, stage: &str) {
        let is_there = |machine: &Self| Kept::by(&machine.daemon).at_stage("x509", stage).is_some();
        self.live_until(stage, NEXT_GENERATION, is_there);
    }

    /// Sends SIGKILL, and lets the circle go on for a while without a daemon.
    pub(crate) fn kill_for(&mut self, down: Duration, why: &str) {
        self.daemon.kill();
        self.kills += 1;
        self.tell(&format!("killed {why}, for {} ms", down.as_millis()));
        self.live(down);
    }

    /// Starts the daemon again. What it serves then verifies everything that has been handed out and has not ended.
    pub(crate) fn restart(&mut self) {
        self.daemon.restart();
        let believed = self.believed();
        let (certificates, tokens) = self.circle.seen.all();
        let refused = believed.refused(&certificates, &tokens);
        assert!(refused.is_empty(), "{}: does not verify: {refused:?}", self.when());
    }

    /// Kills the daemon and starts it again after a short time.
    pub(crate) fn kill_and_restart(&mut self, why: &str) {
        let down = self.chance.up_to(DOWN);
        self.kill_for(down, why);
        self.restart();
    }

    /// The bundles that the daemon serves now.
    pub(crate) fn believed(&self) -> Believed {
        self.circle.wait_for(Believed::by_clients_of(self.daemon.address()))
    }

    /// The daemon's state and the reasons for it, as one text.
    pub(crate) fn status(&self) -> (String, String) {
        let status = self.ask(&["status"]);
        (status["state"].as_str().unwrap().to_owned(), status["reasons"].to_string())
    }
    /// The ids of the keys that `authority show` lists at these stages.
    pub(crate) fn shown(&self, stages: &[&str]) -> BTreeSet<String> {
        let report = self.ask(&["authority", "show"]);
        let keys = report["keys"].as_array().unwrap().iter();
        let keys = keys.filter(|key| stages.contains(&key["stage"].as_str().unwrap()));
        keys.map(|key| key["id"].as_str().unwrap().to_owned()).collect()
    }

    fn ask(&self, words: &[&str]) -> Value {
        let output = self.daemon.ask(&[words, &["-o", "json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{why}: {output:?}"))
    }
}
