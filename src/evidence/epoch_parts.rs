//! The parts of a process that a fact rests on: while they stay as they are, the fact stays true (SPEC: product contract
//! §5, rule 4).

use crate::evidence::Selector;
use crate::evidence::SelectorKind;

/// A part of a process that can change while the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EpochPart {
    /// The program image.
    Image,
    /// The user and group ids.
    Credentials,
    /// The supplementary groups.
    Groups,
    /// The user, mount, PID and cgroup namespaces.
    Namespaces,
    /// The cgroup.
    Cgroup,
}

/// A set of parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct EpochParts(u8);

impl SelectorKind {
    /// The parts that a fact of this kind rests on. A kind whose source is not the kernel rests on all of them.
    #[must_use]
    pub const fn rests_on(self) -> EpochParts {
        use EpochPart::Cgroup;
        use EpochPart::Credentials;
        use EpochPart::Groups;
        use EpochPart::Image;
        use EpochPart::Namespaces;
        match self {
            Self::UnixUid | Self::UnixGid => EpochParts::of([Credentials]),
            Self::UnixUser | Self::UnixGroup => EpochParts::of([Credentials, Namespaces]),
            Self::UnixSupplementaryGid => EpochParts::of([Groups]),
            Self::UnixSupplementaryGroup => EpochParts::of([Groups, Namespaces]),
            Self::UnixPath | Self::UnixSha256 => EpochParts::of([Image, Namespaces]),
            Self::SystemdId | Self::SystemdSlice | Self::Cgroup => EpochParts::of([EpochPart::Cgroup]),
            Self::Host => EpochParts::of([Namespaces, Cgroup]),
            Self::Other => EpochParts::ALL,
        }
    }
}

impl EpochParts {
    /// Every part.
    pub const ALL: Self = Self::of([
        EpochPart::Image,
        EpochPart::Credentials,
        EpochPart::Groups,
        EpochPart::Namespaces,
        EpochPart::Cgroup,
    ]);

    /// These parts. Does not compile without any: a fact that rests on nothing would never end.
    #[must_use]
    pub const fn of<const N: usize>(parts: [EpochPart; N]) -> Self {
        const { assert!(N > 0, "a fact rests on some part of the process") };
        let (mut set, mut at) = (0, 0);
        while at < N {
            set |= Self::bit(parts[at]);
            at += 1;
        }
        Self(set)
    }

    /// The parts that the facts behind these selectors rest on.
    #[must_use]
    pub fn of_selectors<'a>(selectors: impl IntoIterator<Item = &'a Selector>) -> Self {
        selectors.into_iter().fold(Self::default(), |all, selector| all.union(selector.kind().rests_on()))
    }

    /// Whether the part is among them.
    #[must_use]
    pub const fn contains(self, part: EpochPart) -> bool {
        self.0 & Self::bit(part) != 0
    }

    /// Whether each of `other` is among them.
    #[must_use]
    pub const fn contains_all(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The parts of either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn bit(part: EpochPart) -> u8 {
        match part {
            EpochPart::Image => 1,
            EpochPart::Credentials => 2,
            EpochPart::Groups => 4,
            EpochPart::Namespaces => 8,
            EpochPart::Cgroup => 16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_the_parts_that_were_put_into_it_and_no_other() {
        use EpochPart::*;
        let parts = EpochParts::of([Groups, Cgroup]);
        let contained: Vec<_> =
            [Image, Credentials, Groups, Namespaces, Cgroup].into_iter().filter(|part| parts.contains(*part)).collect();
        assert_eq!(contained, [Groups, Cgroup]);
        assert!(parts.contains_all(EpochParts::of([Cgroup])) && !parts.contains_all(EpochParts::of([Cgroup, Image])));
        assert_eq!(parts.union(EpochParts::of([Image])), EpochParts::of([Image, Groups, Cgroup]));
    }

    #[test]
    fn an_entry_rests_on_the_parts_of_all_its_selectors() {
        let selectors = ["unix:uid:1000", "unix:supplementary_gid:4"].map(|text| text.parse().unwrap());
        let parts = EpochParts::of_selectors(&selectors);
        assert_eq!(parts, EpochParts::of([EpochPart::Credentials, EpochPart::Groups]));
    }
}
