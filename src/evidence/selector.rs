//! Selectors: typed values for facts, with the text form `type:value`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::evidence::provider::Provider;

/// The most bytes of a selector's text: a path of 4,096 bytes (`PATH_MAX`) and its type.
pub const MAX_SELECTOR: usize = MAX_PATH + 64;

/// The most bytes of a path, as the kernel counts them (`PATH_MAX`).
const MAX_PATH: usize = 4096;

/// One fact about a workload that an entry can require.
///
/// Values are typed, and two selectors are equal only when kind and value are equal: no comparison splits or joins text
/// at colons. `FromStr` accepts only the kinds that this version can prove; `TryFrom<String>` also keeps unknown types.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Selector {
    /// `unix:uid:N`, the effective user id in the initial user namespace.
    UnixUid(u32),
    /// `unix:gid:N`, the effective group id.
    UnixGid(u32),
    /// `unix:user:NAME`.
    UnixUser(Arc<str>),
    /// `unix:group:NAME`.
    UnixGroup(Arc<str>),
    /// `unix:supplementary_gid:N`.
    UnixSupplementaryGid(u32),
    /// `unix:supplementary_group:NAME`.
    UnixSupplementaryGroup(Arc<str>),
    /// `unix:path:P`, the executable's absolute path on the host.
    UnixPath(Arc<str>),
    /// `unix:sha256:HEX`, the digest of the executable's bytes, in lower-case hexadecimal.
    UnixSha256([u8; 32]),
    /// `systemd:id:UNIT`, a unit of the system manager.
    SystemdId(Arc<str>),
    /// `systemd:slice:SLICE`, the slice of the system manager that holds the unit.
    SystemdSlice(Arc<str>),
    /// `cgroup:PATH`, the whole path from the root of the hierarchy, beginning with `/`.
    Cgroup(Arc<str>),
    /// `host:true`: the host's own user, PID and cgroup namespaces, and no container cgroup.
    Host,
    /// `TYPE:VALUE` of a type that this version does not know, as a server of entries sent it. Equal only to itself.
    Other {
        /// The text before the first colon.
        kind: Arc<str>,
        /// The text after it.
        value: Arc<str>,
    },
}

/// The kind of a selector, without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SelectorKind {
    /// See [`Selector::UnixUid`].
    UnixUid,
    /// See [`Selector::UnixGid`].
    UnixGid,
    /// See [`Selector::UnixUser`].
    UnixUser,
    /// See [`Selector::UnixGroup`].
    UnixGroup,
    /// See [`Selector::UnixSupplementaryGid`].
    UnixSupplementaryGid,
    /// See [`Selector::UnixSupplementaryGroup`].
    UnixSupplementaryGroup,
    /// See [`Selector::UnixPath`].
    UnixPath,
    /// See [`Selector::UnixSha256`].
    UnixSha256,
    /// See [`Selector::SystemdId`].
    SystemdId,
    /// See [`Selector::SystemdSlice`].
    SystemdSlice,
    /// See [`Selector::Cgroup`].
    Cgroup,
    /// See [`Selector::Host`].
    Host,
    /// See [`Selector::Other`].
    Other,
}

/// Why a text is not a selector. `at` counts bytes from the start of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSelector {
    /// No colon, or nothing before it.
    #[error("has no kind; write kind:value, for example \"unix:uid:1000\"")]
    NoKind,
    /// This version does not know the kind.
    #[error("has the unknown kind {kind:?}{}", .nearest.map(|n| format!("; did you mean {n:?}?")).unwrap_or_default())]
    UnknownKind {
        /// The text before the value.
        kind: String,
        /// The most similar known kind, at most three edits away.
        nearest: Option<&'static str>,
    },
    /// A known kind whose attestor this version does not have.
    #[error("needs an attestor that this version does not have: {kind:?}")]
    NotBuiltYet {
        /// The kind.
        kind: String,
    },
    /// The value does not have the form that the kind needs.
    #[error("{why}")]
    Value {
        /// Byte offset of the value.
        at: usize,
        /// The form that the kind needs.
        why: &'static str,
    },
    /// More than [`MAX_SELECTOR`] bytes.
    #[error("has {bytes} bytes; at most {MAX_SELECTOR} are allowed")]
    TooLong {
        /// The length of the text.
        bytes: usize,
    },
}

