//! `[attest]`: how firmly a caller must be pinned.

use crate::agent::config::reader::Reader;
use crate::evidence::Level;

/// What attestation must reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attest {
    /// The kernel level below which the node refuses to run.
    pub minimum: Level,
}

pub(in crate::agent::config) fn read(top: &mut Reader<'_, '_>) -> Attest {
    let mut attest = top.table("attest", "[attest]");
    let levels = [("reduced", Level::Reduced), ("pinned", Level::Pinned), ("full", Level::Full)];
    let minimum = attest.word("minimum", &levels, &[]).unwrap_or(Level::Reduced);
    attest.not_built_yet("kubernetes", "the attestor [attest.kubernetes]");
    attest.finish();
    Attest { minimum }
}
