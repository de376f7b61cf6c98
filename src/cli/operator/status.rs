//! `bonafide status`: the daemon on one screen.

use std::time::Duration;

use http::Method;

use crate::cli::operator::client::ask;
use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::screen::OutputArguments;
use crate::cli::screen::Screen;
use crate::cli::sockets::AdminSocket;
use crate::cli::words::count;
use crate::cli::words::from_now;
use crate::cli::words::note;
use crate::cli::words::printable;
use crate::cli::words::row;
use crate::cli::words::word;
use crate::endpoints::admin::reports::AttestorStatus;
use crate::endpoints::admin::reports::AuthorityStatus;
use crate::endpoints::admin::reports::BundleStatus;
use crate::endpoints::admin::reports::ErrorReport;
use crate::endpoints::admin::reports::HealthState;
use crate::endpoints::admin::reports::ReloadState;
use crate::endpoints::admin::reports::ReplacedStatus;
use crate::endpoints::admin::reports::StatusReport;
use crate::evidence::Level;
use crate::time::duration::rounded;

/// Show the state of the daemon
#[derive(Debug, clap::Args)]
pub struct StatusArguments {
    #[command(flatten)]
    socket: AdminSocket,
    #[command(flatten)]
    output: OutputArguments,
}

pub(in crate::cli) fn run(arguments: &StatusArguments, screen: &mut Screen) -> Result<Exit, Failure> {
    let none = |problem: ErrorReport| {
        Failure::new(Exit::No, "there is no status", printable(&problem.detail), "journalctl -u bonafide")
    };
    let report: StatusReport = ask(&arguments.socket.path()?, Method::GET, "/v1/status", none)?;
    let exit = match report.state {
        HealthState::Healthy => Exit::Fine,
        HealthState::Degraded => Exit::Stale,
        HealthState::NotReady => Exit::No,
    };
    let state = Screen::coloured(&word(&report.state).replace('_', " "), exit);
    screen.answer(arguments.output, &report, |report| state + &text(report));
    Ok(exit)
}

/// The screen, but for its first word.
fn text(report: &StatusReport) -> String {
    let StatusReport { sampled_at: now, .. } = *report;
    let up = rounded(Duration::from_secs(report.uptime_seconds));
    let mut text = format!(" - bonafide {}, trust domain {}, up {up}\n\n", report.version, report.trust_domain);
    text += &row("authority", &authority(&report.authority, now));
    text += &row("kernel", level(report.level));
    text += &row("identities", &identities(report));
    text += &row("refused", &refused(report));
    for bundle in &report.bundles {
        text += &row("bundle", &bundle_line(bundle));
    }
    for attestor in &report.attestors {
        text += &row("attestor", &attestor_line(attestor));
    }
    let configuration = &report.configuration;
    let in_force = match configuration.state {
        ReloadState::Current => "as on disk",
        ReloadState::LastGood => "as last accepted, because the files are bad",
        ReloadState::HeldBack => "as before a change that waits for bonafide reload",
        ReloadState::AwaitsRestart => "as before a change that needs a restart",
    };
    let accepted = from_now(configuration.accepted_at, now);
    text += &row("config", &format!("{}, {in_force}, accepted {accepted}", printable(&configuration.file)));
    for socket in &report.sockets {
        let mode = socket.mode.as_deref().map(|mode| format!(", mode {mode}")).unwrap_or_default();
        text += &row("socket", &format!("{} {}{mode}", socket.door, printable(&socket.address)));
    }
    let notes = notes(report);
    if !notes.is_empty() {
        text += "\nNotes\n";
        text.extend(notes.iter().map(|(title, detail)| note(title, detail)));
    }
    text
}

fn authority(authority: &AuthorityStatus, now: f64) -> String {
    let life = authority.not_after.map_or_else(
        || "has no keys yet".to_owned(),
        |at| format!("{} {}", if at > now { "ends" } else { "ended" }, from_now(at, now)),
    );
    let rotation = |at| match from_now(at, now) {
        later if at >= now => format!("; next rotation {later}"),
        ago => format!("; a rotation was due {ago}"),
    };
    let rotation = authority.next_rotation_at.map(rotation).unwrap_or_default();
    format!("{}, {life}{rotation}", printable(&authority.kind))
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Full => "full: callers are pinned, their facts come from the pin",
        Level::Pinned => "pinned: callers are pinned, their facts are read between two checks",
        Level::Reduced => "reduced: callers are pinned late; path and hash prove too little",
    }
}

