//! Replays the fuzzers' corpus against the parsers.

use std::fs;
use std::path::Path;

use crate::fuzz_targets::TARGETS;
use crate::fuzz_targets::run;

#[test]
fn every_input_of_the_corpus_satisfies_its_oracle() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for (name, _) in TARGETS {
        let inputs: Vec<_> = fs::read_dir(corpus.join(name)).unwrap().map(|input| input.unwrap().path()).collect();
        assert!(inputs.len() > 2, "{name} has too few inputs: {inputs:?}");
        for input in inputs {
            run(name, &fs::read(&input).unwrap());
        }
    }
}

#[test]
fn every_target_is_a_program_of_the_fuzzer() {
    let manifest = include_str!("../fuzz/Cargo.toml");
    let programs: Vec<_> = manifest.lines().filter(|line| line.starts_with("name = ")).skip(1).collect();
    let targets: Vec<_> = TARGETS.iter().map(|(name, _)| format!("name = {name:?}")).collect();
    assert_eq!(programs, targets);
}
