//! The clocks, and dates and durations as text. Owns the only reading of the real wall clock in the crate; everything above
//! takes `now` as an argument or a [`Clock`]. Intervals use [`tokio::time`], which a test can pause.

pub mod date;
pub mod duration;

use std::time::Duration;
use std::time::SystemTime;

use rustix::time::ClockId;
use rustix::time::clock_gettime;

/// One moment by two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock, which anybody may have set.
    pub wall: SystemTime,
    /// How long ago the machine was started, suspends included. Nobody can set it.
    pub since_boot: Duration,
}

/// Where the wall-clock time comes from.
///
/// The machine's clock may step in either direction at any moment; nothing may assume that two readings are ordered.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The wall-clock time at this moment.
    fn now(&self) -> SystemTime;

    /// How long ago the machine was started, suspends included.
    fn since_boot(&self) -> Duration;

    /// This moment by both clocks.
    fn moment(&self) -> Moment {
        Moment { wall: self.now(), since_boot: self.since_boot() }
    }
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place where the wall clock is read")]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    /// SPEC: clock_gettime(2), `CLOCK_BOOTTIME`, which never fails and never goes back.
    fn since_boot(&self) -> Duration {
        let since = clock_gettime(ClockId::Boottime);
        Duration::new(since.tv_sec.try_into().unwrap_or_default(), since.tv_nsec.try_into().unwrap_or_default())
    }
}
