//! Fuzzes the target that this binary is named after: `cargo +nightly fuzz run --fuzz-dir tests/fuzz selector`.

#![no_main]

mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::run(env!("CARGO_BIN_NAME"), input));
