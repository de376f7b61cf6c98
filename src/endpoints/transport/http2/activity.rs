//! Whether streams are open on a connection, and since when none is: what its idle timeout goes by.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use crate::fairness::budgets::StreamCharge;

/// The activity of one connection.
#[derive(Debug, Default)]
pub(super) struct Activity(Mutex<ActivityState>);

#[derive(Debug, Clone, Copy, Default)]
enum ActivityState {
    #[default]
    AwaitingFirstRequest,
    /// How many streams are open.
    Open(usize),
    Idle {
        since: Instant,
    },
}

/// An open stream; counted, and charged, until dropped.
pub(super) struct OpenStream {
    activity: Arc<Activity>,
    _charge: Option<StreamCharge>,
}

impl Activity {
    /// Counts a stream. One that is refused has no charge.
    pub(super) fn open(self: &Arc<Self>, charge: Option<StreamCharge>) -> OpenStream {
        let mut state = self.state();
        *state = ActivityState::Open(if let ActivityState::Open(streams) = *state { streams + 1 } else { 1 });
        OpenStream { activity: Arc::clone(self), _charge: charge }
    }

    /// Whether a stream is open.
    pub(super) fn is_open(&self) -> bool {
        matches!(*self.state(), ActivityState::Open(_))
    }

    fn state(&self) -> MutexGuard<'_, ActivityState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        *state = match *state {
            ActivityState::Open(streams @ 2..) => ActivityState::Open(streams - 1),
            _ => ActivityState::Idle { since: Instant::now() },
        };
    }
}

/// How long a connection may have no stream, counted from `since` at the earliest.
pub(super) struct IdleLimits {
    pub(super) since: Instant,
    pub(super) first_request: Duration,
    pub(super) idle: Duration,
}

/// Which limit was reached.
#[derive(PartialEq, Eq)]
pub(super) enum TimedOut {
    FirstRequest,
    Idle,
}

/// Resolves when a connection had no stream for too long. Streams do not wake it: it checks again when the time could be
/// over, which costs a connection less than two wakes for each stream.
pub(super) async fn idle_timeout(activity: &Activity, limits: &IdleLimits) -> TimedOut {
    loop {
        let (deadline, timed_out) = match *activity.state() {
            ActivityState::AwaitingFirstRequest => (limits.since + limits.first_request, TimedOut::FirstRequest),
            ActivityState::Open(_) => (Instant::now() + limits.idle, TimedOut::Idle),
            ActivityState::Idle { since } => (since.max(limits.since) + limits.idle, TimedOut::Idle),
        };
        if deadline <= Instant::now() {
            return timed_out;
        }
        tokio::time::sleep_until(deadline).await;
    }
}