fn identities(report: &StatusReport) -> String {
    let identities = &report.identities;
    let connections = count(identities.connections as u64, "connection", "connections");
    let entries = count(identities.entries as u64, "entry", "entries");
    let mut text = format!("{} live on {connections}, from {entries}", identities.live);
    if let Some(at) = identities.next_renewal_at {
        text += &format!("; next renewal {}", from_now(at, report.sampled_at));
    }
    text
}

fn refused(report: &StatusReport) -> String {
    let denials = count(report.last_hour.denials, "denial", "denials");
    let undecided: u64 = report.last_hour.undecided.values().sum();
    let mut text = format!("{denials} and {undecided} undecided in the last hour");
    for (cause, number) in &report.last_hour.undecided {
        text += &format!("; {} {number}", printable(cause));
    }
    text
}

fn bundle_line(bundle: &BundleStatus) -> String {
    let certificates = count(bundle.x509_authorities as u64, "certificate", "certificates");
    let keys = count(bundle.jwt_authorities as u64, "token key", "token keys");
    let mut text = format!("{}, {certificates}, {keys}", bundle.trust_domain);
    if let Some(sequence) = bundle.sequence {
        text += &format!(", sequence {sequence}");
    }
    text
}

fn attestor_line(attestor: &AttestorStatus) -> String {
    let mut text = printable(&attestor.name);
    text += ", ready";
    if let (Some(median), Some(worst)) = (attestor.median_microseconds, attestor.worst_microseconds) {
        text += &format!(", median {median} us, worst {worst} us");
    }
    text
}

/// Everything that is not as it should be, and what the operator may want to know.
fn notes(report: &StatusReport) -> Vec<(String, String)> {
    let mut notes: Vec<_> = report.reasons.iter().map(|reason| (reason.name.clone(), reason.detail.clone())).collect();
    if report.identities.renewals_failed > 0 {
        let failed = count(report.identities.renewals_failed, "renewal", "renewals");
        let served = if report.identities.live > 0 { "; what is live is still served" } else { "" };
        notes.push(("renewal".to_owned(), format!("{failed} failed since the start{served}")));
    }
    if report.log.dropped_lines > 0 {
        let lines = count(report.log.dropped_lines, "line was", "lines were");
        let records = match report.log.dropped_records {
            0 => "no audit record among them".to_owned(),
            lost => format!("{} among them", count(lost, "audit record", "audit records")),
        };
        notes
            .push(("log".to_owned(), format!("{lines} dropped, because standard output did not take them; {records}")));
    }
    if report.log.suppressed_lines > 0 {
        let lines = count(report.log.suppressed_lines, "line was", "lines were");
        notes.push(("log".to_owned(), format!("{lines} not written, because callers cause the same again and again")));
    }
    if report.log.suppressed_records > 0 {
        let refusals = count(report.log.suppressed_records, "refusal was", "refusals were");
        notes.push(("log".to_owned(), format!("{refusals} counted in another record instead of written")));
    }
    notes.extend(report.replaced.iter().map(replaced));
    notes.extend(report.notes.iter().map(|note| (String::new(), note.clone())));
    notes
}

