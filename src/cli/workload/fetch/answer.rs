//! What the answers of the three commands have in common.

use std::time::Duration;

use crate::cli::screen::Failure;
use crate::cli::words::from_now;
use crate::cli::words::now;
use crate::cli::words::printable;
use crate::cli::workload::client::certificates;
use crate::cli::workload::fetch::files::pem;

/// How long the daemon may take.
pub(in crate::cli::workload::fetch) const ANSWER_TIME: Duration = Duration::from_secs(30);

/// An identity, as the first line about it says it.
pub(in crate::cli::workload::fetch) fn titled(spiffe_id: &str, hint: &str) -> String {
    let hint = if hint.is_empty() { String::new() } else { format!(" (hint {})", printable(hint)) };
    printable(spiffe_id) + &hint
}

/// When it ends, in seconds since 1970, as a person says it.
#[allow(clippy::cast_precision_loss, reason = "a date in seconds is far below 2^52")]
pub(in crate::cli::workload::fetch) fn ends(not_after: i64) -> String {
    from_now(not_after as f64, now())
}

/// The certificates in concatenated DER, each as PEM.
pub(in crate::cli::workload::fetch) fn pems(der: &[u8]) -> Result<Vec<String>, Failure> {
    Ok(certificates(der)?.into_iter().map(|one| pem("CERTIFICATE", one).to_string()).collect())
}
