//! `bonafide explain`: everything that a decision depends on.

use std::time::Duration;

use http::Method;
use procfs::Current;
use procfs::Uptime;
use procfs::process::Process;

use crate::attestation::host::sighting::Sighting;
use crate::attestation::kernel::Ids;
use crate::cli::operator::client::ask;
use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::screen::OutputArguments;
use crate::cli::screen::Screen;
use crate::cli::sockets::AdminSocket;
use crate::cli::words::count;
use crate::cli::words::printable;
use crate::cli::words::word;
use crate::cli::words::wrap;
use crate::endpoints::admin::reports::ErrorReport;
use crate::endpoints::admin::reports::ExplainOutcome;
use crate::endpoints::admin::reports::ExplainReport;
use crate::evidence::Answer;
use crate::evidence::EvidenceSet;
use crate::evidence::Grade;
use crate::evidence::Selector;
use crate::evidence::SelectorKind;
use crate::policy::Considered;
use crate::time::duration::rounded;

/// The words of a report, and what ends with which exit code.
const WORDS: &str = "\
pinned     how well it is proven which process this is: full, pinned, reduced
withheld   such a fact does not count: the process could have forged it, or it
           could not be proven
pending    its source is still finding out
undecided  a check could not be completed; the caller may retry

Example: bonafide explain 4121
Exit codes: 0 permitted, or the decision was found; 1 undecided, or nothing to
explain; 2 wrong usage; 3 no daemon; 4 denied";

/// Show why a process gets an identity, or none
#[derive(Debug, clap::Args)]
#[command(after_help = WORDS, group = clap::ArgGroup::new("whom").required(true))]
pub struct ExplainArguments {
    /// The process, as it is now
    #[arg(group = "whom")]
    pid: Option<u32>,
    /// A decision that was made: the d-... that a refused caller was told
    #[arg(long, value_name = "ID", group = "whom")]
    denial: Option<String>,
    #[command(flatten)]
    socket: AdminSocket,
    #[command(flatten)]
    output: OutputArguments,
}

/// What the grade means.
const CLAIMED: &str = "claimed: chosen by whoever starts the process. It tells the programs of one user apart, against \
                       mistakes, and does not stop hostile code of that same user.";

/// The columns of a selector on the screen.
const SELECTOR: usize = 45;

pub(in crate::cli) fn run(arguments: &ExplainArguments, screen: &mut Screen) -> Result<Exit, Failure> {
    let question = match (&arguments.denial, arguments.pid) {
        (Some(id), _) => format!("/v1/explain?denial={}", decision_id(id)?),
        (None, pid) => format!("/v1/explain?pid={}", pid.unwrap_or_default()),
    };
    // RACE: opened before the daemon pins the process and read after that: where the number has passed to another process
    // in between, the reading fails.
    let process = arguments.pid.and_then(|pid| Process::new(i32::try_from(pid).ok()?).ok());
    let report: ExplainReport = ask(&arguments.socket.path()?, Method::GET, &question, not_explained)?;
    let running = process.and_then(|process| running(&process, report.peer.uid));
    screen.answer(arguments.output, &report, |report| text(report, running.as_deref()));
    Ok(match report.result {
        _ if arguments.denial.is_some() => Exit::Fine,
        ExplainOutcome::Permitted { .. } => Exit::Fine,
        ExplainOutcome::Denied { .. } => Exit::Denied,
        ExplainOutcome::Undecided { .. } => Exit::No,
    })
}

/// The id, if it has the form of one.
fn decision_id(text: &str) -> Result<&str, Failure> {
    let digits = text.strip_prefix("d-").unwrap_or_default();
    if !digits.is_empty() && digits.len() <= 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text);
    }
    Err(Failure::new(
        Exit::Usage,
        format!("{text:?} is not the id of a decision"),
        "an id is d- and hexadecimal digits, as the refused caller was told",
        "bonafide explain --denial d-7f31c2a90b4e",
    ))
}

fn not_explained(problem: ErrorReport) -> Failure {
    let next = match problem.error.as_str() {
        "no_such_process" => "pgrep NAME",
        "unknown_decision" => "journalctl -u bonafide | grep d-..., or bonafide explain PID while it runs",
        _ => "bonafide status",
    };
    Failure::new(Exit::No, "there is nothing to explain", printable(&problem.detail), next)
}

