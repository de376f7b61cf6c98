//! Which files have changed and settled, from one snapshot of all watched files after another. Pure: the driver takes the
//! snapshots and passes the time.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

/// After so many unsettled polls in a row a change is reported anyway.
const MAX_UNSETTLED_POLLS: u32 = 6;
/// A name that is missing for less is being replaced.
const REPLACED_WITHIN: Duration = Duration::from_secs(1);

/// The version of one file: it differs when the content may differ. The time of the last status change is in it, so that a
/// file which becomes readable is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Device and inode.
    pub(super) file: (u64, u64),
    pub(super) size: u64,
    pub(super) modified: (i64, i64),
    pub(super) status_changed: (i64, i64),
}

/// The watched files that exist.
pub(super) type Snapshot = BTreeMap<PathBuf, Stamp>;

/// The outcome of a poll.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Poll {
    /// These files have changed, and nobody is writing them.
    Changed(Vec<PathBuf>),
    /// Something happened since the poll before: the files need a moment to settle.
    Unsettled,
    /// Nothing happened.
    Idle,
}

/// The state between two polls.
#[derive(Debug)]
pub(super) struct Debouncer {
    seen: Snapshot,
    /// Since when a file that was seen is missing.
    missing: BTreeMap<PathBuf, Duration>,
    /// Not yet reported.
    changed: BTreeSet<PathBuf>,
    unsettled_polls: u32,
}

impl Debouncer {
    /// The state in which no file has changed since `present`.
    pub(super) fn new(present: Snapshot) -> Self {
        Self { seen: present, missing: BTreeMap::new(), changed: BTreeSet::new(), unsettled_polls: 0 }
    }

    /// Forgets files that are no longer watched, and takes those that are new as they are in `present`. The other files
    /// keep their state, so a change of them is still reported.
    pub(super) fn watch_instead(&mut self, is_watched: impl Fn(&Path) -> bool, present: Snapshot) {
        self.seen.retain(|path, _| is_watched(path));
        self.missing.retain(|path, _| is_watched(path));
        self.changed.retain(|path| is_watched(path));
        for (path, stamp) in present {
            self.seen.entry(path).or_insert(stamp);
        }
    }

    /// Compares the files that are `present` at `now`, a time since any fixed moment, with those of the poll before.
    /// `events` says whether the kernel reported anything of watched files in between.
    pub(super) fn poll(
        &mut self,
        present: Snapshot,
        events: bool,
        being_written: &BTreeSet<PathBuf>,
        now: Duration,
    ) -> Poll {
        let unsettled = self.compare(present, now) || events;
        let is_settled = |path: &&PathBuf| !being_written.contains(*path) && !self.missing.contains_key(*path);
        let settled: Vec<_> = self.changed.iter().filter(is_settled).cloned().collect();
        if !settled.is_empty() && (!unsettled || self.unsettled_polls >= MAX_UNSETTLED_POLLS) {
            self.changed.retain(|path| !settled.contains(path));
            self.unsettled_polls = 0;
            return Poll::Changed(settled);
        }
        if unsettled {
            self.unsettled_polls += 1;
            return Poll::Unsettled;
        }
        self.unsettled_polls = 0;
        Poll::Idle
    }

