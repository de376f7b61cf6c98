//! The wall clock, and dates and durations as text. Owns the only reading of the real wall clock in the crate; everything above
//! takes `now` as an argument or a [`Clock`]. Intervals use [`tokio::time`], which a test can pause.

pub mod date;
pub mod duration;

use std::time::SystemTime;

/// Where the wall-clock time comes from.
///
/// The machine's clock may step in either direction at any moment; nothing may assume that two readings are ordered.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The wall-clock time at this moment.
    fn now(&self) -> SystemTime;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place where the wall clock is read")]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}
