//! The text of `/etc/subuid`, and whose its ranges are once the users are known. Pure.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use crate::evidence::AccountName;
use crate::evidence::Accounts;
use crate::evidence::RangeOwner;
use crate::evidence::SubordinateUids;

/// The most bytes of a line; a user name has at most 256.
const LONGEST_LINE: usize = 512;
/// The most ranges. Each costs a question to the name service every minute.
const MOST_RANGES: usize = 4096;

/// The ranges of `/etc/subuid`, in the order of its lines.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SubordinateRanges {
    ranges: Vec<(Owner, RangeInclusive<u32>)>,
    /// How many lines say nothing, and the number of the first of them.
    ignored: Option<(usize, usize)>,
}

/// SPEC: subuid(5): the login name or the uid.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Owner {
    Name(AccountName),
    Uid(u32),
}

impl SubordinateRanges {
    /// Reads `name-or-uid:first:count`, one a line. Empty lines and those that begin with `#` say nothing.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let mut all = Self::default();
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            match range(line).filter(|_| all.ranges.len() < MOST_RANGES) {
                Some(range) => all.ranges.push(range),
                None => {
                    let (ignored, first) = all.ignored.unwrap_or((0, number + 1));
                    all.ignored = Some((ignored + 1, first));
                }
            }
        }
        all
    }

    /// What to tell the operator about lines that were not read.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let (ignored, first) = self.ignored?;
        let (lines, say) = if ignored == 1 { ("line", "says") } else { ("lines", "say") };
        Some(format!(
            "/etc/subuid: {ignored} {lines}, the first is line {first}, {say} no range (name-or-uid:first:count, at most \
             {MOST_RANGES} of them); limits are charged as if they were not there"
        ))
    }

    /// The users that are named.
    #[must_use]
    pub fn names(&self) -> BTreeSet<AccountName> {
        let names = self.ranges.iter().filter_map(|(owner, _)| match owner {
            Owner::Name(name) => Some(name.clone()),
            Owner::Uid(_) => None,
        });
        names.collect()
    }

    /// Whose the ranges are. A user without an answer that counts has the last uid that he is known to have had, in
    /// `known`, which is kept up to date.
    ///
    /// SECURITY: a range of somebody whose uid was never known is one common user's, so that a name service that does not
    /// answer gives nobody more than his share. One of a user who does not exist is nobody's.
    #[must_use]
    pub fn owned_by(&self, accounts: &Accounts, known: &mut BTreeMap<AccountName, u32>) -> SubordinateUids {
        known.retain(|name, _| accounts.open().contains(name) || accounts.withheld_because().is_some());
        known.extend(accounts.users().map(|(uid, name)| (AccountName::User(name.clone()), uid)));
        let is_open = |name| accounts.open().contains(name) || accounts.withheld_because().is_some();
        let mut owned = SubordinateUids::default();
        for (owner, uids) in &self.ranges {
            let owner = match owner {
                Owner::Uid(uid) => RangeOwner::Uid(*uid),
                Owner::Name(name) => match known.get(name) {
                    Some(uid) => RangeOwner::Uid(*uid),
                    None if is_open(name) => RangeOwner::Unknown,
                    None => continue,
                },
            };
            owned.add(uids.clone(), owner);
        }
        owned
    }
}

fn range(line: &[u8]) -> Option<(Owner, RangeInclusive<u32>)> {
    let line = std::str::from_utf8(line).ok().filter(|line| line.len() <= LONGEST_LINE)?;
    let mut fields = line.split(':');
    let (owner, first, count) = (fields.next()?, number(fields.next()?)?, number(fields.next()?)?);
    let last = first.checked_add(count.checked_sub(1)?)?;
    if owner.is_empty() || fields.next().is_some() {
        return None;
    }
    let name = || Owner::Name(AccountName::User(owner.into()));
    Some((number(owner).map_or_else(name, Owner::Uid), first..=last))
}

fn number(digits: &str) -> Option<u32> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::Answer;
    use crate::evidence::WithheldBecause;

    fn user(name: &str) -> AccountName {
        AccountName::User(name.into())
    }

    fn charged(text: &str, accounts: &Accounts, uid: u32) -> Option<u32> {
        SubordinateRanges::parse(text.as_bytes()).owned_by(accounts, &mut BTreeMap::new()).charged(uid)
    }

    #[test]
    fn a_line_gives_its_range_to_the_user_with_that_name_or_that_uid() {
        let text = "# ranges\n\nalice:100000:65536\n1001:165536:65536\nnobody-here:300000:9\n";
        let accounts = Accounts::example(&[(1000, "alice")], &[(7, "nobody-here")]);
        for (uid, owner) in [(100_000, 1000), (165_535, 1000), (165_536, 1001), (231_072, 231_072), (300_003, 300_003)]
        {
            assert_eq!(charged(text, &accounts, uid), Some(owner), "{uid}");
        }
        let ranges = SubordinateRanges::parse(text.as_bytes());
        assert_eq!(ranges.warning(), None);
        assert_eq!(ranges.names(), [user("alice"), user("nobody-here")].into());
        assert_eq!(SubordinateRanges::parse(b"").warning(), None);
    }

    #[test]
    fn a_line_that_says_no_range_is_counted_and_takes_nothing_from_the_others() {
        let long = format!("{}:5:5", "a".repeat(600));
        for line in [
            "alice",
            "alice:1",
            "alice:1:2:3",
            ":1:2",
            "alice:-1:2",
            "alice:1:0",
            "alice:+1:2",
            "alice:4294967295:2",
            &long,
            "\u{0}",
        ] {
            let text = format!("{line}\nalice:100000:65536\n{line}\n");
            let ranges = SubordinateRanges::parse(text.as_bytes());
            assert_eq!(ranges.ignored, Some((2, 1)), "{line}");
            assert!(ranges.warning().unwrap().contains("2 lines, the first is line 1, say no range"), "{line}");
            assert_eq!(charged(&text, &Accounts::example(&[(1000, "alice")], &[]), 100_001), Some(1000), "{line}");
        }
        assert_eq!(SubordinateRanges::parse(b"\xff:1:2\nalice:4294967295:1").ignored, Some((1, 1)));
        let many = "alice:1:1\n".repeat(MOST_RANGES + 3);
        assert_eq!(SubordinateRanges::parse(many.as_bytes()).ignored, Some((3, MOST_RANGES + 1)));
    }

    #[test]
    fn a_range_of_a_user_without_an_answer_stays_his_and_before_his_first_it_is_one_common_users() {
        let ranges = SubordinateRanges::parse(b"alice:100000:65536\n");
        let mut known = BTreeMap::new();
        let mut open = Accounts::default();
        open.leave_open(user("alice"), Answer::Pending);
        let mut charged = |accounts: &Accounts| ranges.owned_by(accounts, &mut known).charged(100_007);
        assert_eq!(charged(&open), None);
        assert_eq!(charged(&Accounts::example(&[(1000, "alice")], &[])), Some(1000));
        assert_eq!(charged(&open), Some(1000), "the last uid that she is known to have had");
        let withheld = Accounts::withheld(WithheldBecause::NamesNotReadable);
        assert_eq!(charged(&withheld), Some(1000));
        assert_eq!(charged(&Accounts::default()), Some(100_007), "she does not exist any more");
        assert_eq!(charged(&open), None);
        assert_eq!(charged(&withheld), None);
    }
}
