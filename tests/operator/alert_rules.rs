//! The shipped alert rules: what they name is exported, what they say to type exists, and each of them fires.

use std::path::Path;
use std::process::Command;

use crate::daemon::Daemon;
use crate::running::code;
use crate::running::entry_for_us;
use crate::running::free_port;
use crate::running::get;

const RULES: &str = include_str!("../../examples/prometheus/bonafide.rules.yaml");
const RULES_TEST: &str = include_str!("../../examples/prometheus/bonafide.rules.test.yaml");

/// Labels that Prometheus adds to everything it scrapes.
const OF_THE_SCRAPER: [&str; 2] = ["instance", "job"];

/// One alert of the rules.
struct Alert {
    name: &'static str,
    /// Everything after its name.
    text: &'static str,
}

fn alerts() -> Vec<Alert> {
    let alerts = RULES.split("- alert: ").skip(1).map(|text| {
        let (name, text) = text.split_once('\n').unwrap();
        Alert { name, text }
    });
    let alerts: Vec<_> = alerts.collect();
    assert!(alerts.len() >= 10, "the rules were not parsed");
    alerts
}

fn is_part_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

impl Alert {
    /// The expression, in one line.
    fn expression(&self) -> String {
        let (_, rest) = self.text.split_once("expr: ").unwrap();
        let is_other_key = |line: &str| ["for:", "labels:"].iter().any(|key| line.trim_start().starts_with(key));
        rest.lines().take_while(|line| !is_other_key(line)).map(str::trim).collect::<Vec<_>>().join(" ")
    }

    /// The metrics of the daemon that its expression names, each with the labels and values that it selects by.
    fn metrics(&self) -> Vec<(String, Vec<(String, String)>)> {
        let expression = self.expression();
        let starts = expression.match_indices("bonafide_").map(|(at, _)| &expression[at..]);
        let metrics = starts.map(|text| {
            let (name, rest) = text.split_at(text.find(|c| !is_part_of_name(c)).unwrap_or(text.len()));
            let inside = rest.strip_prefix('{').map_or("", |rest| rest.split_once('}').unwrap().0);
            let selected = inside.split(',').filter(|matcher| !matcher.is_empty()).map(|matcher| {
                let (label, value) = matcher.split_once('=').unwrap();
                (label.trim_end_matches('!').to_owned(), value.trim_matches('"').to_owned())
            });
            (name.to_owned(), selected.collect())
        });
        metrics.collect()
    }

    /// The labels that its annotations show.
    fn shown_labels(&self) -> impl Iterator<Item = &str> {
        let shown = self.text.split("$labels.").skip(1);
        shown.map(|text| text.split(|c| !is_part_of_name(c)).next().unwrap())
    }

    /// The commands of the daemon that it says to type.
    fn commands(&self) -> impl Iterator<Item = String> {
        let quoted = self.text.split('`').skip(1).step_by(2);
        quoted
            .map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "))
            .filter(|text| text.starts_with("bonafide "))
    }
}

/// The samples of a metric: each line without its name and its value.
fn samples<'a>(scraped: &'a str, name: &str) -> Vec<&'a str> {
    let lines = scraped.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
    lines.map(|(labels, _)| labels).filter(|labels| labels.is_empty() || labels.starts_with('{')).collect()
}

#[test]
fn every_metric_and_label_of_the_alert_rules_is_exported_by_the_daemon() {
    let port = free_port();
    let missing = "[[federation]]\ntrust_domain = \"partner.test\"\nbundle_file = \"missing.json\"\n";
    let metrics = format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n");
    let daemon = Daemon::start(&(metrics + missing + &entry_for_us()));
    let (status, scraped) = get(port, "/metrics");
    assert_eq!(status, 200, "{}", daemon.log());
    for alert in alerts().iter().filter(|alert| alert.name != "BonafideDown") {
        let metrics = alert.metrics();
        assert!(!metrics.is_empty(), "{} names no metric", alert.name);
        for (name, selected) in &metrics {
            let found = samples(&scraped, name);
            assert!(!found.is_empty(), "{}: no {name} in\n{scraped}", alert.name);
            for (label, value) in selected {
                let exported = found.iter().any(|labels| labels.contains(&format!("{label}=\"{value}\"")));
                assert!(exported, "{}: no {name} with {label}=\"{value}\" in\n{scraped}", alert.name);
            }
        }
        for label in alert.shown_labels().filter(|label| !OF_THE_SCRAPER.contains(label)) {
            let exported = metrics
                .iter()
                .all(|(name, _)| samples(&scraped, name).iter().all(|labels| labels.contains(&format!("{label}=\""))));
            assert!(exported, "{} shows the label {label}, which its metrics do not have", alert.name);
        }
    }
}

#[test]
fn every_alert_says_what_to_type_and_each_command_exists() {
    for alert in alerts() {
        for annotation in ["summary:", "description:"] {
            assert!(alert.text.contains(annotation), "{} has no {annotation}", alert.name);
        }
        let commands: Vec<_> = alert.commands().collect();
        assert!(!commands.is_empty(), "{} names no command", alert.name);
        for command in commands {
            let words: Vec<_> = command.split(' ').skip(1).collect();
            let help = Command::new(env!("CARGO_BIN_EXE_bonafide")).args(&words).arg("--help").output().unwrap();
            assert_eq!(code(&help), 0, "{}: {command}: {help:?}", alert.name);
        }
    }
}

#[test]
fn promtool_accepts_the_rules_and_sees_each_alert_fire() {
    for alert in alerts() {
        let tested = [format!("\"{}\"", alert.name), format!("alertname: {}\n", alert.name)];
        assert!(tested.iter().any(|name| RULES_TEST.contains(name)), "{} is not tested", alert.name);
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/prometheus");
    for arguments in [["check", "rules", "bonafide.rules.yaml"], ["test", "rules", "bonafide.rules.test.yaml"]] {
        match Command::new("promtool").args(arguments).current_dir(&folder).output() {
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            Err(error) => {
                eprintln!("skipped: promtool_accepts_the_rules_and_sees_each_alert_fire: promtool: {error}");
                return;
            }
        }
    }
}