/// What the kernel shows everybody of a process, so that an operator sees whether it is the right one. `None` where it is
/// not of the user that the daemon saw: in another PID namespace than the daemon's the number is another process's.
fn running(process: &Process, uid: u32) -> Option<String> {
    let (status, stat) = (process.status().ok()?, process.stat().ok()?);
    let begun = stat.starttime as f64 / procfs::ticks_per_second() as f64;
    let age = Duration::try_from_secs_f64(Uptime::current().ok()?.uptime - begun).unwrap_or_default();
    let state = status.state.split(['(', ')']).nth(1).unwrap_or_default();
    let threads = count(status.threads, "thread", "threads");
    let text = format!("{}, {state}, {threads}, started {} ago", printable(&status.name), rounded(age));
    [status.ruid, status.euid].contains(&uid).then_some(text)
}

fn text(report: &ExplainReport, running: Option<&str>) -> String {
    let peer = report.peer;
    let mut text =
        format!("process {}, uid {}, gid {}, pinned {}\n", peer.pid, peer.uid, peer.gid, word(&report.level));
    if let Some(running) = running {
        text += &format!("{running}\n");
    }
    if let Some(decision) = &report.decision {
        text += &format!("decision {}\n", printable(decision));
    }
    text += &evidence(&report.evidence);
    text += &seen(&report.seen);
    if !report.evidence.facts().is_empty() {
        text += &entries(report);
    }
    text += &format!("\nResult\n  {}\n", wrap(&printable(&result(&report.result)), 2, 2));
    if let Some(nearest) = &report.nearest_miss {
        text += &format!("\nNearest miss\n{}", considered(nearest));
    }
    if let Some(suggestion) = &report.suggestion {
        text += "\nAn entry for this process\n";
        for line in suggestion.lines() {
            text += &format!("  {}\n", printable(line));
        }
    }
    text
}

fn evidence(evidence: &EvidenceSet) -> String {
    let mut text = "\nEvidence\n".to_owned();
    for fact in evidence.facts() {
        let selector = printable(&fact.selector.to_string());
        let how = format!("{:<8} {}", word(&fact.grade), word(&fact.source).replace('_', " "));
        // A selector that fills its column has a line of its own, so that the next two stay columns.
        let gap = if selector.chars().count() > SELECTOR { format!("\n  {:SELECTOR$}", "") } else { String::new() };
        text += &format!("  {selector:<SELECTOR$}{gap} {how}\n");
    }
    if evidence.further_groups() > 0 {
        let line = format!("and {} more supplementary groups, which no entry named", evidence.further_groups());
        text += &format!("  {}\n", wrap(&line, 2, 4));
    }
    if evidence.facts().iter().any(|fact| fact.grade == Grade::Claimed) {
        text += &format!("  {}\n", wrap(CLAIMED, 2, 4));
    }
    for withheld in evidence.withheld() {
        let seen = withheld.seen.as_deref().map(|seen| format!(" {}", printable(seen))).unwrap_or_default();
        let line = format!("{}{seen} withheld: {}", withheld.kind.as_str(), withheld.because);
        text += &format!("  {}\n", wrap(&line, 2, 4));
    }
    for (provider, answer) in evidence.answers() {
        let line = match answer {
            Answer::Settled => continue,
            Answer::Pending => format!("{provider} pending: it is still finding out"),
            Answer::Undecided(why) => format!("{provider} undecided: {why}"),
        };
        text += &format!("  {}\n", wrap(&printable(&line), 2, 4));
    }
    let unasked = |kind: &SelectorKind| kind.provider().is_some_and(|provider| evidence.answer_of(&provider).is_none());
    match evidence.facts() {
        [] => text += "  none was read for this refusal\n",
        _ => {
            for kind in [SelectorKind::UnixPath, SelectorKind::UnixSha256].into_iter().filter(unasked) {
                text += &format!("  {} was not looked at: no entry could use it\n", kind.as_str());
            }
        }
    }
    text
}

/// What the kernel showed of a refused process, beside what contradicts it.
fn seen(seen: &Sighting) -> String {
    if seen.is_empty() {
        return String::new();
    }
    let mut text = "\nWhat /proc showed when it was refused (it proves nothing)\n".to_owned();
    let mut line = |title: &str, value: &str| text += &format!("  {title:<11} {}\n", printable(value));
    if let Some(program) = &seen.program {
        line("program", program);
    }
    if let Some(writer) = seen.writer {
        line("written by", &format!("process {}, uid {}, gid {}", writer.pid, writer.uid, writer.gid));
    }
    let of = |ids: Ids| {
        format!("real {}, effective {}, saved {}, file system {}", ids.real, ids.effective, ids.saved, ids.fs)
    };
    if let Some(uids) = seen.uids {
        line("uids", &of(uids));
    }
    if let Some(gids) = seen.gids {
        line("gids", &of(gids));
    }
    for (at, cgroup) in seen.cgroups.iter().enumerate() {
        line(if at == 0 { "cgroup" } else { "" }, cgroup);
    }
    text
}

