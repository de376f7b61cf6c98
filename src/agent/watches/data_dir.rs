//! Notices that a data directory which took no writes at the start takes them again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::durable::DataDir;
use crate::readiness::Reason;

/// How often it is tried.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// Tries the directory until it takes a write, and clears the reason then. Never ends.
pub(in crate::agent) async fn watch_data_dir(unwritable: Option<(Arc<DataDir>, Reason)>) {
    if let Some((data_dir, reason)) = unwritable {
        loop {
            sleep(TRY_AGAIN).await;
            let probed = data_dir.clone();
            if let Ok(Ok(())) = tokio::task::spawn_blocking(move || probed.probe()).await {
                break;
            }
        }
        reason.clear();
        tracing::info!("{} takes writes again", data_dir.path().display());
    }
    std::future::pending().await
}
