//! Reports to systemd and the log whether workloads are served, and why not.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use tokio::time::timeout;

use crate::readiness::ActiveReason;
use crate::readiness::Readiness;
use crate::readiness::Severity;

/// How soon a message to systemd that failed is sent again.
const AGAIN: Duration = Duration::from_secs(2);
/// Characters of a status: systemd ignores a message of more than 4,096 bytes.
const LONGEST_STATUS: usize = 1000;

/// Says `READY=1` at once, for the sockets answer, and the state in `STATUS=`, again at every change. Never ends.
///
/// SPEC: product contract §6: whatever the daemon waits for, it holds up no boot, so it never asks systemd for more time.
pub(in crate::agent) async fn report_readiness(readiness: Readiness) {
    let mut reasons = readiness.watch();
    let mut logged: Option<String> = None;
    let mut sent: Option<String> = None;
    let mut failing = false;
    loop {
        let now = reasons.borrow_and_update().clone();
        let why = details(&now, Severity::NotReady);
        if logged.as_ref() != Some(&why) {
            if why.is_empty() {
                tracing::info!("ready")
            } else {
                tracing::warn!(why, "not ready")
            }
            logged = Some(why);
        }
        let status = status(&now);
        if sent.as_ref() != Some(&status) {
            let ready = if sent.is_none() { "READY=1\n" } else { "" };
            match notify_systemd(format!("{ready}STATUS={status}")).await {
                Ok(()) => (sent, failing) = (Some(status), false),
                Err(why) if !failing => {
                    tracing::warn!(%why, "systemd could not be notified; trying again every 2 s");
                    failing = true;
                }
                Err(_) => {}
            }
        }
        let patience = if failing { AGAIN } else { Duration::MAX };
        let _changed_or_again = timeout(patience, reasons.changed()).await;
    }
}

/// The state in one line.
///
/// SECURITY: a line break would begin another assignment of the message, and a detail may repeat text of a file.
fn status(reasons: &[ActiveReason]) -> String {
    let worst = reasons.iter().map(|reason| reason.severity).max();
    let state = match worst {
        None => "serving".to_owned(),
        Some(Severity::Degraded) => format!("degraded: {}", details(reasons, Severity::Degraded)),
        Some(Severity::NotReady) => format!("not ready: {}", details(reasons, Severity::NotReady)),
    };
    state.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_STATUS).collect()
}

/// The details of the reasons of one severity; empty when there is none.
fn details(reasons: &[ActiveReason], severity: Severity) -> String {
    let reasons = reasons.iter().filter(|reason| reason.severity == severity);
    reasons.map(|reason| reason.detail.as_str()).collect::<Vec<_>>().join("; ")
}

/// Sends a message to systemd; without systemd there is nobody to send it to. Waits for room in systemd's queue, on a
/// thread that serves nobody.
pub(in crate::agent) async fn notify_systemd(message: String) -> io::Result<()> {
    tokio::task::spawn_blocking(move || notify(&message)).await?
}

/// SPEC: sd_notify(3): an `@` at the beginning stands for the zero byte of an abstract name.
fn notify(message: &str) -> io::Result<()> {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let socket = UnixDatagram::unbound()?;
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(&name)?,
    }
    socket.send(message.as_bytes()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(reasons: &[(Severity, &str)]) -> String {
        let reasons = reasons.iter().map(|&(severity, detail)| ActiveReason {
            name: "a name".to_owned(),
            severity,
            detail: detail.to_owned(),
        });
        status(&reasons.collect::<Vec<_>>())
    }

    #[test]
    fn the_status_names_the_worst_state_and_its_reasons() {
        let (degraded, not_ready) = (Severity::Degraded, Severity::NotReady);
        assert_eq!(said(&[]), "serving");
        assert_eq!(said(&[(degraded, "no room"), (degraded, "a typo")]), "degraded: no room; a typo");
        assert_eq!(said(&[(degraded, "no room"), (not_ready, "no keys")]), "not ready: no keys");
    }

    #[test]
    fn a_detail_of_many_lines_becomes_a_status_of_one_short_line() {
        assert_eq!(said(&[(Severity::Degraded, "a\nREADY=1\r\nb")]), "degraded: a READY=1  b");
        assert!(said(&[(Severity::Degraded, &"\u{10ffff}".repeat(5000))]).len() < 4000);
    }
}