fn entries(report: &ExplainReport) -> String {
    let mut text = match report.entries_changed {
        true => "\nEntries, as they are now: they have changed since the decision\n".to_owned(),
        false => "\nEntries\n".to_owned(),
    };
    for entry in &report.considered {
        text += &considered(entry);
    }
    match report.entries.saturating_sub(report.considered.len()) {
        0 if report.considered.is_empty() => text += "  there are none; add a [[workload]]\n",
        0 => {}
        more => text += &format!("  and {more} more, which lack as much or more\n"),
    }
    text
}

fn considered(entry: &Considered) -> String {
    let list = |selectors: &[Selector]| {
        selectors.iter().map(|selector| printable(&selector.to_string())).collect::<Vec<_>>().join(", ")
    };
    let mut verdict = match entry.refused {
        Some(aside) => format!("set aside: {aside}"),
        None if entry.lacking.is_empty() => "matches".to_owned(),
        None => format!("lacks {}", list(&entry.lacking)),
    };
    if let Some(earlier) = &entry.earlier {
        verdict += &match entry.lost.join(", ") {
            lost if lost.is_empty() => format!(" ({earlier})"),
            lost => format!("; the process goes without its {lost}, because {earlier} comes first"),
        };
    }
    let verdict = printable(&verdict);
    let origin = printable(&entry.origin.to_string());
    format!("  {} ({origin})\n      {}\n", printable(&entry.id), wrap(&verdict, 6, 8))
}

