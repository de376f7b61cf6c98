//! How many frames that carry nothing a connection may send: 500 a second, and one for each frame with something in it
//! that we sent. SECURITY: SETTINGS, PING, PRIORITY, WINDOW_UPDATE, RST_STREAM and empty DATA cost the sender nothing and
//! the receiver an answer or a queue entry each. An honest client sends them in answer to our HEADERS and DATA. Our own
//! answers to its control frames must earn it nothing, or every PING would pay for the next.

use tokio::time::Instant;

/// Control frames a second, and in a burst.
pub(super) const CONTROL_FRAMES: u32 = 500;
/// What a reset costs beyond a control frame: a stream that was opened for nothing.
const RESET_SURCHARGE: u32 = 4;
/// The most frames of ours that may still be answered.
const MOST_EARNED: u32 = 4096;

/// The budget is used up; the connection must be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client sends more control frames than it may")]
pub(super) struct TooManyControlFrames;

/// One connection's budget.
#[derive(Debug)]
pub(super) struct FrameBudget {
    left: u32,
    earned: u32,
    filled: Instant,
}

impl FrameBudget {
    /// A full budget.
    #[must_use]
    pub(super) fn full(now: Instant) -> Self {
        Self { left: CONTROL_FRAMES, earned: 0, filled: now }
    }

    /// Counts frames with something in them that we sent.
    pub(super) fn earn(&mut self, frames: u32) {
        self.earned = self.earned.saturating_add(frames).min(MOST_EARNED);
    }

    /// Charges control frames, of which some are resets.
    ///
    /// # Errors
    /// [`TooManyControlFrames`]
    pub(super) fn spend(&mut self, control: u32, resets: u32, now: Instant) -> Result<(), TooManyControlFrames> {
        if control == 0 {
            return Ok(());
        }
        let refill = now.duration_since(self.filled).as_millis().saturating_mul(u128::from(CONTROL_FRAMES)) / 1000;
        if refill > 0 {
            let refill = u32::try_from(refill).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(refill).min(CONTROL_FRAMES);
            self.filled = now;
        }
        let cost = control.saturating_add(resets.saturating_mul(RESET_SURCHARGE));
        let answered = cost.min(self.earned);
        self.earned -= answered;
        self.left = self.left.checked_sub(cost - answered).ok_or(TooManyControlFrames)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn five_hundred_a_second_pass_and_one_more_does_not() {
        let start = Instant::now();
        let mut budget = FrameBudget::full(start);
        assert_eq!(budget.spend(500, 0, start), Ok(()));
        assert_eq!(budget.spend(1, 0, start), Err(TooManyControlFrames));
        assert_eq!(budget.spend(500, 0, start + Duration::from_secs(1)), Ok(()));
        assert_eq!(budget.spend(1, 0, start + Duration::from_secs(1)), Err(TooManyControlFrames));
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_of_ours_may_be_answered_without_charge() {
        let start = Instant::now();
        let mut budget = FrameBudget::full(start);
        budget.earn(300);
        assert_eq!(budget.spend(800, 0, start), Ok(()));
        assert_eq!(budget.spend(1, 0, start), Err(TooManyControlFrames));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_streams_cancelled_at_once_pass_and_rapid_resets_do_not() {
        let start = Instant::now();
        let mut budget = FrameBudget::full(start);
        assert_eq!(budget.spend(100, 100, start), Ok(()));
        assert_eq!(budget.spend(1, 1, start), Err(TooManyControlFrames));
    }
}
