//! Tells systemd and the log whether workloads are served, and why not.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::timeout;

use crate::readiness::ActiveReason;
use crate::readiness::Readiness;
use crate::readiness::Severity;

/// How often systemd is asked for more time while the start waits for something, and for how much.
const ASK_AGAIN: Duration = Duration::from_secs(2);
const MORE_TIME: u32 = 10_000_000;

/// Says `READY=1` once workloads are served (SPEC: product contract §4), and at every change what stands in the way.
/// A start may have to wait for somebody to set the clock, so systemd is asked for more time until then. Never ends.
pub(in crate::agent) async fn tell_of_readiness(readiness: Readiness) {
    let mut reasons = readiness.watch();
    let mut told: Option<String> = None;
    let mut served = false;
    loop {
        let why = in_the_way(&reasons.borrow_and_update());
        let ready = why.is_empty();
        let mut status = None;
        if told.as_ref() != Some(&why) {
            if ready {
                tracing::info!("ready")
            } else {
                tracing::warn!(why, "not ready")
            }
            status = Some(if ready { "serving".to_owned() } else { why.clone() });
        }
        let awaited = if ready { NotifyState::Ready } else { NotifyState::ExtendTimeoutUsec(MORE_TIME) };
        // Without a descriptor for it, it is told again.
        served |= tell_systemd(status, (!served).then_some(awaited)).await && ready;
        told = Some(why);
        let patience = if served { Duration::MAX } else { ASK_AGAIN };
        let _changed_or_asked_again = timeout(patience, reasons.changed()).await;
    }
}

/// The details of what keeps workloads from being served; empty when nothing does.
fn in_the_way(reasons: &[ActiveReason]) -> String {
    let in_the_way = reasons.iter().filter(|reason| reason.severity == Severity::NotReady);
    in_the_way.map(|reason| reason.detail.as_str()).collect::<Vec<_>>().join("; ")
}

/// Whether it was told; without systemd there is nobody to tell. Waits for room in systemd's queue, on a thread that
/// serves nobody.
pub(in crate::agent) async fn tell_systemd(status: Option<String>, state: Option<NotifyState<'static>>) -> bool {
    if status.is_none() && state.is_none() {
        return true;
    }
    let told = tokio::task::spawn_blocking(move || {
        let what: Vec<_> = status.as_deref().map(NotifyState::Status).into_iter().chain(state).collect();
        sd_notify::notify(&what)
    });
    let told = told.await.unwrap_or_else(|why| Err(why.into()));
    told.inspect_err(|why| tracing::warn!(%why, "systemd could not be told")).is_ok()
}
