//! `[attest]`: the minimum kernel level, and how long a first answer waits for pending evidence.

use std::time::Duration;

use crate::agent::config::reader::Reader;
use crate::evidence::Level;

/// The longest `wait`; clients give up sooner.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const DEFAULT_WAIT: Duration = Duration::from_secs(5);

/// The settings of attestation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attest {
    /// The kernel level below which the node refuses to run.
    pub minimum: Level,
    /// How long a first answer waits for evidence that is pending.
    pub wait: Duration,
}

pub(in crate::agent::config) fn read(top: &mut Reader<'_, '_>) -> Attest {
    let mut attest = top.table("attest", "[attest]");
    let levels = [("reduced", Level::Reduced), ("pinned", Level::Pinned), ("full", Level::Full)];
    let minimum = attest.word("minimum", &levels, &[]).unwrap_or(Level::Reduced);
    let wait = attest.duration("wait", Duration::ZERO..=LONGEST_WAIT);
    attest.not_built_yet("kubernetes", "the attestor [attest.kubernetes]");
    attest.finish();
    Attest { minimum, wait: wait.map_or(DEFAULT_WAIT, |(length, _)| length) }
}
