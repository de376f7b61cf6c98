//! The kinds of selectors: the name of each, whether it is strong, and who proves it. Knows no value.

use serde::Deserialize;
use serde::Serialize;

use crate::evidence::provider::Provider;

/// The kind of a selector, without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SelectorKind {
    /// See `Selector::UnixUid`.
    UnixUid,
    /// See `Selector::UnixGid`.
    UnixGid,
    /// See `Selector::UnixUser`.
    UnixUser,
    /// See `Selector::UnixGroup`.
    UnixGroup,
    /// See `Selector::UnixSupplementaryGid`.
    UnixSupplementaryGid,
    /// See `Selector::UnixSupplementaryGroup`.
    UnixSupplementaryGroup,
    /// See `Selector::UnixPath`.
    UnixPath,
    /// See `Selector::UnixSha256`.
    UnixSha256,
    /// See `Selector::SystemdId`.
    SystemdId,
    /// See `Selector::SystemdSlice`.
    SystemdSlice,
    /// See `Selector::Cgroup`.
    Cgroup,
    /// See `Selector::Host`.
    Host,
    /// See `Selector::Other`.
    Other,
}

/// Kinds of the product contract that this version cannot prove.
const NOT_BUILT_YET: [&str; 6] = ["docker", "k8s", "cri", "node", "systemd:user-unit", "systemd:fragment_path"];

/// The properties of one kind.
struct KindRow {
    kind: SelectorKind,
    /// The text before the value, without its colon.
    name: &'static str,
    /// Whether such a fact alone tells a workload from the others on its node (SPEC: product contract §4). For a cgroup
    /// the value counts, too: see `Selector::is_strong`.
    strong: bool,
    /// The provider that proves it.
    provider: Provider,
}

const fn row(kind: SelectorKind, name: &'static str, strong: bool, provider: Provider) -> KindRow {
    KindRow { kind, name, strong, provider }
}

/// Every kind that this version can prove, in the order of [`SelectorKind`.
static KINDS: [KindRow; 12] = [
    row(SelectorKind::UnixUid, "unix:uid", true, Provider::KERNEL),
    row(SelectorKind::UnixGid, "unix:gid", true, Provider::KERNEL),
    row(SelectorKind::UnixUser, "unix:user", true, Provider::KERNEL),
    row(SelectorKind::UnixGroup, "unix:group", true, Provider::KERNEL),
    row(SelectorKind::UnixSupplementaryGid, "unix:supplementary_gid", true, Provider::KERNEL),
    row(SelectorKind::UnixSupplementaryGroup, "unix:supplementary_group", true, Provider::KERNEL),
    row(SelectorKind::UnixPath, "unix:path", false, Provider::PATH),
    row(SelectorKind::UnixSha256, "unix:sha256", false, Provider::SHA256),
    row(SelectorKind::SystemdId, "systemd:id", true, Provider::KERNEL),
    row(SelectorKind::SystemdSlice, "systemd:slice", false, Provider::KERNEL),
    row(SelectorKind::Cgroup, "cgroup", true, Provider::KERNEL),
    row(SelectorKind::Host, "host", false, Provider::KERNEL),
];

impl SelectorKind {
    /// The text before the value, without its colon; `other` for kinds that this version does not know.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.row().map_or("other", |row| row.name)
    }

    /// The provider of such facts; `None` for kinds that this version does not know.
    #[must_use]
    pub fn provider(self) -> Option<Provider> {
        self.row().map(|row| row.provider.clone())
    }

    /// Whether a process has at most one fact of this kind.
    #[must_use]
    pub const fn is_single(self) -> bool {
        !matches!(self, Self::UnixSupplementaryGid | Self::UnixSupplementaryGroup | Self::Other)
    }

    pub(in crate::evidence) fn is_strong(self) -> bool {
        self.row().is_some_and(|row| row.strong)
    }

    /// The known kind that a text begins with, and the value after it.
    pub(in crate::evidence) fn split(text: &str) -> Option<(Self, &str)> {
        KINDS.iter().find_map(|row| Some((row.kind, text.strip_prefix(row.name)?.strip_prefix(':')?)))
    }

    /// The known kind with the most similar name, at most three edits away.
    pub(in crate::evidence) fn nearest(name: &str) -> Option<&'static str> {
        let distances = KINDS.iter().map(|row| (strsim::damerau_levenshtein(name, row.name), row.name));
        distances.min().filter(|(distance, _)| *distance <= 3).map(|(_, known)| known)
    }

    /// The known kind whose name ends in this word: `unix:uid` for `uid`.
    pub(in crate::evidence) fn ending_in(word: &str) -> Option<&'static str> {
        let last = |name: &'static str| name.rsplit_once(':').map(|(_, last)| last);
        KINDS.iter().map(|row| row.name).find(|name| last(name) == Some(word))
    }

    /// Whether the contract has a kind of this type or of this name that this version cannot prove.
    pub(in crate::evidence) fn is_planned(first: &str, name: &str) -> bool {
        NOT_BUILT_YET.iter().any(|planned| *planned == first || *planned == name)
    }

    fn row(self) -> Option<&'static KindRow> {
        KINDS.get(self as usize).filter(|row| row.kind == self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_at_its_own_index_of_the_table() {
        for (at, row) in KINDS.iter().enumerate() {
            assert_eq!(row.kind as usize, at, "{}", row.name);
        }
        assert_eq!(SelectorKind::Other as usize, KINDS.len());
    }
}