/// A process that has to be restarted before the daemon is.
fn replaced(program: &ReplacedStatus) -> (String, String) {
    let ReplacedStatus { pid, unit, program, loses, keeps, .. } = program;
    let unit = unit.as_deref().map(|unit| format!("{unit}, ")).unwrap_or_default();
    let what = if keeps.is_empty() { "has no identity".to_owned() } else { format!("loses {}", loses.join(", ")) };
    let advice = format!("runs a replaced file: restart it, or it {what} after bonafide's next restart");
    ("replaced".to_owned(), format!("{unit}pid {pid}, {program}, {advice}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::words::COLUMNS;

    fn report(change: impl FnOnce(&mut serde_json::Value)) -> StatusReport {
        let mut report = json!({
            "state": "healthy", "version": "0.1.0", "trust_domain": "example.org",
            "sampled_at": 1_700_000_000.0, "uptime_seconds": 11_520, "level": "full",
            "authority": { "kind": "embedded", "not_after": 1_700_603_000.0, "next_rotation_at": 1_700_300_600.0 },
            "bundles": [{ "trust_domain": "example.org", "x509_authorities": 1, "jwt_authorities": 2, "sequence": 3 }],
            "identities": { "entries": 12, "connections": 40, "live": 42, "next_renewal_at": 1_700_000_180.0,
                            "next_expiry_at": null, "renewals_failed": 0 },
            "attestors": [{ "name": "host", "median_microseconds": 61, "worst_microseconds": 410 }],
            "last_hour": { "denials": 3, "undecided": {} },
            "configuration": { "file": "/etc/bonafide/bonafide.toml", "state": "current",
                               "accepted_at": 1_699_989_000.0 },
            "sockets": [{ "door": "workload", "address": "unix:/run/bonafide/workload.sock", "mode": "0666" }],
            "log": { "dropped_lines": 0, "suppressed_records": 0 },
            "reasons": [], "notes": []
        });
        change(&mut report);
        serde_json::from_value(report).unwrap()
    }

    #[test]
    fn a_healthy_status_fits_one_screen() {
        assert_eq!(
            text(&report(|_| ())),
            " - bonafide 0.1.0, trust domain example.org, up 3h 12m\n\n\
             authority   embedded, ends in 6d 23h; next rotation in 3d 11h\n\
             kernel      full: callers are pinned, their facts come from the pin\n\
             identities  42 live on 40 connections, from 12 entries; next renewal in 3m 0s\n\
             refused     3 denials and 0 undecided in the last hour\n\
             bundle      example.org, 1 certificate, 2 token keys, sequence 3\n\
             attestor    host, ready, median 61 us, worst 410 us\n\
             config      /etc/bonafide/bonafide.toml, as on disk, accepted 3h 3m ago\n\
             socket      workload unix:/run/bonafide/workload.sock, mode 0666\n"
        );
    }

    #[test]
    fn a_rotation_that_is_overdue_is_not_announced_for_later() {
        let text = text(&report(|report| report["authority"]["next_rotation_at"] = 1_699_999_820.0.into()));
        assert!(text.contains("embedded, ends in 6d 23h; a rotation was due 3m 0s ago\n"), "{text}");
    }

    #[test]
    fn nothing_is_called_served_once_nothing_is_live() {
        let after_the_end = |live: usize| {
            text(&report(|report| {
                report["authority"]["not_after"] = 1_699_999_940.0.into();
                report["identities"]["renewals_failed"] = 2.into();
                report["identities"]["live"] = live.into();
            }))
        };
        assert!(after_the_end(1).contains("2 renewals failed since the start; what is live is still served"));
        let none = after_the_end(0);
        assert!(none.contains("2 renewals failed since the start\n") && !none.contains("served"), "{none}");
        assert!(none.contains("embedded, ended 1m 0s ago"), "{none}");
    }

    #[test]
    fn a_process_that_runs_a_replaced_file_is_named_with_what_it_loses_and_when() {
        let program = |keeps: serde_json::Value| {
            json!([{ "pid": 4121, "uid": 1000, "unit": "web.service", "program": "/usr/bin/web",
                     "loses": ["spiffe://example.org/web"], "keeps": keeps }])
        };
        let of = |keeps| text(&report(|report| report["replaced"] = program(keeps))).replace("\n            ", " ");
        let all = of(json!([]));
        let expected = "replaced    web.service, pid 4121, /usr/bin/web, runs a replaced file: restart it, or it has no \
                        identity after bonafide's next restart\n";
        assert!(all.contains(expected), "{all}");
        let one = of(json!(["spiffe://example.org/metrics"]));
        assert!(one.contains("or it loses spiffe://example.org/web after bonafide's next restart\n"), "{one}");
    }

    #[test]
    fn faults_are_in_the_notes_and_stay_within_the_screen() {
        let text = text(&report(|report| {
            report["reasons"] = json!([{ "name": "configuration", "severity": "degraded",
                "detail": "bonafide.toml:3:1: unknown key \"trust\u{1b}[2J\"; did you mean trust_domain?\n".repeat(3) }]);
            report["log"] =
                json!({ "dropped_lines": 7, "dropped_records": 2, "suppressed_records": 0, "suppressed_lines": 3 });
            report["identities"]["renewals_failed"] = 1.into();
        }));
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
        for said in [
            "configuration bonafide.toml:3:1",
            "7 lines were dropped",
            "audit records among",
            "3 lines were not",
            "1 renewal failed",
            "trust\\u{1b}[2J",
        ] {
            assert!(text.contains(said), "{said:?} in\n{text}");
        }
    }
}
