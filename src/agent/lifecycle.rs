//! Waits for the stop and for the end of every task, with one deadline.

use std::time::Duration;

use tokio::task::JoinError;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long open work may take to finish after a stop was asked for (SPEC: product contract §7).
pub const GRACE: Duration = Duration::from_secs(4);

/// Why the daemon ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// A part that runs as long as the daemon does has ended.
    #[error("a part of the daemon ended before it was told to; this is a bug: please report it with the log above")]
    EndedEarly,
    /// A part panicked.
    #[error("a part of the daemon panicked: {0}; this is a bug: please report it with the log above")]
    Panicked(JoinError),
    /// A door failed in a way that it cannot repair.
    #[error("a door of the daemon failed: {0}")]
    Door(String),
}

/// Waits for a stop or for the first part that ends, stops all others, and waits for them until the deadline.
///
/// # Errors
/// [`Fatal`] when a part ended although nobody asked.
pub async fn run_until_stopped(
    mut tasks: JoinSet<Result<(), Fatal>>,
    stop: CancellationToken,
    grace: Duration,
) -> Result<(), Fatal> {
    let outcome = tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        Some(ended) = tasks.join_next() => Err(match ended {
            Ok(Ok(())) => Fatal::EndedEarly,
            Ok(Err(fatal)) => fatal,
            Err(panic) => Fatal::Panicked(panic),
        }),
    };
    stop.cancel();
    let drained = async { while tasks.join_next().await.is_some() {} };
    if timeout(grace, drained).await.is_err() {
        tracing::warn!(left = tasks.len(), "stopped with work unfinished");
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_part_that_ends_early_stops_all_others() {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let told = stop.clone();
        tasks.spawn(async move {
            told.cancelled().await;
            Ok(())
        });
        tasks.spawn(async { Ok(()) });
        assert!(matches!(run_until_stopped(tasks, stop, GRACE).await, Err(Fatal::EndedEarly)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_does_not_stop_is_left_behind_at_the_deadline() {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(std::future::pending());
        stop.cancel();
        let begun = tokio::time::Instant::now();
        assert!(run_until_stopped(tasks, stop, GRACE).await.is_ok());
        assert_eq!(begun.elapsed(), GRACE);
    }
}