fn result(outcome: &ExplainOutcome) -> String {
    match outcome {
        ExplainOutcome::Permitted { ids } => format!("permitted: {}", ids.join(", ")),
        ExplainOutcome::Denied { detail, .. } => format!("denied: {detail}"),
        ExplainOutcome::Undecided { detail, .. } => format!("undecided: {detail}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::words::COLUMNS;

    #[test]
    fn a_denial_shows_evidence_what_was_withheld_every_entry_and_the_way_out() {
        let report: ExplainReport = serde_json::from_value(json!({
            "decision": "d-7f31c2a90b4e", "decided_at": 1_700_000_000.0,
            "peer": { "pid": 4121, "uid": 1000, "gid": 1000 }, "level": "full",
            "evidence": {
                "facts": [{ "selector": "unix:uid:1000", "grade": "kernel", "source": "credentials" },
                          { "selector": "unix:sha256:abababababababababababababababababababababababababababababababab", "grade": "claimed", "source": "executable_bytes" },
                          { "selector": "cgroup:/system.slice/a-unit-of-a-rather-long-name.service",
                            "grade": "kernel", "source": "cgroup" }],
                "withheld": [{ "kind": "UnixPath", "seen": "/tmp/\u{202e}x", "because": "path_is_another_file" }],
                "further_groups": 8966
            },
            "entries": 5,
            "considered": [{ "id": "spiffe://example.org/web", "origin": { "file": "/etc/b.toml", "line": 9 },
                             "lacking": ["unix:path:/usr/bin/web"], "refused": null }],
            "result": { "outcome": "denied", "why": "no_entry", "detail": "no entry matches" },
            "nearest_miss": { "id": "spiffe://example.org/web", "origin": { "file": "/etc/b.toml", "line": 9 },
                             "lacking": ["unix:path:/usr/bin/web"], "refused": null },
            "suggestion": "[[workload]]\nid = \"/web\"\nselectors = [\"unix:uid:1000\"]\n"
        }))
        .unwrap();
        let text = text(&report, Some("web, sleeping, 4 threads, started 3m 2s ago"));
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
        for said in [
            "process 4121, uid 1000, gid 1000, pinned full",
            "web, sleeping, 4 threads, started 3m 2s ago\n",
            "decision d-7f31c2a90b4e",
            "  unix:uid:1000                                 kernel   credentials\n",
            "claimed  executable bytes\n",
            "  claimed: chosen by whoever starts the process. It tells the programs of one\n    user apart",
            "a-unit-of-a-rather-long-name.service\n                                                kernel   cgroup\n",
            "  and 8966 more supplementary groups, which no entry named\n",
            "  and 4 more, which lack as much or more\n",
            "unix:path /tmp/\\u{202e}x withheld: this path on the host is not the file",
            "spiffe://example.org/web (/etc/b.toml:9)\n      lacks unix:path:/usr/bin/web\n",
            "Result\n  denied: no entry matches\n",
            "Nearest miss\n  spiffe://example.org/web",
            "  id = \"/web\"\n",
        ] {
            assert!(text.contains(said), "{said:?} in\n{text}");
        }
    }

    fn report(parts: serde_json::Value) -> ExplainReport {
        let mut whole = json!({
            "decision": null, "decided_at": 1_700_000_000.0, "peer": { "pid": 4121, "uid": 1000, "gid": 1000 },
            "level": "full", "evidence": { "facts": [], "withheld": [] }, "entries": 5, "considered": [],
            "result": { "outcome": "denied", "why": "no_entry", "detail": "no entry matches" },
            "nearest_miss": null, "suggestion": null
        });
        let parts = parts.as_object().unwrap().clone();
        whole.as_object_mut().unwrap().extend(parts);
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn a_refusal_before_the_evidence_shows_what_contradicts_and_no_entries() {
        let ids = json!({ "real": 0, "effective": 1000, "saved": 0, "fs": 1000 });
        let screen = text(
            &report(json!({
                "seen": { "program": "/usr/bin/web\n", "uids": ids,
                          "cgroups": ["1:name=systemd:/system.slice/a.service", "0::/system.slice/b.service"],
                          "writer": { "pid": 7, "uid": 33, "gid": 33 } },
                "result": { "outcome": "denied", "why": "cgroups_disagree", "detail": "they contradict each other" }
            })),
            None,
        );
        let expected = "process 4121, uid 1000, gid 1000, pinned full\n\n\
                        Evidence\n  none was read for this refusal\n\n\
                        What /proc showed when it was refused (it proves nothing)\n  \
                        program     /usr/bin/web\\u{a}\n  \
                        written by  process 7, uid 33, gid 33\n  \
                        uids        real 0, effective 1000, saved 0, file system 1000\n  \
                        cgroup      1:name=systemd:/system.slice/a.service\n              \
                        0::/system.slice/b.service\n\n\
                        Result\n  denied: they contradict each other\n";
        assert_eq!(screen, expected);
    }

    #[test]
    fn what_nobody_looked_at_is_not_called_withheld() {
        let fact = json!({ "selector": "unix:uid:1000", "grade": "kernel", "source": "credentials" });
        let asked = |answers: serde_json::Value| {
            let evidence = json!({ "facts": [fact], "withheld": [], "answers": answers });
            text(&report(json!({ "evidence": evidence, "entries_changed": true })), None)
        };
        let screen = asked(json!([]));
        assert!(screen.contains("  unix:path was not looked at: no entry could use it\n"), "{screen}");
        assert!(screen.contains("\nEntries, as they are now: they have changed since the decision\n"), "{screen}");
        assert!(!screen.contains("withheld"), "{screen}");
        let screen = asked(json!([["path", "settled"], ["sha256", "settled"]]));
        assert!(!screen.contains("looked at"), "{screen}");
    }

    #[test]
    fn an_entry_that_comes_second_is_shown_with_what_is_lost() {
        let entry = |refused: Option<&str>, lost: &str| {
            let origin = |line| json!({ "file": "/etc/b.toml", "line": line });
            let entry = json!({ "id": "spiffe://example.org/web", "origin": origin(9), "lacking": [], "refused": refused,
                                "earlier": origin(4), "lost": [lost] });
            considered(&serde_json::from_value(entry).unwrap())
        };
        assert_eq!(
            entry(Some("same_id_earlier"), "dns = [\"db.internal\"]"),
            "  spiffe://example.org/web (/etc/b.toml:9)\n      \
             set aside: an earlier entry already gives this SPIFFE ID; the process goes\n        \
             without its dns = [\"db.internal\"], because /etc/b.toml:4 comes first\n"
        );
        assert_eq!(
            entry(None, "hint = \"internal\""),
            "  spiffe://example.org/web (/etc/b.toml:9)\n      \
             matches; the process goes without its hint = \"internal\", because\n        \
             /etc/b.toml:4 comes first\n"
        );
    }

    #[test]
    fn a_running_process_is_shown_by_name_state_threads_and_age() {
        let own = Process::myself().unwrap();
        let uid = own.status().unwrap().euid;
        let shown = running(&own, uid).unwrap();
        let parts: Vec<_> = shown.split(", ").collect();
        assert!(parts[1] == "running" || parts[1] == "sleeping", "{shown}");
        assert!(parts[2].ends_with(" threads") && parts[3].starts_with("started "), "{shown}");
        assert_eq!(running(&own, uid + 1), None, "of another user");
    }

    #[test]
    fn an_id_that_is_none_never_reaches_the_daemon() {
        for text in ["", "d-", "7f31", "d-xyz", "d-1&pid=1", "d-1 HTTP/1.1"] {
            assert_eq!(decision_id(text).unwrap_err().exit, Exit::Usage, "{text}");
        }
        assert_eq!(decision_id("d-7f31c2a90b4e"), Ok("d-7f31c2a90b4e"));
    }
}