    /// Notes what differs; returns whether anything does.
    fn compare(&mut self, present: Snapshot, now: Duration) -> bool {
        let mut differs = false;
        for path in self.seen.keys().filter(|path| !present.contains_key(*path)) {
            self.missing.entry(path.clone()).or_insert(now);
        }
        for (path, stamp) in present {
            self.missing.remove(&path);
            if self.seen.insert(path.clone(), stamp) != Some(stamp) {
                self.changed.insert(path);
                differs = true;
            }
        }
        let Self { seen, missing, changed, .. } = self;
        missing.retain(|path, since| {
            let replaced = now.saturating_sub(*since) < REPLACED_WITHIN;
            if !replaced {
                seen.remove(path);
                changed.insert(path.clone());
                differs = true;
            }
            replaced
        });
        differs
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    const POLL: Duration = Duration::from_millis(50);

    /// What one poll finds: a version of each of two files, and for each whether it is being written.
    #[derive(Debug, Clone)]
    struct Found {
        versions: [Option<u64>; 2],
        being_written: [bool; 2],
        events: bool,
        after: Duration,
    }

    fn found() -> impl Strategy<Value = Found> {
        let versions = [option::weighted(0.8, 0..3_u64), option::weighted(0.8, 0..3_u64)];
        let being_written = [prop::bool::weighted(0.2), prop::bool::weighted(0.2)];
        let after = (1..14_u32).prop_map(|polls| polls * POLL);
        (versions, being_written, any::<bool>(), after).prop_map(|(versions, being_written, events, after)| Found {
            versions,
            being_written,
            events,
            after,
        })
    }

    fn path(index: usize) -> PathBuf {
        PathBuf::from(["a", "b"][index])
    }

    fn snapshot(versions: [Option<u64>; 2]) -> Snapshot {
        let stamp = |size| Stamp { file: (0, 0), size, modified: (0, 0), status_changed: (0, 0) };
        (0..2).filter_map(|index| Some((path(index), stamp(versions[index]?)))).collect()
    }

    fn writing(being_written: [bool; 2]) -> BTreeSet<PathBuf> {
        (0..2).filter(|index| being_written[*index]).map(path).collect()
    }

    /// A debouncer, and a reader who reads each file that is reported, and no other.
    struct Reader {
        debouncer: Debouncer,
        now: Duration,
        read: [Option<u64>; 2],
        versions: [Option<u64>; 2],
        absent_for: [Duration; 2],
    }

    impl Reader {
        fn new(versions: [Option<u64>; 2]) -> Self {
            let debouncer = Debouncer::new(snapshot(versions));
            Self { debouncer, now: Duration::ZERO, read: versions, versions, absent_for: [Duration::ZERO; 2] }
        }

        fn poll(&mut self, found: &Found) -> Poll {
            self.now += found.after;
            for index in 0..2 {
                let absent = self.versions[index].is_none() && found.versions[index].is_none();
                self.absent_for[index] = if absent { self.absent_for[index] + found.after } else { Duration::ZERO };
            }
            self.versions = found.versions;
            let being_written = writing(found.being_written);
            let poll = self.debouncer.poll(snapshot(found.versions), found.events, &being_written, self.now);
            if let Poll::Changed(paths) = &poll {
                for index in (0..2).filter(|index| paths.contains(&path(*index))) {
                    self.read[index] = found.versions[index];
                }
            }
            poll
        }
    }

    proptest! {
        #[test]
        fn a_reported_file_is_closed_and_is_there_or_gone_for_a_second(
            first in [option::of(0..3_u64), option::of(0..3_u64)],
            polls in vec(found(), 0..40),
        ) {
            let mut reader = Reader::new(first);
            for found in &polls {
                let Poll::Changed(paths) = reader.poll(found) else { continue };
                prop_assert!(!paths.is_empty());
                for index in (0..2).filter(|index| paths.contains(&path(*index))) {
                    prop_assert!(!found.being_written[index]);
                    prop_assert!(found.versions[index].is_some() || reader.absent_for[index] >= REPLACED_WITHIN);
                }
            }
        }

        #[test]
        fn a_reader_of_each_report_knows_every_file_once_all_is_quiet(
            first in [option::of(0..3_u64), option::of(0..3_u64)],
            polls in vec(found(), 0..40),
        ) {
            let mut reader = Reader::new(first);
            for found in &polls {
                reader.poll(found);
            }
            let versions = polls.last().map_or(first, |last| last.versions);
            for _ in 0..=2 * (REPLACED_WITHIN.as_millis() / POLL.as_millis()) {
                reader.poll(&Found { versions, being_written: [false; 2], events: false, after: POLL });
            }
            prop_assert_eq!(reader.read, versions);
        }
    }

    #[test]
    fn a_file_that_changes_at_every_poll_is_reported_all_the_same() {
        let mut reader = Reader::new([Some(0), None]);
        let reports = (1..=60).filter(|version| {
            let versions = [Some(*version), None];
            let found = Found { versions, being_written: [false; 2], events: true, after: POLL };
            matches!(reader.poll(&found), Poll::Changed(_))
        });
        assert_eq!(reports.count(), 60 / (MAX_UNSETTLED_POLLS as usize + 1));
    }
}
