//! Notices within a second that the wall clock has stepped, or that the machine was suspended: wall clock and monotonic
//! clock, by which all timers run, have then moved by different lengths.

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use tokio::time::Instant;
use tokio::time::MissedTickBehavior;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::time::Clock;
use crate::time::duration::exact;

/// How often the two clocks are compared.
const PERIOD: Duration = Duration::from_secs(1);

/// A difference below this is slewing, or a late wake-up.
const TOLERATED: Duration = Duration::from_millis(500);

/// Compares the clocks until `stop`, and calls `stepped` with a sentence for the operator at every step.
pub async fn watch_clock(clock: Arc<dyn Clock>, stepped: impl Fn(&str), stop: CancellationToken) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = (clock.now(), ticks.tick().await);
    loop {
        let monotonic = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => Instant::now(),
        };
        let wall = clock.now();
        if let Some(sentence) = step(before.0, wall, monotonic.duration_since(before.1)) {
            stepped(&sentence);
        }
        before = (wall, monotonic);
    }
}

/// The step between two readings of the wall clock that lie `apart` on the monotonic one.
fn step(before: SystemTime, after: SystemTime, apart: Duration) -> Option<String> {
    let expected = before + apart;
    let (by, direction) = match after.duration_since(expected) {
        Ok(ahead) => (ahead, "forward"),
        Err(behind) => (behind.duration(), "back"),
    };
    (by > TOLERATED).then(|| format!("the clock moved {direction} by {}", exact(whole_seconds(by))))
}

fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs_f64().round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_from_the_passing_of_time() {
        let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let second = Duration::from_secs(1);
        assert_eq!(step(noon, noon + second, second), None);
        assert_eq!(step(noon, noon + second * 61, second).as_deref(), Some("the clock moved forward by 1m"));
        assert_eq!(step(noon, noon - second * 3599, second).as_deref(), Some("the clock moved back by 1h"));
    }
}