/// Kinds of the product contract that this version cannot prove.
const NOT_BUILT_YET: [&str; 6] = ["docker", "k8s", "cri", "node", "systemd:user-unit", "systemd:fragment_path"];

/// The properties of one kind.
struct KindRow {
    kind: SelectorKind,
    /// The text before the value, without its colon.
    name: &'static str,
    /// Parses the value; the error names the form that it needs.
    parse: fn(&str) -> Result<Selector, &'static str>,
    /// Whether such a fact alone tells a workload from the others on its node (SPEC: product contract §4). For a cgroup
    /// the value counts, too: see [`Selector::is_strong`].
    strong: bool,
    /// The provider that proves it.
    provider: Provider,
}

const fn row(
    kind: SelectorKind,
    name: &'static str,
    parse: fn(&str) -> Result<Selector, &'static str>,
    strong: bool,
    provider: Provider,
) -> KindRow {
    KindRow { kind, name, parse, strong, provider }
}

/// Every kind that this version can prove, in the order of [`Selector`].
static KINDS: [KindRow; 12] = [
    row(SelectorKind::UnixUid, "unix:uid", |v| number(v).map(Selector::UnixUid), true, Provider::KERNEL),
    row(SelectorKind::UnixGid, "unix:gid", |v| number(v).map(Selector::UnixGid), true, Provider::KERNEL),
    row(SelectorKind::UnixUser, "unix:user", |v| name(v).map(Selector::UnixUser), true, Provider::KERNEL),
    row(SelectorKind::UnixGroup, "unix:group", |v| name(v).map(Selector::UnixGroup), true, Provider::KERNEL),
    row(
        SelectorKind::UnixSupplementaryGid,
        "unix:supplementary_gid",
        |v| number(v).map(Selector::UnixSupplementaryGid),
        true,
        Provider::KERNEL,
    ),
    row(
        SelectorKind::UnixSupplementaryGroup,
        "unix:supplementary_group",
        |v| name(v).map(Selector::UnixSupplementaryGroup),
        true,
        Provider::KERNEL,
    ),
    row(SelectorKind::UnixPath, "unix:path", executable_path, false, Provider::PATH),
    row(SelectorKind::UnixSha256, "unix:sha256", sha256, false, Provider::SHA256),
    row(SelectorKind::SystemdId, "systemd:id", |v| name(v).map(Selector::SystemdId), true, Provider::KERNEL),
    row(SelectorKind::SystemdSlice, "systemd:slice", slice, false, Provider::KERNEL),
    row(SelectorKind::Cgroup, "cgroup", cgroup_path, true, Provider::KERNEL),
    row(SelectorKind::Host, "host", host, false, Provider::KERNEL),
];

impl SelectorKind {
    /// The text before the value, without its colon; `other` for kinds that this version does not know.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.row().map_or("other", |row| row.name)
    }

    fn row(self) -> Option<&'static KindRow> {
        KINDS.get(self as usize).filter(|row| row.kind == self)
    }
}

