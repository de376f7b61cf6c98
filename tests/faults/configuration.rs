//! Bad configurations: each is refused with every problem in it, and nothing that is not TOML can do more harm.

use bonafide::agent::config::Config;
use bonafide::agent::config::files::Source;
use bonafide::agent::config::files::Sources;
use bonafide::agent::config::problem::Findings;

/// A corpus in one text: `== name`, a configuration, `--`, and exactly what an operator reads about it.
const CORPUS: &str = include_str!("configurations.txt");

fn read(texts: &[(&str, &str)]) -> Result<Config, Findings> {
    let files = texts.iter().map(|(file, text)| Source { file: file.into(), text: (*text).to_owned() }).collect();
    Config::from_sources(&Sources { files, folders: Vec::new() })
}

#[test]
fn every_bad_configuration_is_refused_with_exactly_these_words() {
    let mut actual = String::new();
    for case in CORPUS.split("== ").skip(1) {
        let (name, rest) = case.split_once('\n').unwrap();
        let (text, _) = rest.split_once("--\n").unwrap();
        let refused = read(&[("bonafide.toml", text)]).err();
        let words = refused.map_or_else(|| "accepted".to_owned(), |findings| findings.to_string());
        actual.push_str(&format!("== {name}\n{text}--\n{words}\n"));
    }
    if actual != CORPUS {
        let differs = std::env::temp_dir().join("configurations.txt");
        std::fs::write(&differs, &actual).unwrap();
        panic!("diff tests/faults/configurations.txt {}", differs.display());
    }
}
