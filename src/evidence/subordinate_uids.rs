//! The ranges of uids that users may map into their user namespaces, and whom each uid counts for.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// A user whose own uid lies in another's range counts for that one, and so on, at most so often.
const MOST_STEPS: usize = 8;

/// Whose uids these are (SPEC: subuid(5)). Pure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubordinateUids {
    /// Ranges without overlap, by their first uid: the last, and the owner.
    ranges: BTreeMap<u32, (u32, RangeOwner)>,
}

/// Whom the uids of a range belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeOwner {
    /// The user with this uid.
    Uid(u32),
    /// A user whose uid is not known now.
    Unknown,
}

impl SubordinateUids {
    /// Adds a range. What belongs to somebody already stays his: the first line of the file counts.
    ///
    /// SECURITY: a range of root's gives nothing to anybody. What root lends to a container, often the uid of a user, would
    /// otherwise be charged to root, and that user could use up the share of root.
    pub fn add(&mut self, uids: RangeInclusive<u32>, owner: RangeOwner) {
        let (mut first, last) = uids.into_inner();
        if owner == RangeOwner::Uid(0) {
            return;
        }
        while first <= last {
            let taken = self.ranges.range(..=first).next_back().filter(|(_, (end, _))| *end >= first);
            let next_free = match taken {
                Some((_, (end, _))) => end.checked_add(1),
                None => {
                    let next = self.ranges.range(first..).next().map(|(begin, _)| *begin);
                    let end = next.map_or(last, |begin| last.min(begin - 1));
                    self.ranges.insert(first, (end, owner));
                    end.checked_add(1)
                }
            };
            let Some(next_free) = next_free else { return };
            first = next_free;
        }
    }

    /// The uid that a uid of the host counts for: its own where it is in nobody's range. `None` where that cannot be said:
    /// the owner is not known, or ranges lie within each other in a circle.
    #[must_use]
    pub fn charged(&self, uid: u32) -> Option<u32> {
        let mut charged = uid;
        for _ in 0..MOST_STEPS {
            match self.owner_of(charged) {
                Some(RangeOwner::Unknown) => return None,
                Some(RangeOwner::Uid(owner)) if owner != charged => charged = owner,
                Some(RangeOwner::Uid(_)) | None => return Some(charged),
            }
        }
        None
    }

    fn owner_of(&self, uid: u32) -> Option<RangeOwner> {
        let (_, (last, owner)) = self.ranges.range(..=uid).next_back()?;
        (uid <= *last).then_some(*owner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges(of: &[(RangeInclusive<u32>, u32)]) -> SubordinateUids {
        let mut ranges = SubordinateUids::default();
        of.iter().for_each(|(uids, owner)| ranges.add(uids.clone(), RangeOwner::Uid(*owner)));
        ranges
    }

    #[test]
    fn a_uid_in_a_range_counts_for_its_owner_and_every_other_for_itself() {
        let ranges = ranges(&[(100_000..=165_535, 1000), (165_536..=231_071, 1001)]);
        for (uid, charged) in [
            (1000, 1000),
            (99_999, 99_999),
            (100_000, 1000),
            (165_535, 1000),
            (165_536, 1001),
            (231_071, 1001),
            (231_072, 231_072),
            (u32::MAX, u32::MAX),
        ] {
            assert_eq!(ranges.charged(uid), Some(charged), "{uid}");
        }
        assert_eq!(SubordinateUids::default().charged(100_000), Some(100_000));
    }

    #[test]
    fn a_uid_of_which_the_owner_is_unknown_counts_for_nobody_known() {
        let mut ranges = ranges(&[(5..=6, 1000)]);
        ranges.add(1000..=1000, RangeOwner::Unknown);
        assert_eq!(ranges.charged(1000), None);
        assert_eq!(ranges.charged(5), None, "it counts for 1000");
        assert_eq!(ranges.charged(7), Some(7));
    }

    #[test]
    fn a_range_within_a_range_counts_for_the_outer_owner_and_a_circle_for_nobody_known() {
        let ranges =
            ranges(&[(100_000..=165_535, 1000), (300_000..=300_009, 100_005), (7..=7, 8), (8..=8, 7), (9..=9, 9)]);
        assert_eq!(ranges.charged(300_001), Some(1000));
        assert_eq!(ranges.charged(7), None);
        assert_eq!(ranges.charged(9), Some(9), "its own uid is in its own range");
    }

    #[test]
    fn a_range_of_roots_charges_nobody_else_to_root() {
        let ranges = ranges(&[(1000..=1000, 0), (0..=u32::MAX, 0), (100_000..=165_535, 1000)]);
        assert_eq!(ranges.charged(1000), Some(1000));
        assert_eq!(ranges.charged(100_000), Some(1000), "and takes it from nobody");
    }

    proptest! {
        /// Compared with a search through the lines in their order.
        #[test]
        fn of_overlapping_ranges_the_first_counts(
            lines in proptest::collection::vec((0_u32..64, 0_u32..64, 1_u32..9), 0..12),
            uid in 0_u32..128,
        ) {
            let lines: Vec<_> = lines.into_iter().map(|(first, more, owner)| (first..=first + more, owner + 1000)).collect();
            let expected = lines.iter().find(|(uids, _)| uids.contains(&uid)).map_or(uid, |(_, owner)| *owner);
            prop_assert_eq!(ranges(&lines).charged(uid), Some(expected));
        }

        #[test]
        fn the_ends_of_all_uids_are_no_special_case(first in u32::MAX - 4..=u32::MAX, last in u32::MAX - 4..=u32::MAX) {
            let ranges = ranges(&[(first..=last, 1000), (2000..=u32::MAX, 1001)]);
            let expected = if first < u32::MAX && last >= u32::MAX - 1 { 1000 } else { 1001 };
            prop_assert_eq!(ranges.charged(u32::MAX - 1), Some(expected));
        }
    }
}