impl Selector {
    /// The kind of this selector.
    #[must_use]
    pub const fn kind(&self) -> SelectorKind {
        match self {
            Self::UnixUid(_) => SelectorKind::UnixUid,
            Self::UnixGid(_) => SelectorKind::UnixGid,
            Self::UnixUser(_) => SelectorKind::UnixUser,
            Self::UnixGroup(_) => SelectorKind::UnixGroup,
            Self::UnixSupplementaryGid(_) => SelectorKind::UnixSupplementaryGid,
            Self::UnixSupplementaryGroup(_) => SelectorKind::UnixSupplementaryGroup,
            Self::UnixPath(_) => SelectorKind::UnixPath,
            Self::UnixSha256(_) => SelectorKind::UnixSha256,
            Self::SystemdId(_) => SelectorKind::SystemdId,
            Self::SystemdSlice(_) => SelectorKind::SystemdSlice,
            Self::Cgroup(_) => SelectorKind::Cgroup,
            Self::Host => SelectorKind::Host,
            Self::Other { .. } => SelectorKind::Other,
        }
    }

    /// The text after the kind and its colon.
    #[must_use]
    pub fn value(&self) -> Cow<'_, str> {
        match self {
            Self::UnixUser(text)
            | Self::UnixGroup(text)
            | Self::UnixSupplementaryGroup(text)
            | Self::UnixPath(text)
            | Self::SystemdId(text)
            | Self::SystemdSlice(text)
            | Self::Cgroup(text)
            | Self::Other { value: text, .. } => Cow::Borrowed(text),
            Self::UnixUid(id) | Self::UnixGid(id) | Self::UnixSupplementaryGid(id) => Cow::Owned(id.to_string()),
            Self::UnixSha256(digest) => Cow::Owned(digest.iter().map(|byte| format!("{byte:02x}")).collect()),
            Self::Host => Cow::Borrowed("true"),
        }
    }

    /// The provider of such facts. For an unknown type it has the name of that type.
    #[must_use]
    pub fn provider(&self) -> Provider {
        match self {
            Self::Other { kind, .. } => Provider::of_type(kind),
            known => known.kind().row().map_or(Provider::KERNEL, |row| row.provider.clone()),
        }
    }

    /// `unix:path:` for a path as the kernel shows it; `None` where a selector must not have that text.
    #[must_use]
    pub fn path(path: &str) -> Option<Self> {
        (path.len() <= MAX_PATH).then(|| executable_path(path).ok()).flatten()
    }

    /// `cgroup:` for a path from the root of the hierarchy; `None` where a selector must not have that text.
    #[must_use]
    pub fn cgroup(path: &str) -> Option<Self> {
        (path.len() <= MAX_PATH).then(|| cgroup_path(path).ok()).flatten()
    }

    /// Whether this fact alone tells a workload from the others on its node (SPEC: product contract §4). Slices, paths,
    /// hashes, the root cgroup and `host:true` do not.
    #[must_use]
    pub fn is_strong(&self) -> bool {
        let strong = self.kind().row().is_some_and(|row| row.strong);
        match self {
            Self::Cgroup(path) => strong && **path != *"/" && !path.ends_with(".slice"),
            _ => strong,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Other { kind, .. } => kind,
            known => known.kind().as_str(),
        };
        write!(f, "{kind}:{}", self.value())
    }
}

impl FromStr for Selector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, InvalidSelector> {
        if text.len() > MAX_SELECTOR {
            return Err(InvalidSelector::TooLong { bytes: text.len() });
        }
        match split_known_kind(text) {
            Some((row, value)) => parse_value(row, text, value),
            None => Err(unknown_kind(text)),
        }
    }
}

/// The known kind that a text begins with, and the value after it.
fn split_known_kind(text: &str) -> Option<(&'static KindRow, &str)> {
    KINDS.iter().find_map(|row| Some((row, text.strip_prefix(row.name)?.strip_prefix(':')?)))
}

fn parse_value(row: &KindRow, text: &str, value: &str) -> Result<Selector, InvalidSelector> {
    let at = text.len() - value.len();
    (row.parse)(value).map_err(|why| InvalidSelector::Value { at, why })
}

