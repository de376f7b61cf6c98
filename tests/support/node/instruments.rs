//! What a node reads and writes beside the kernel: a clock, random bytes and an audit log.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;
use std::time::SystemTime;

use bonafide::audit::Event;
use bonafide::audit::Record;
use bonafide::audit::Sink;
use bonafide::randomness::NoRandomness;
use bonafide::randomness::Randomness;
use bonafide::time::Clock;
use tokio::time::Instant;

/// Noon of a day after this release.
const NOON: Duration = Duration::from_secs(1_800_014_400);
const BOOTED_BEFORE: Duration = Duration::from_secs(100);

/// A wall clock that goes with the paused one, and steps when told to.
#[derive(Debug)]
pub(crate) struct TestClock {
    start: Instant,
    at_start: Mutex<SystemTime>,
    slept: Mutex<Duration>,
}

impl Default for TestClock {
    fn default() -> Self {
        Self { start: Instant::now(), at_start: Mutex::new(SystemTime::UNIX_EPOCH + NOON), slept: Mutex::default() }
    }
}

impl TestClock {
    pub(crate) fn step_forward(&self, by: Duration) {
        *self.at_start.lock().unwrap() += by;
    }

    pub(crate) fn step_back(&self, by: Duration) {
        *self.at_start.lock().unwrap() -= by;
    }

    /// The machine sleeps: the wall clock goes on, and so does the clock that nobody sets; timers do not.
    pub(crate) fn suspend(&self, by: Duration) {
        self.step_forward(by);
        *self.slept.lock().unwrap() += by;
    }
}

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        *self.at_start.lock().unwrap() + self.start.elapsed()
    }

    fn since_boot(&self) -> Duration {
        BOOTED_BEFORE + *self.slept.lock().unwrap() + self.start.elapsed()
    }
}

/// Random bytes that follow from a seed (xorshift; never zero).
#[derive(Debug)]
pub(crate) struct Seeded(pub(crate) Mutex<u64>);

impl Seeded {
    pub(crate) fn next(&self) -> u64 {
        let mut state = self.0.lock().unwrap();
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    /// A number below `end`.
    pub(crate) fn below(&self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }
}

impl Randomness for Seeded {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoRandomness> {
        bytes.iter_mut().for_each(|byte| *byte = (self.next() >> 24) as u8);
        Ok(())
    }
}

/// The audit log of a node.
#[derive(Debug, Default)]
pub(crate) struct Records(pub(crate) Mutex<Vec<Record>>);

impl Records {
    /// How often the log says this of each certificate, by serial number.
    pub(crate) fn of_certificates(&self, what: Event) -> BTreeMap<String, usize> {
        let mut often = BTreeMap::new();
        for record in self.0.lock().unwrap().iter().filter(|record| record.event == what) {
            if let ("x509", Some(serial)) = (record.kind.as_deref().unwrap_or_default(), &record.serial) {
                *often.entry(serial.clone()).or_default() += 1;
            }
        }
        often
    }
}

impl Sink for Records {
    fn record(&self, record: Record) {
        self.0.lock().unwrap().push(record);
    }
}
