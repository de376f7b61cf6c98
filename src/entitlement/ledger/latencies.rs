//! How long the last attestations took.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

/// How many are remembered.
const REMEMBERED: usize = 512;

/// The last attestations' times. Bounded.
#[derive(Debug, Default)]
pub struct Latencies(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    microseconds: Vec<u32>,
    next: usize,
}

impl Latencies {
    /// Remembers one.
    pub fn took(&self, time: Duration) {
        let microseconds = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = ring.next;
        match ring.microseconds.get_mut(at) {
            Some(oldest) => *oldest = microseconds,
            None => ring.microseconds.push(microseconds),
        }
        ring.next = (at + 1) % REMEMBERED;
    }

    /// Half of them took less, in microseconds.
    #[must_use]
    pub fn median(&self) -> Option<u64> {
        let mut all = self.all();
        all.sort_unstable();
        all.get(all.len() / 2).map(|it| u64::from(*it))
    }

    /// The slowest of them, in microseconds.
    #[must_use]
    pub fn worst(&self) -> Option<u64> {
        self.all().into_iter().max().map(u64::from)
    }

    fn all(&self) -> Vec<u32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).microseconds.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_attestations_are_remembered() {
        let latencies = Latencies::default();
        assert_eq!((latencies.median(), latencies.worst()), (None, None));
        latencies.took(Duration::from_secs(1));
        for _ in 0..REMEMBERED {
            latencies.took(Duration::from_micros(50));
        }
        assert_eq!((latencies.median(), latencies.worst()), (Some(50), Some(50)));
    }
}
