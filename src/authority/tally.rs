//! Counts of rotations since the start. Whoever takes care of an authority counts; whoever exports reads.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::authority::Maintained;
use crate::authority::keys::KeyKind;
use crate::authority::no_authority::Note;

/// How the rotations of an authority went.
#[derive(Debug, Default)]
pub struct RotationTally {
    x509: AtomicU64,
    jwt: AtomicU64,
    failures: AtomicU64,
    is_postponed: AtomicBool,
}

impl RotationTally {
    /// Counts what was done and what was not.
    pub fn count(&self, maintained: &Maintained) {
        for note in &maintained.notes {
            if let Note::Used { kind, .. } = note {
                self.of(*kind).fetch_add(1, Ordering::Relaxed);
            }
        }
        self.failures.fetch_add(u64::from(maintained.failed), Ordering::Relaxed);
        self.is_postponed.store(maintained.postponed.is_some(), Ordering::Relaxed);
    }

    /// How often the active key of a kind was replaced.
    #[must_use]
    pub fn done(&self, kind: KeyKind) -> u64 {
        self.of(kind).load(Ordering::Relaxed)
    }

    /// How often a step that was due could not be taken. It is tried again every 2 s.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Whether a step is due that could not be taken.
    #[must_use]
    pub fn is_postponed(&self) -> bool {
        self.is_postponed.load(Ordering::Relaxed)
    }

    fn of(&self, kind: KeyKind) -> &AtomicU64 {
        match kind {
            KeyKind::X509 => &self.x509,
            KeyKind::Jwt => &self.jwt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(kind: KeyKind) -> Note {
        Note::Used { kind, id: "b".to_owned(), before: "a".to_owned() }
    }

    #[test]
    fn a_rotation_counts_when_the_new_key_signs_and_a_failure_when_it_was_tried() {
        let tally = RotationTally::default();
        let left = Note::Left { id: "a".to_owned() };
        let notes = vec![used(KeyKind::X509), left, used(KeyKind::Jwt), used(KeyKind::X509)];
        tally.count(&Maintained { notes, ..Maintained::default() });
        assert_eq!([tally.done(KeyKind::X509), tally.done(KeyKind::Jwt)], [2, 1]);
        let postponed = Some("no room".to_owned());
        tally.count(&Maintained { postponed: postponed.clone(), failed: true, ..Maintained::default() });
        tally.count(&Maintained { postponed, ..Maintained::default() });
        assert_eq!((tally.failures(), tally.is_postponed()), (1, true));
        tally.count(&Maintained::default());
        assert_eq!((tally.failures(), tally.is_postponed()), (1, false));
    }
}