/// The error for a text that begins with no known kind.
fn unknown_kind(text: &str) -> InvalidSelector {
    let Some((first, rest)) = text.split_once(':').filter(|(first, _)| !first.is_empty()) else {
        return InvalidSelector::NoKind;
    };
    let kind = match rest.split_once(':') {
        Some((second, _)) => format!("{first}:{second}"),
        None => first.to_owned(),
    };
    if NOT_BUILT_YET.iter().any(|not_yet| *not_yet == first || *not_yet == kind) {
        return InvalidSelector::NotBuiltYet { kind };
    }
    let nearest = KINDS
        .iter()
        .map(|row| (strsim::damerau_levenshtein(&kind, row.name), row.name))
        .min()
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, known)| known);
    InvalidSelector::UnknownKind { kind, nearest }
}

/// A decimal number without leading zeros or a sign; `u32::MAX` is the kernel's "no id".
fn number(text: &str) -> Result<u32, &'static str> {
    let number = text.parse::<u32>().ok().filter(|number| *number != u32::MAX && number.to_string() == text);
    number.ok_or("needs a number from 0 to 4294967294")
}

fn name(text: &str) -> Result<Arc<str>, &'static str> {
    let plain = !text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '/');
    let is_name = !text.is_empty() && text.len() <= 256 && plain;
    if is_name { Ok(text.into()) } else { Err("needs a name of printable characters without spaces or \"/\"") }
}

fn executable_path(text: &str) -> Result<Selector, &'static str> {
    let fits = is_plain_path(text) && text != "/";
    if fits {
        Ok(Selector::UnixPath(text.into()))
    } else {
        Err("needs an absolute path without \"//\", \".\" or \"..\"")
    }
}

fn sha256(text: &str) -> Result<Selector, &'static str> {
    lower_hex(text).map(Selector::UnixSha256).ok_or("needs 64 lower-case hexadecimal digits")
}

fn slice(text: &str) -> Result<Selector, &'static str> {
    if text.ends_with(".slice") {
        name(text).map(Selector::SystemdSlice)
    } else {
        Err("needs a name that ends in .slice")
    }
}

fn cgroup_path(text: &str) -> Result<Selector, &'static str> {
    let fits = is_plain_path(text);
    if fits {
        Ok(Selector::Cgroup(text.into()))
    } else {
        Err("needs a path from the root, for example \"cgroup:/team/web\"")
    }
}

fn host(text: &str) -> Result<Selector, &'static str> {
    if text == "true" { Ok(Selector::Host) } else { Err("has one value: \"host:true\"") }
}

fn is_plain_path(text: &str) -> bool {
    text == "/"
        || text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
            && !text.chars().any(char::is_control)
}

fn lower_hex(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let bytes: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(digest)
}

impl TryFrom<String> for Selector {
    type Error = InvalidSelector;

    /// Parses a selector from a server, or one that [`Display`](fmt::Display) wrote. An unknown type is kept unchanged.
    fn try_from(text: String) -> Result<Self, InvalidSelector> {
        if text.len() > MAX_SELECTOR {
            return Err(InvalidSelector::TooLong { bytes: text.len() });
        }
        if let Some((row, value)) = split_known_kind(&text) {
            return parse_value(row, &text, value);
        }
        let (kind, value) = text.split_once(':').filter(|(kind, _)| !kind.is_empty()).ok_or(InvalidSelector::NoKind)?;
        Ok(Self::Other { kind: kind.into(), value: value.into() })
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> Self {
        selector.to_string()
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

    #[test]
    fn an_unknown_type_is_kept_as_it_was_sent() {
        for text in ["docker:label:com.example.app:web", "k8s:ns:", "systemd:fragment_path:/etc/a.service", "x: y"] {
            let selector = Selector::try_from(text.to_owned()).unwrap();
            assert_eq!(selector.to_string(), text);
            assert!(!selector.is_strong() && text.parse::<Selector>().is_err(), "{text}");
        }
        let label = Selector::try_from("docker:label:a:b".to_owned()).unwrap();
        assert_eq!(label.provider(), Provider::new("docker"));
        for text in ["", "plain", ":value", "unix:uid:x"] {
            assert!(Selector::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
